"""The channels a session listens to, so that it can listen to them on another server.

LISTEN and UNLISTEN take effect when their transaction commits: `channels` is what PostgreSQL
would show in pg_listening_channels(), and what was said since is kept apart until then.
"""

from __future__ import annotations

from proxy.sql.quote import quote_name
from proxy.sql.statement import Kind, Pin, Statement, Unpin

_NONE: frozenset[str] = frozenset()


class Listens:
    """The channels of one session."""

    def __init__(self) -> None:
        self.channels = _NONE
        self.has_changed = False  # since the last transaction that has ended
        self._said = _NONE  # what they will be when the transaction commits
        self._savepoints: list[tuple[str, frozenset[str]]] = []

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits for the end of a transaction."""
        return self._said is self.channels

    def script(self) -> list[str]:
        """Return the SQL that listens to all of them, in an order that does not change."""
        return [f"LISTEN {quote_name(channel)}" for channel in sorted(self.channels)]

    def note(self, statement: Statement) -> None:
        """Take a completed statement into account."""
        self.has_changed |= statement.channel is not None or statement.unpin in (Unpin.LISTEN, Unpin.ALL)
        if statement.pin is Pin.LISTEN and statement.channel is not None:
            self._said |= {statement.channel}
        elif statement.unpin in (Unpin.LISTEN, Unpin.ALL):
            self._said = _NONE
        elif statement.channel is not None:
            self._said -= {statement.channel}
        elif statement.kind in (Kind.COMMIT, Kind.ROLLBACK) and not statement.is_two_phase:
            self._end(is_committed=statement.kind is Kind.COMMIT)
        elif statement.savepoint is not None:
            self._savepoint_moved(statement, statement.savepoint)

    def transaction_ended(self, *, is_committed: bool) -> None:
        """Note that the session is outside any transaction."""
        self.has_changed = False
        self._end(is_committed=is_committed)

    def replace(self, channels: frozenset[str]) -> None:
        """Take the server's word, outside a transaction."""
        self.channels = self._said = channels
        self.has_changed = False

    def _end(self, *, is_committed: bool) -> None:
        if is_committed:
            self.channels = self._said
        self._said = self.channels
        self._savepoints.clear()

    def _savepoint_moved(self, statement: Statement, name: str) -> None:
        """Note SAVEPOINT, RELEASE or ROLLBACK TO: the innermost of that name is meant."""
        if not statement.is_rollback_to and statement.tag == "SAVEPOINT":
            self._savepoints.append((name, self._said))
            return
        while self._savepoints:
            found, said = self._savepoints.pop()
            if found == name:
                if statement.is_rollback_to:
                    self._savepoints.append((name, said))
                    self._said = said
                break
