"""Statements of SQL-level PREPARE, which follow a session from server to server.

They keep the names their client gave them, so errors and pg_prepared_statements read as
they should. A server holds those of one session at a time:

    held       what a server connection has: name -> the PREPARE that made it
    prepares   what a session has; the same objects where the server has them too

Rule 1: when a session gets a server, what that holds of others is deallocated first. The
object decides, not its text: after ALTER TABLE a PREPARE of the same text is another one.
Rule 2: what the server lacks is prepared just before the statement that needs it, so that
an error in it (its table is gone) is the error of that statement and of no other.
Rule 3: neither ROLLBACK nor an error undoes a PREPARE, so a completed one is noted at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.sql.quote import quote_name
from proxy.sql.statement import Kind, Statement

Held = dict[str, Statement]
_BYTES_MAX = 4 * 1024 * 1024


class Prepares:
    """The statements that one session has by PREPARE.

    Args:
        bytes_max: Most bytes of text that are kept to be prepared again.
    """

    def __init__(self, *, bytes_max: int = _BYTES_MAX) -> None:
        self.by_name: Held = {}
        self._bytes_max = bytes_max
        self._bytes = 0

    @property
    def is_too_large(self) -> bool:
        """Whether these are too many to be carried to another server."""
        return self._bytes > self._bytes_max

    def foreign(self, held: Mapping[str, Statement]) -> list[str]:
        """Return the names of what a server holds of other sessions."""
        return [name for name, statement in held.items() if self.by_name.get(name) is not statement]

    def note(self, statement: Statement, held: Held) -> None:
        """Take a completed statement into account."""
        name = statement.prepared_name
        if ends_all(statement):
            self.by_name.clear()
            held.clear()
            self._bytes = 0
        elif name is not None and statement.kind is Kind.PREPARE:
            self._forget(name)
            self.by_name[name] = held[name] = statement
            self._bytes += len(statement.source)
        elif name is not None and statement.kind is Kind.DEALLOCATE:
            self._forget(name)
            held.pop(name, None)

    def _forget(self, name: str) -> None:
        before = self.by_name.pop(name, None)
        if before is not None:
            self._bytes -= len(before.source)


class Replay:
    """What a server lacks, along the statements of one request as they will run."""

    def __init__(self, prepares: Prepares, held: Mapping[str, Statement]) -> None:
        self._known = dict(prepares.by_name)
        self._held = set(held)

    def before(self, statement: Statement) -> tuple[Statement, ...]:
        """Return what must be prepared before a statement that is sent now."""
        name = statement.prepared_name
        found = self._known.get(name) if name is not None else None
        if found is None or name in self._held:
            return ()
        self._held.add(found.prepared_name or "")
        if statement.kind is Kind.DEALLOCATE:
            return (_stand_in(statement),)
        return (found,)

    def follow(self, statement: Statement) -> None:
        """Go on behind a statement: what comes next sees what it did."""
        if ends_all(statement):
            self._known.clear()
            self._held.clear()
        elif statement.kind is Kind.DEALLOCATE and statement.prepared_name is not None:
            self._known.pop(statement.prepared_name, None)
            self._held.discard(statement.prepared_name)


def _stand_in(statement: Statement) -> Statement:
    """Return what is prepared only to be deallocated: what it stands for may not be possible now."""
    source = f"PREPARE {quote_name(statement.prepared_name or '')} AS SELECT 1"
    return Statement(Kind.UTILITY, 0, len(source), source=source)


def ends_all(statement: Statement) -> bool:
    """Return whether a statement drops every prepared statement."""
    if statement.kind is Kind.DEALLOCATE:
        return statement.prepared_name is None
    return statement.kind is Kind.DISCARD and statement.tag == "DISCARD ALL"


def deallocate(names: list[str]) -> list[str]:
    """Return the SQL that drops statements of these names."""
    return [f"DEALLOCATE {quote_name(name)}" for name in names]
