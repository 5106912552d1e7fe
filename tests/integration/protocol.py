"""A client that speaks the protocol message by message, and writes down every answer.

Messages are built here and not with `proxy.wire`, so that a mistake there cannot hide itself.
An answer is a list of lines, one for each message, made to be compared: what must differ
between two connections (process ids, source lines of errors) is masked, nothing else is.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Self

_TIMEOUT_S = 10.0
_PROTOCOL_3_0 = 3 << 16
_CANCEL = 1234 << 16 | 5678
_SOURCE_FIELDS = "FLR"  # file, line and routine of PostgreSQL's own source: errors of ours have none
_ENDS = {"P": "1", "B": "2", "C": "3", "D": "Tn", "E": "CIsG"}
_FIRST_USER_OID = 16384


class Message(NamedTuple):
    """One whole message."""

    code: str
    body: bytes

    def encode(self) -> bytes:
        """Return its bytes."""
        return self.code.encode() + struct.pack("!I", len(self.body) + 4) + self.body


def query(text: str | bytes) -> Message:
    """Return a simple Query."""
    return Message("Q", _zero(text))


def parse(text: str | bytes, name: str = "", types: Sequence[int] = ()) -> Message:
    """Return a Parse."""
    return Message("P", _zero(name) + _zero(text) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    *values: str | bytes | None, name: str = "", portal: str = "", binary: bool = False, results: int = 0
) -> Message:
    """Return a Bind; `results` is the format of all columns: 0 text, 1 binary."""
    body = _zero(portal) + _zero(name) + struct.pack("!HHH", 1, int(binary), len(values))
    for value in values:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            encoded = value.encode() if isinstance(value, str) else value
            body += struct.pack("!i", len(encoded)) + encoded
    return Message("B", body + struct.pack("!HH", 1, results))


def describe(kind: str, name: str = "") -> Message:
    """Return a Describe: kind S for a statement, P for a portal."""
    return Message("D", kind.encode() + _zero(name))


def execute(portal: str = "", limit: int = 0) -> Message:
    """Return an Execute; no limit is 0."""
    return Message("E", _zero(portal) + struct.pack("!i", limit))


def close(kind: str, name: str = "") -> Message:
    """Return a Close."""
    return Message("C", kind.encode() + _zero(name))


def copy_data(data: str | bytes) -> Message:
    """Return a CopyData."""
    return Message("d", data.encode() if isinstance(data, str) else data)


def copy_fail(reason: str) -> Message:
    """Return a CopyFail."""
    return Message("f", _zero(reason))


SYNC = Message("S", b"")
FLUSH = Message("H", b"")
COPY_DONE = Message("c", b"")


def run(text: str | bytes, *values: str | None, limit: int = 0) -> list[Message]:
    """Return what a driver sends for one statement: everything but the Sync."""
    return [parse(text), bind(*values), describe("P"), execute(limit=limit)]


class Raw:
    """One connection.

    Args:
        tables: OIDs of tables and types that both sides know; others are shown as `?`.
    """

    def __init__(
        self,
        port: int,
        database: str,
        *,
        user: str = "postgres",
        tables: Collection[int] = (),
        **parameters: str,
    ) -> None:
        self._tables = tables
        self._buffer = b""
        self._owed_readies = 0
        self._is_extended = False
        self.cancel_key = b""
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = struct.pack("!I", _PROTOCOL_3_0)
        for key, value in {"user": user, "database": database, **parameters}.items():
            body += _zero(key) + _zero(value)
        self.socket.sendall(struct.pack("!I", len(body) + 5) + body + b"\0")
        self._owed_readies = 1
        self.greeting = self.answer()

    def ask(self, messages: Iterable[Message], *, readies: int | None = None) -> list[str]:
        """Send messages at once and return their answer.

        Args:
            readies: How many ReadyForQuery will come, where that is not one for each Query and Sync.
        """
        sent = list(messages)
        self.socket.sendall(b"".join(message.encode() for message in sent))
        ends = sum(message.code in "QSF" for message in sent)
        self._owed_readies += ends if readies is None else readies
        steps = [message.code for message in sent if message.code in _ENDS]
        return self.answer(steps if not self._owed_readies else ())

    def answer(self, steps: Sequence[str] = ()) -> list[str]:
        """Read until nothing is owed: every ReadyForQuery, or before a Flush the end of each step."""
        lines: list[str] = []
        left = list(steps)
        while self._owed_readies or left:
            lines.append(self.line())
            code = lines[-1][0]
            if code == "Z":
                self._owed_readies -= 1
            elif code == "G" or (code == "E" and not self._owed_readies):
                break  # it is our turn; or nothing more will come before a Sync
            elif left and code in _ENDS[left[0]]:
                left.pop(0)
        return lines

    def line(self) -> str:
        """Return the next message, written down."""
        return self._line(*self.receive())

    def receive(self) -> tuple[str, bytes]:
        """Return the next message.

        Raises:
            EOFError: The connection has ended.
        """
        while len(self._buffer) < 5 or len(self._buffer) < 1 + self._length():
            received = self.socket.recv(65536)
            if not received:
                raise EOFError("the connection has ended")
            self._buffer += received
        end = 1 + self._length()
        code, body = chr(self._buffer[0]), self._buffer[5:end]
        self._buffer = self._buffer[end:]
        if code == "K":
            self.cancel_key = body
        return code, body

    def cancel(self) -> None:
        """Send a CancelRequest over a connection of its own, and wait until it was taken."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_TIMEOUT_S) as other:
            other.sendall(struct.pack("!II", 16, _CANCEL) + self.cancel_key)
            assert other.recv(1) == b""

    def close(self) -> None:
        """End the connection as a client should."""
        self.socket.sendall(Message("X", b"").encode())
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _length(self) -> int:
        return int.from_bytes(self._buffer[1:5], "big")

    def _line(self, code: str, body: bytes) -> str:
        """Write down one message, masked."""
        if code in "EN":
            return f"{code} {_fields(body)}"
        if code == "T":
            return f"T {_columns(body, self._tables)}"
        if code == "t":
            (count,) = struct.unpack_from("!H", body)
            types = struct.unpack_from(f"!{count}I", body, 2)
            return f"t {[_known(oid, self._tables) for oid in types]}"
        if code == "D":
            return f"D {_values(body)}"
        if code == "A":
            return f"A {body[4:]!r}"
        if code == "K":
            return "K"
        return f"{code} {body!r}"


