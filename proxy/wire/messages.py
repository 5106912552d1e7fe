"""Read and write the message bodies that the proxy has to understand.

Readers take the body without its five header bytes and raise ProtocolViolation
when it is malformed. Writers return whole messages, header included.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from proxy.errors import ProtocolViolation, ProxyError
from proxy.wire.frames import encode

PARSE_COMPLETE = encode(b"1")
BIND_COMPLETE = encode(b"2")
CLOSE_COMPLETE = encode(b"3")
NO_DATA = encode(b"n")
EMPTY_QUERY = encode(b"I")
SYNC = encode(b"S")
FLUSH = encode(b"H")
TERMINATE = encode(b"X")
AUTHENTICATION_OK = encode(b"R", b"\0\0\0\0")

_INT16 = struct.Struct("!H")
_COLUMN = struct.Struct("!IHIHIH")


class Parse(NamedTuple):
    """A client's Parse."""

    name: bytes
    query: bytes
    parameter_oids: bytes  # the rest of the body as it came: count and OIDs

    def encode_as(self, name: bytes) -> bytes:
        """Return the message under another statement name."""
        return encode(b"P", b"%b\0%b\0%b" % (name, self.query, self.parameter_oids))


def _cut(body: bytes, start: int) -> tuple[bytes, int]:
    """Return the zero-terminated bytes at `start`, and where the rest begins."""
    end = body.find(b"\0", start)
    if end < 0:
        raise ProtocolViolation("a string in the message is not terminated")
    return body[start:end], end + 1


def read_query(body: bytes) -> bytes:
    """Return the text of a simple Query."""
    if body[-1:] != b"\0":
        raise ProtocolViolation("the text of the query is not terminated")
    return body[:-1]


def read_execute(body: bytes) -> bytes:
    """Return the portal of an Execute."""
    return _cut(body, 0)[0]


def read_parse(body: bytes) -> Parse:
    """Return the name, text and parameter types of a Parse."""
    name, at = _cut(body, 0)
    query, at = _cut(body, at)
    return Parse(name, query, body[at:])


def read_bind(body: bytes) -> tuple[bytes, bytes, int]:
    """Return the portal, the statement, and the offset where the rest of a Bind begins."""
    portal, at = _cut(body, 0)
    statement, at = _cut(body, at)
    return portal, statement, at


def read_target(body: bytes) -> tuple[int, bytes]:
    """Return the kind (ord of S or P) and the name in a Describe or Close."""
    if not body or body[0] not in b"SP":
        raise ProtocolViolation("Describe and Close take a statement or a portal")
    return body[0], _cut(body, 1)[0]


def bind(portal: bytes, statement: bytes, rest: bytes) -> bytes:
    """Return a Bind; `rest` is everything behind the two names."""
    return encode(b"B", b"%b\0%b\0%b" % (portal, statement, rest))


def describe_statement(name: bytes) -> bytes:
    """Return a Describe of a prepared statement."""
    return encode(b"D", b"S%b\0" % name)


def describe_portal(name: bytes = b"") -> bytes:
    """Return a Describe of a portal."""
    return encode(b"D", b"P%b\0" % name)


def close_statement(name: bytes) -> bytes:
    """Return a Close of a prepared statement."""
    return encode(b"C", b"S%b\0" % name)


def execute(portal: bytes = b"") -> bytes:
    """Return an Execute of a portal, without a row limit."""
    return encode(b"E", b"%b\0\0\0\0\0" % portal)


def query(text: bytes) -> bytes:
    """Return a simple Query."""
    return encode(b"Q", text + b"\0")


def ready(status: int) -> bytes:
    """Return a ReadyForQuery with a transaction status (ord of I, T or E)."""
    return encode(b"Z", bytes((status,)))


