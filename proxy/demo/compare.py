"""An own look at both databases, that shares nothing with the proxy's verification.

Every table is read whole, in the order of its key, as `COPY ... TO STDOUT` from both sides
at once, and hashed. Only where the hashes differ are the rows looked at one by one. Meant
for databases at rest: it knows nothing of writes under way.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, NamedTuple

import asyncpg

_TIMEOUT_S = 120
_SHOWN_MAX = 10


class TableComparison(NamedTuple):
    """What the comparison of one table found."""

    table: str
    rows_count: int  # on the first side
    differences: tuple[str, ...]  # keys, with what is wrong; at most 10 are named
    differences_count: int


class _Digest:
    """Counts and hashes the lines of a COPY stream as they come."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b()
        self.rows_count = 0

    async def __call__(self, block: bytes) -> None:
        self.rows_count += block.count(b"\n")  # a line feed inside a value is escaped by COPY
        self._hash.update(block)

    @property
    def summary(self) -> tuple[int, bytes]:
        return self.rows_count, self._hash.digest()


class _Lines:
    """Keeps every line of a COPY stream under its key."""

    def __init__(self, key_count: int) -> None:
        self._key_count = key_count
        self._rest = b""
        self.by_key: dict[bytes, bytes] = {}

    async def __call__(self, block: bytes) -> None:
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            # The key's columns come first, and once more among all columns.
            self.by_key[b",".join(line.split(b"\t", self._key_count)[: self._key_count])] = line


async def compare(first_url: str, second_url: str, keys: dict[str, tuple[str, ...]]) -> list[TableComparison]:
    """Compare every table of `keys` (table -> key columns) in two databases at rest."""
    first, second = await asyncio.gather(_connect(first_url), _connect(second_url))
    try:
        return [await _compare_table(first, second, table, key) for table, key in keys.items()]
    finally:
        await asyncio.gather(first.close(), second.close())


async def _connect(url: str) -> asyncpg.Connection[Any]:
    return await asyncpg.connect(
        url, timeout=_TIMEOUT_S, server_settings={"TimeZone": "UTC", "extra_float_digits": "1"}
    )


async def _compare_table(
    first: asyncpg.Connection[Any], second: asyncpg.Connection[Any], table: str, key: tuple[str, ...]
) -> TableComparison:
    order = ", ".join(key)
    query = f"SELECT * FROM {table} ORDER BY {order}"
    here, there = _Digest(), _Digest()
    await asyncio.gather(_copy(first, query, here), _copy(second, query, there))
    if here.summary == there.summary:
        return TableComparison(table, here.rows_count, (), 0)
    query = f"SELECT {order}, * FROM {table} ORDER BY {order}"
    ours, theirs = _Lines(len(key)), _Lines(len(key))
    await asyncio.gather(_copy(first, query, ours), _copy(second, query, theirs))
    found = [
        f"{name.decode()} {_what(ours.by_key.get(name), theirs.by_key.get(name))}"
        for name in sorted(ours.by_key.keys() | theirs.by_key.keys())
        if ours.by_key.get(name) != theirs.by_key.get(name)
    ]
    return TableComparison(table, here.rows_count, tuple(found[:_SHOWN_MAX]), len(found))


async def _copy(connection: asyncpg.Connection[Any], query: str, output: _Digest | _Lines) -> None:
    await connection.copy_from_query(query, output=output, timeout=_TIMEOUT_S)


def _what(ours: bytes | None, theirs: bytes | None) -> str:
    if ours is None:
        return "only on the second side"
    return "only on the first side" if theirs is None else "differs"
