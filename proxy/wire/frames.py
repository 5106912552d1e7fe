"""Split both directions of the byte stream into frames, without decoding them.

Rule 1: nothing in `proxy.wire` reads a socket, a clock or a log.
Rule 2: the frames depend on the bytes only, never on how they were chunked.

After startup every message, in both directions, is:

    offset  size  field
         0     1  type code, for example b"Q"
         1     4  length in bytes, big-endian; counts itself, not the type code
         5     …  body, length - 4 bytes

What a client sends is small and has to be understood, so `FrameDecoder` returns
whole frames. During COPY FROM STDIN it is rows, and goes through a `CopyRelay`.

What a server sends may be gigabytes of rows, so `ServerScanner` looks at five
header bytes of each message and returns *marks*: where the messages lie that are
not rows. Rows are relayed as byte ranges and never become Python objects.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from proxy.errors import ProtocolViolation

# PostgreSQL cannot allocate more than this for one message (MaxAllocSize).
FRAME_LENGTH_MAX = 0x3FFF_FFFF

# A message of a server that is not a row is held until it is whole. The largest
# legitimate one is an error whose text quotes a large value.
_CONTROL_LENGTH_MAX = 64 * 1024 * 1024

_LENGTH = struct.Struct("!I")
_HEADER = struct.Struct("!BI")
_LENGTH_MIN = 4  # the length field counts its own four bytes
_HEADER_SIZE = 5

_DATA_ROW = 0x44  # D
_COPY_DATA = 0x64  # d


class Frame(NamedTuple):
    """One whole message of a client."""

    code: int
    body: bytes

    def encode(self) -> bytes:
        """Return the bytes this frame was read from."""
        return bytes((self.code,)) + _LENGTH.pack(len(self.body) + _LENGTH_MIN) + self.body


Mark = tuple[int, int, int]
"""Where one message of a server that is not a row lies in the scanned buffer: code, start, end.

A plain tuple, because a named one takes four times as long to make, several times a statement.
"""


def encode(code: bytes, body: bytes = b"") -> bytes:
    """Return one message."""
    return code + _LENGTH.pack(len(body) + _LENGTH_MIN) + body


class FrameDecoder:
    """Turn the chunks received from a client into frames, in order.

    Args:
        length_max: Largest length field accepted, in bytes. It bounds what a
            hostile peer can make us hold in memory.
    """

    def __init__(self, *, length_max: int = FRAME_LENGTH_MAX) -> None:
        self.length_max = length_max
        self.pending = bytearray()  # of a message that is not whole yet

    def take_pending(self) -> bytes:
        """Return, and forget, the bytes of a message that is not whole yet."""
        pending = bytes(self.pending)
        self.pending.clear()
        return pending

    def feed(self, chunk: bytes) -> list[Frame]:
        """Add a chunk and return every frame it completes, possibly none.

        Raises:
            ProtocolViolation: The length field is impossible. The stream cannot
                be resynchronised: the caller must close the connection.
        """
        frames: list[Frame] = []
        if self.pending:
            self.pending += chunk
            chunk = bytes(self.pending) if self._is_worth_reading() else b""
            if not chunk:
                return frames
            self.pending.clear()
        start, size = 0, len(chunk)
        while start < size:
            if size - start < _HEADER_SIZE:
                break
            code = chunk[start]
            length = _LENGTH.unpack_from(chunk, start + 1)[0]
            if not _LENGTH_MIN <= length <= self.length_max:
                raise ProtocolViolation(
                    f"impossible length {length} for message {bytes((code,))!r}",
                    hint=f"messages may have up to {self.length_max} bytes (limits.message_bytes_max)",
                )
            end = start + 1 + length
            if end > size:
                break
            frames.append(Frame(code, chunk[start + _HEADER_SIZE : end]))
            start = end
        if start < size:
            self.pending += chunk[start:]
        return frames

    def _is_worth_reading(self) -> bool:
        """Whether the pending bytes hold a whole message.

        Without this look at the length, a large message arriving in small chunks
        would be copied once per chunk: quadratic in its size.
        """
        if len(self.pending) < _HEADER_SIZE:
            return False
        length: int = _LENGTH.unpack_from(self.pending, 1)[0]
        impossible = not _LENGTH_MIN <= length <= self.length_max
        return impossible or len(self.pending) >= 1 + length


class ServerScanner:
    """Find the messages in what a server sends, holding back as little as possible."""

    def __init__(self) -> None:
        self._held = b""  # an incomplete header, or an incomplete message that is not a row
        self._skip = 0  # bytes of a row, already partly handed on, that have not arrived yet

    @property
    def is_between_messages(self) -> bool:
        """Whether every byte received so far belongs to a whole message."""
        return not self._held and not self._skip

    def feed(self, chunk: bytes) -> tuple[bytes, list[Mark]]:
        """Scan a chunk.

        Returns:
            The bytes to hand on (rows possibly cut anywhere), and the marks of
            all whole messages in them that are not rows.

        Raises:
            ProtocolViolation: A length field is impossible; close the connection.
        """
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        marks: list[Mark] = []
        size = len(chunk)
        position = self._skip
        if position > size:
            self._skip = position - size
            return chunk, marks
        unpack = _HEADER.unpack_from
        while position + _HEADER_SIZE <= size:
            code, length = unpack(chunk, position)
            end = position + 1 + length
            if code == _DATA_ROW or code == _COPY_DATA:  # noqa: SIM109 (this line runs once per row)
                if length < _LENGTH_MIN:
                    raise ProtocolViolation(f"server sent a row of length {length}")
                position = end
                continue
            if not _LENGTH_MIN <= length <= _CONTROL_LENGTH_MAX:
                raise ProtocolViolation(f"server sent length {length} for message {bytes((code,))!r}")
            if end > size:
                break
            marks.append((code, position, end))
            position = end
        if position >= size:
            self._skip = position - size
            return chunk, marks
        self._skip = 0
        self._held = chunk[position:]
        return chunk[:position], marks


class CopyRelay:
    """Relay what a client sends during COPY FROM STDIN, and notice where that ends.

    CopyData, CopyDone and CopyFail belong to the COPY, and so do the Sync or Flush
    that the extended protocol sends around them. Anything else is the next request,
    also D, which is a row only when a server sends it.
    """

    _OWN = frozenset(b"dcfSH")

    def __init__(self) -> None:
        self._header = b""  # the beginning of a message whose length is not known yet
        self._skip = 0  # bytes of a message, already partly handed on, that have not arrived yet

    @property
    def is_between_messages(self) -> bool:
        """Whether every byte handed on so far belongs to a whole message."""
        return not self._header and not self._skip

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Return what goes to the server, and what lies behind the COPY.

        Raises:
            ProtocolViolation: A length field is impossible; close the connection.
        """
        chunk, self._header = self._header + chunk, b""
        size, position = len(chunk), self._skip
        while position < size:
            if chunk[position] not in self._OWN:
                self._skip = 0
                return chunk[:position], chunk[position:]
            if position + _HEADER_SIZE > size:
                self._skip = 0
                self._header = chunk[position:]
                return chunk[:position], b""
            length = _LENGTH.unpack_from(chunk, position + 1)[0]
            if length < _LENGTH_MIN:
                raise ProtocolViolation(f"client sent COPY data of length {length}")
            position += 1 + length
        self._skip = position - size
        return chunk, b""