def parameter_status(name: str, value: str) -> bytes:
    """Return a ParameterStatus."""
    return encode(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def read_parameter_status(body: bytes) -> tuple[str, str]:
    """Return the name and value in a ParameterStatus."""
    name, at = _cut(body, 0)
    value, _ = _cut(body, at)
    return name.decode(errors="replace"), value.decode(errors="replace")


def read_error(body: bytes, *, errors: str = "replace") -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse by their one-letter code.

    Args:
        errors: How bytes that are not UTF-8 are decoded; with `surrogateescape` they are
            encoded again by `error`.
    """
    fields = {}
    for part in body.split(b"\0"):
        if part:
            fields[chr(part[0])] = part[1:].decode(errors=errors)
    return fields


def error(fields: dict[str, str]) -> bytes:
    """Return an ErrorResponse; the inverse of `read_error`."""
    body = "".join(f"{code}{value}\0" for code, value in fields.items())
    return encode(b"E", body.encode(errors="surrogateescape") + b"\0")


def error_of(problem: ProxyError) -> bytes:
    """Return the ErrorResponse that tells a client of an error of ours."""
    fields = {"S": problem.severity, "V": problem.severity, "C": problem.sqlstate, "M": str(problem)}
    if problem.hint:
        fields["H"] = problem.hint
    if problem.routine:
        fields["R"] = problem.routine
    return error(fields)


def sqlstate(body: bytes) -> str:
    """Return the SQLSTATE of an ErrorResponse body without decoding the rest; "" if it has none."""
    for field in body.split(b"\0"):
        if field[:1] == b"C":
            return field[1:].decode(errors="replace")
        if not field:
            break
    return ""


def is_fatal(body: bytes) -> bool:
    """Return whether an ErrorResponse ends the connection."""
    return b"\0VFATAL\0" in body or b"\0VPANIC\0" in body


def retag(tag_body: bytes, tag: str) -> bytes:
    """Return a CommandComplete whose words are replaced and whose row count is kept.

    `INSERT` has an OID field before its count (always 0 since PostgreSQL 12).
    """
    count = tag_body[tag_body.rfind(b" ") + 1 :]  # with the zero behind it
    return encode(b"C", (b"INSERT 0 " if tag == "INSERT" else tag.encode() + b" ") + count)


def columns_count(row_description_body: bytes) -> int:
    """Return how many columns a RowDescription describes.

    Raises:
        ProtocolViolation: It does not say.
    """
    if len(row_description_body) < _INT16.size:
        raise ProtocolViolation("server sent an empty RowDescription")
    count: int = _INT16.unpack_from(row_description_body)[0]
    return count


def columns(row_description_body: bytes) -> list[tuple[bytes, tuple[int, ...]]]:
    """Return the columns a RowDescription describes: each a name, and what has a fixed size.

    That is table OID, attribute, type OID, size, modifier, format.

    Raises:
        ProtocolViolation: It ends before all of them are described.
    """
    found = []
    at = _INT16.size
    for _ in range(columns_count(row_description_body)):
        end = row_description_body.find(b"\0", at)
        if end < 0 or len(row_description_body) <= end + _COLUMN.size:
            raise ProtocolViolation("server sent half a RowDescription")
        found.append((row_description_body[at:end], _COLUMN.unpack_from(row_description_body, end + 1)))
        at = end + 1 + _COLUMN.size
    return found


def column(name: bytes, fixed: tuple[int, ...]) -> bytes:
    """Return the part of a RowDescription that describes one column; the inverse of `columns`."""
    return name + b"\0" + _COLUMN.pack(*fixed)


def read_data_row(body: bytes) -> list[str | None]:
    """Return the values of a DataRow in text format; None is NULL.

    Raises:
        ProtocolViolation: It is too short to be one.
    """
    if len(body) < _INT16.size:
        raise ProtocolViolation("server sent an empty DataRow")
    values: list[str | None] = []
    at = _INT16.size
    for _ in range(_INT16.unpack_from(body)[0]):
        length = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode(errors="replace"))
        at += max(length, 0)
    return values
