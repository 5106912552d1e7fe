"""Prepared statements that outlive the server connection they were parsed on.

A client parses a statement once and binds it for as long as it lives. Behind it
the server connection changes after every transaction, and at a switch the whole
cluster does. So a statement is known by three names:

    client name   chosen by the client, private to its session, may be empty
    identity      the query text and its parameter types
    server name   derived from the identity, hence the same on every server

`ClientStatements` maps the first to the second, for one session.
`ServerStatements` remembers which of the third one server connection has parsed.
Both are bounded in bytes of text, not in statements: one generated IN list can be
larger than a thousand ordinary queries.

After ALTER TABLE a server refuses what it parsed before ("cached plan must not change result
type"), and where it parses anew it does not. Clients must be told so by what they know, not by
what a server happened to know: serial numbers say whether a Parse came before the last
change of the schema, and each side keeps a digest of the columns that were told.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Protocol

from proxy.errors import ClientError, DuplicateStatement, UnknownStatement
from proxy.session.prepares import Held
from proxy.wire import messages

UNNAMED = b""
NO_TYPES = b"\0\0"  # the end of a Parse that declares no parameter types
_CLIENT_BYTES_MAX = 64 * 1024 * 1024
_OVERHEAD_BYTES = 200
_KEPT_SHARE = 0.75
_serials = itertools.count(1)

NO_COLUMNS = 0  # of a statement that returns no rows


class Told(Protocol):
    """Whatever has columns that somebody may have been told of."""

    columns: int | None


def next_serial() -> int:
    """Return a number above all given out before: what came first has the lower one."""
    return next(_serials)


def columns_of(row_description: bytes) -> int:
    """Return a digest of what PostgreSQL compares of two results (equalRowTypes): names and types."""
    return hash(tuple((name, fixed[2:5]) for name, fixed in messages.columns(row_description)))


class TooManyStatements(ClientError):
    """A client prepared, or bound to portals, more text than one session may hold."""

    sqlstate = "54000"


class Prepared:
    """What a statement is, whatever anyone calls it.

    Args:
        search_path: On servers: under which it is parsed, so that its names mean one thing.
    """

    __slots__ = ("columns", "parameter_oids", "query", "serial", "server_name")

    def __init__(self, query: bytes, parameter_oids: bytes, search_path: Iterable[str] = ()) -> None:
        self.serial = next_serial()
        self.columns: int | None = None  # that its client was told
        self.query = query
        self.parameter_oids = parameter_oids
        digest = hashlib.blake2b(query, digest_size=12, key=parameter_oids[:64])
        digest.update(parameter_oids)
        digest.update("\0".join(search_path).encode(errors="surrogateescape"))
        self.server_name = b"cf_" + digest.hexdigest().encode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prepared) and self.server_name == other.server_name

    def __hash__(self) -> int:
        return hash(self.server_name)

    @property
    def size_bytes(self) -> int:
        """What holding this statement costs, roughly."""
        return len(self.query) + len(self.parameter_oids) + _OVERHEAD_BYTES


def _shown(name: bytes) -> str:
    return name.decode(errors="replace")


class ClientStatements:
    """The statements one client has parsed, under the names it gave them."""

    def __init__(self, *, bytes_max: int = _CLIENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._by_name: dict[bytes, Prepared] = {}

    def parse(self, name: bytes, statement: Prepared) -> None:
        """Record a Parse. Only the unnamed statement may be replaced.

        Raises:
            DuplicateStatement: The name is taken, as PostgreSQL would report.
            TooManyStatements: The session holds too much already.
        """
        if name != UNNAMED and name in self._by_name:
            raise DuplicateStatement(f'prepared statement "{_shown(name)}" already exists')
        self.close(name)
        size_bytes = len(name) + statement.size_bytes
        if self._bytes + size_bytes > self._bytes_max:
            raise TooManyStatements(
                f"prepared statements of this session exceed {self._bytes_max} bytes",
                hint="close statements that are no longer used",
            )
        self._bytes += size_bytes
        self._by_name[name] = statement

    def close(self, name: bytes) -> None:
        """Record a Close. Closing a name that does not exist is not an error."""
        gone = self._by_name.pop(name, None)
        if gone is not None:
            self._bytes -= len(name) + gone.size_bytes

    def restore(self, name: bytes, statement: Prepared | None) -> None:
        """Undo a Parse or a Close that did not happen: the name stands for what it did before."""
        self.close(name)
        if statement is not None:
            self._bytes += len(name) + statement.size_bytes
            self._by_name[name] = statement

    def clear(self) -> None:
        """Record DEALLOCATE ALL or DISCARD ALL."""
        self._by_name.clear()
        self._bytes = 0

    def resolve(self, name: bytes) -> Prepared:
        """Return the statement a Bind or Describe refers to.

        Raises:
            UnknownStatement: This client never parsed that name, or closed it.
        """
        try:
            return self._by_name[name]
        except KeyError:
            if name == UNNAMED:
                raise UnknownStatement("unnamed prepared statement does not exist") from None
            raise UnknownStatement(f'prepared statement "{_shown(name)}" does not exist') from None

    def get(self, name: bytes) -> Prepared | None:
        """Return the statement of that name, or None."""
        return self._by_name.get(name)


class Portals:
    """The statements that a client has bound in its transaction, by portal."""

    def __init__(self, *, bytes_max: int = _CLIENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._by_name: dict[bytes, Prepared] = {}

    def open(self, name: bytes, statement: Prepared) -> None:
        """Record a Bind; one into a portal that is open replaces it, or fails on the server.

        Raises:
            TooManyStatements: The session holds too much already.
        """
        self.close(name)
        self._bytes += len(name) + statement.size_bytes
        self._by_name[name] = statement
        if self._bytes > self._bytes_max:
            self.close(name)
            raise TooManyStatements(
                f"portals of this session exceed {self._bytes_max} bytes",
                hint="close portals that are no longer used, or end the transaction",
            )

    def get(self, name: bytes) -> Prepared | None:
        """Return the statement of a portal that a Bind has opened, or None."""
        return self._by_name.get(name)

    def close(self, name: bytes) -> None:
        """Record a Close."""
        gone = self._by_name.pop(name, None)
        if gone is not None:
            self._bytes -= len(name) + gone.size_bytes

    def clear(self) -> None:
        """Record the end of the transaction."""
        self._by_name.clear()
        self._bytes = 0


class Parsed:
    """A statement that a server has.

    Args:
        is_doubtful: Its Parse followed a Close that may be skipped together with it.
    """

    __slots__ = ("columns", "is_doubtful", "serial", "size_bytes")

    def __init__(self, size_bytes: int, *, is_doubtful: bool) -> None:
        self.serial = next_serial()
        self.size_bytes = size_bytes
        self.is_doubtful = is_doubtful
        self.columns: int | None = None


class ServerStatements:
    """The statements one server connection holds, least recently used first.

    The unnamed statement is held beside them: it can be replaced at any time, and
    a simple Query destroys it.

    Args:
        bytes_max: Most bytes of query text kept on the server between transactions; it pays a
            multiple of that.
    """

    def __init__(self, *, bytes_max: int) -> None:
        assert bytes_max > 0
        self._bytes_max = bytes_max
        self._bytes = 0
        self._parsed: OrderedDict[bytes, Parsed] = OrderedDict()
        self._brief: list[bytes] = []
        self._stale: set[bytes] = set()  # the server may have them, and they are of no use
        self.unnamed: Prepared | None = None
        self.held: Held = {}  # by SQL-level PREPARE

    def __len__(self) -> int:
        return len(self._parsed)

    def has(self, statement: Prepared) -> bool:
        """Return whether the server can bind it now, and note the use."""
        name = statement.server_name
        if name in self._parsed:
            self._parsed.move_to_end(name)
            return True
        return False

    def suits(self, sent: Prepared, since: int, columns: int | None) -> bool:
        """Return whether the server can bind it for a client as it has it, and note the use.

        Args:
            since: Serial number of the last change of the schema.
            columns: What the client was told and will not be told again.
        """
        found = self._parsed.get(sent.server_name)
        if found is None or found.serial < since or (columns and columns != found.columns):
            return False
        self._parsed.move_to_end(sent.server_name)
        return True

    def parsed(self, sent: Prepared) -> Parsed | None:
        """Return what is known of a statement that the server has."""
        return self._parsed.get(sent.server_name)

    def expire_older(self, sent: Prepared, since: int) -> None:
        """See to it that a statement is parsed anew if that was done before a serial number."""
        found = self._parsed.get(sent.server_name)
        if found is not None and found.serial < since:
            self.expire(sent)

    def is_older(self, sent: Prepared, own: Prepared) -> bool:
        """Return whether the server parsed what is sent for a statement before the client parsed that."""
        found = self._parsed.get(sent.server_name)
        return found is not None and found.serial < own.serial

    def expire(self, statement: Prepared) -> None:
        """Note that what the server parsed is of no use: it must be closed, then parsed anew."""
        if statement.server_name in self._parsed:
            self.forget(statement.server_name)
            self._stale.add(statement.server_name)
        if self.unnamed == statement:
            self.unnamed = None

    def takes_close(self, statement: Prepared) -> bool:
        """Return whether a statement must be closed before it can be parsed; that is being done."""
        return statement.server_name in self._stale

    def add(self, statement: Prepared, *, is_brief: bool = False) -> None:
        """Note that a Parse is being sent.

        Args:
            is_brief: It shall not outlive the transaction, because it means something else to
                another session: what it EXECUTEs.
        """
        if is_brief:
            self._brief.append(statement.server_name)
        assert statement.server_name not in self._parsed
        is_doubtful = statement.server_name in self._stale
        self._stale.discard(statement.server_name)
        self._parsed[statement.server_name] = Parsed(statement.size_bytes, is_doubtful=is_doubtful)
        self._bytes += statement.size_bytes

    def evict(self) -> list[bytes]:
        """Forget the least recently used if there are too many; return their names on the server.

        Called between transactions: in the middle of a batch that fails, what closes them might
        be skipped. A good part goes at once, so that it does not happen for every transaction.
        """
        if not (self._brief or self._stale or self._bytes > self._bytes_max):
            return []
        evicted = [name for name in self._brief if name in self._parsed]
        for name in evicted:
            self.forget(name)
        evicted += [name for name in self._stale if name not in evicted]
        self._brief.clear()
        self._stale.clear()
        if self._bytes <= self._bytes_max:
            return evicted
        while self._bytes > self._bytes_max * _KEPT_SHARE:
            name, parsed = self._parsed.popitem(last=False)
            self._bytes -= parsed.size_bytes
            evicted.append(name)
        return evicted

    def forget(self, name: bytes) -> None:
        """Note that the server refused the Parse, or dropped the statement."""
        if name == UNNAMED:
            self.unnamed = None
        gone = self._parsed.pop(name, None)
        if gone is not None:
            self._bytes -= gone.size_bytes
            if gone.is_doubtful:
                self._stale.add(name)

    def keep(self, prepared: Collection[str], *, has_parsed: bool) -> None:
        """Take the server's word on which statements of PREPARE are left, and whether any others."""
        held = {name: statement for name, statement in self.held.items() if name in prepared}
        if not has_parsed:
            self.clear()
        self.held = held

    def clear(self) -> None:
        """Note that the server dropped everything: DISCARD ALL, DEALLOCATE ALL."""
        self._parsed.clear()
        self._bytes = 0
        self._brief.clear()
        self._stale.clear()
        self.held.clear()
        self.unnamed = None