class Disturber:
    """Takes the idle server that would be lent next, so that a session finds another one each time."""

    def __init__(self, connect: Callable[[], Raw]) -> None:
        self._held, self._free = connect(), connect()
        self._held.ask([query("BEGIN; SELECT 1")])

    def disturb(self) -> None:
        """Take one server, and give the one taken before back."""
        self._free.ask([query("BEGIN; SELECT 1")])
        self._held.ask([query("ROLLBACK")])
        self._held, self._free = self._free, self._held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (self._held, self._free):
            connection.socket.close()


def _zero(text: str | bytes) -> bytes:
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def _fields(body: bytes) -> dict[str, str]:
    fields = {chr(part[0]): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return {code: text for code, text in sorted(fields.items()) if code not in _SOURCE_FIELDS}


def _known(oid: int, tables: Collection[int]) -> int | str:
    return oid if oid < _FIRST_USER_OID or oid in tables else "?"


def _columns(body: bytes, tables: Collection[int]) -> str:
    columns = []
    at = 2
    while at < len(body):
        end = body.index(b"\0", at)
        table, number, type_, size, modifier, format_ = struct.unpack_from("!IhIhih", body, end + 1)
        name = body[at:end].decode(errors="replace")
        columns.append(
            f"{name}: type {_known(type_, tables)} ({size}, {modifier}) "
            f"of {_known(table, tables)}.{number} format {format_}"
        )
        at = end + 19
    return "; ".join(columns)


def _values(body: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    at = 2
    while at < len(body):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length])
        at += max(length, 0)
    return values
