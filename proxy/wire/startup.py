"""The packets before authentication, which carry no type code.

    offset  size  field
         0     4  length in bytes, big-endian, counts itself
         4     4  code: a protocol version, or one of the special requests below
         8     …  parameters: name \\0 value \\0 … \\0

Sources: "Message Formats" in the protocol chapter; ProcessStartupPacket in
src/backend/tcop/backend_startup.c for the limits and the order of checks.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from proxy.errors import ProtocolViolation
from proxy.wire.frames import encode

STARTUP_LENGTH_MAX = 10_000  # MAX_STARTUP_PACKET_LENGTH
PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = PROTOCOL_3_0 | 2  # PostgreSQL 18: cancel keys may be longer than eight bytes
PROTOCOL_MAX = PROTOCOL_3_2
SECRET_BYTES = 4
LONG_SECRET_BYTES = 32  # as many as PostgreSQL 18 gives

_HEADER = struct.Struct("!II")
_PROCESS_ID = struct.Struct("!I")


class Request(IntEnum):
    """Special codes in the place of a protocol version."""

    CANCEL = 1234 << 16 | 5678
    SSL = 1234 << 16 | 5679
    GSSENC = 1234 << 16 | 5680


class Startup(NamedTuple):
    """A startup packet: the code, and either parameters or a cancel key."""

    code: int
    parameters: dict[str, str]
    cancel_key: bytes = b""  # process id and secret, as the client was given them

    @property
    def unknown_options(self) -> list[str]:
        """Protocol extensions the client asks for; we know none."""
        return [name for name in self.parameters if name.startswith("_pq_.")]

    @property
    def needs_negotiation(self) -> bool:
        """Whether NegotiateProtocolVersion must be sent."""
        return self.code > PROTOCOL_MAX or bool(self.unknown_options)

    @property
    def secret_bytes(self) -> int:
        """How long a cancel key's secret is that the client understands."""
        return LONG_SECRET_BYTES if self.code >= PROTOCOL_3_2 else SECRET_BYTES


def read(buffer: bytes | bytearray) -> tuple[Startup | None, int]:
    """Return the packet at the start of the buffer and its length, or (None, 0) if incomplete.

    Raises:
        ProtocolViolation: No such packet exists; close the connection.
    """
    if len(buffer) < 4:
        return None, 0
    length = int.from_bytes(buffer[:4], "big")
    if not _HEADER.size <= length <= STARTUP_LENGTH_MAX:
        raise ProtocolViolation("invalid length of startup packet")
    if len(buffer) < length:
        return None, 0
    code = _HEADER.unpack_from(buffer)[1]
    body = bytes(buffer[_HEADER.size : length])
    if code == Request.CANCEL:
        return Startup(code, {}, body), length
    if code in (Request.SSL, Request.GSSENC):
        return Startup(code, {}), length
    if code >> 16 != 3:
        raise ProtocolViolation(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}", hint="the proxy speaks 3.0 and 3.2"
        )
    return Startup(code, _parameters(body)), length


def _parameters(body: bytes) -> dict[str, str]:
    parts = body.split(b"\0")
    # n pairs, the terminator, and the empty rest behind it
    if len(parts) % 2 or parts[-1] or parts[-2] or not all(parts[:-2:2]):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    texts = [part.decode(errors="replace") for part in parts[:-2]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def packet(parameters: dict[str, str], version: int = PROTOCOL_3_0) -> bytes:
    """Return the startup packet that opens a server connection."""
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
    return _HEADER.pack(_HEADER.size + len(body), version) + body


def request(code: Request, body: bytes = b"") -> bytes:
    """Return a special request, for example a cancel with its key."""
    return _HEADER.pack(_HEADER.size + len(body), code) + body


def cancel_key(process_id: int, secret: bytes) -> bytes:
    """Return the body that BackendKeyData and CancelRequest share."""
    return _PROCESS_ID.pack(process_id) + secret


def negotiate(asked: Startup) -> bytes:
    """Return NegotiateProtocolVersion: the version we speak with this client, and what we ignore.

    The documentation calls it the minor version, PostgreSQL sends and expects the whole one.
    """
    options = asked.unknown_options
    body = struct.pack("!II", min(asked.code, PROTOCOL_MAX), len(options))
    return encode(b"v", body + b"".join(name.encode() + b"\0" for name in options))
