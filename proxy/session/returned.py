"""The keys of changed rows, cut off the rows that a statement returns (the split form).

A statement in the split form returns, behind what its client asked for, the key of every row it
changes. The client gets its own columns, if it asked for any; the keys are kept until the
entries for them are written, in the same transaction. This is the one place where something is
done for each row, and it is for clusters that leave no other way.

Keys are kept up to a limit. Beyond it the whole table is to be compared.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_KEYS_MAX = 20_000
_HEADER_SIZE = 5
_COUNT = struct.Struct("!H")
_LENGTH = struct.Struct("!i")


class Keys(NamedTuple):
    """What a statement returns behind its client's columns."""

    table_id: int
    kind: str  # of the entries
    columns_count: int
    is_bare: bool  # its client asked for no rows


Key = tuple[bytes | None, ...]


class Returned:
    """What one execution returned, as far as it has come.

    Args:
        is_counted: Other means see what changes: the keys are only cut off.
    """

    def __init__(self, keys: Keys, *, is_counted: bool = False) -> None:
        self.keys = keys
        self.found: list[Key] = []
        self.is_whole = False  # the keys are not all: the table is to be compared
        self.is_counted = is_counted
        self._partial = b""  # of a row that has not arrived to its end

    def feed(self, data: bytes) -> bytes:
        """Take rows, cut anywhere, and return what the client gets of them."""
        data, out, position = self._partial + data, [], 0
        while position + _HEADER_SIZE <= len(data):
            end = position + 1 + int(_LENGTH.unpack_from(data, position + 1)[0])
            if end > len(data):
                break
            out.append(self._cut(data[position:end]))
            position = end
        self._partial = data[position:]
        return b"".join(out)

    def _cut(self, row: bytes) -> bytes:
        """Keep the key of a DataRow, and return it without."""
        columns_count = _COUNT.unpack_from(row, _HEADER_SIZE)[0] - self.keys.columns_count
        at = _HEADER_SIZE + _COUNT.size
        for _ in range(columns_count):
            at += _LENGTH.size + max(0, _LENGTH.unpack_from(row, at)[0])
        if not (self.is_counted or self.is_whole):
            self.found.append(_values(row, at, self.keys.columns_count))
            self.is_whole = len(self.found) >= _KEYS_MAX
        if self.keys.is_bare:
            return b""
        length = _LENGTH.pack(at - 1)
        return row[:1] + length + _COUNT.pack(columns_count) + row[_HEADER_SIZE + _COUNT.size : at]


def _values(row: bytes, at: int, count: int) -> Key:
    values: list[bytes | None] = []
    for _ in range(count):
        length = _LENGTH.unpack_from(row, at)[0]
        at += _LENGTH.size
        values.append(None if length < 0 else row[at : at + length])
        at += max(0, length)
    return tuple(values)
