"""Chunks: where the history is cut, in which order it is copied, and what is already done.

Chunks live in crossfade.chunk on the target, so that marking one migrated is part of the
transaction that copied it. Those of a table are numbered from 0 in key order. The first is
open below and the last open above, so every row belongs to one, whenever it was
inserted; an empty table has one chunk, and so has a table without a key.

Planning reads the key's index, a stretch at a time, and stores each stretch in one
transaction. It goes on behind the last stored chunk after a restart; a table is planned
when its last chunk, the one without upper bound, is there.

`order_by` ranks chunks by the best row in them. Chunks are key ranges, so rows do not come
in exactly that order, but the chunk with the most active user comes first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import asyncpg

from proxy.catalog.bounds import (
    Key,
    Range,
    cut,
    key_array,
    key_columns,
    key_parameter,
    nameless_rows,
    rows_from,
)
from proxy.catalog.model import Table
from proxy.ledger import lease as leases
from proxy.ledger.lease import Lease
from proxy.sql.quote import quote_name

# A stretch of planning: long enough to be quick, short enough to hold no snapshot for long.
_STRETCH_CHUNKS = 200
_STRETCH_ROWS_MAX = 500_000
RUN_CHUNKS_MAX = 1000
RUN_S = 0.5

_ORDER = re.compile(
    r"(?P<expression>.+?)(?:\s+(?P<direction>ASC|DESC))?(?:\s+NULLS\s+(?P<nulls>FIRST|LAST))?",
    re.IGNORECASE | re.DOTALL,
)


class Chunk(NamedTuple):
    """A chunk that waits to be copied."""

    number: int
    bounds: Range


class Stretch(NamedTuple):
    """What planning one stretch stored; `is_last`: the table is planned."""

    chunks_count: int
    is_last: bool


class Order(NamedTuple):
    """One expression that ranks rows."""

    expression: str
    direction: str  # ASC or DESC
    nulls: str  # FIRST or LAST

    @property
    def suffix(self) -> str:
        """What follows the expression in ORDER BY."""
        return f"{self.direction} NULLS {self.nulls}"


class Progress(NamedTuple):
    """How far the backfill of one table is."""

    chunks_count: int = 0
    migrated_count: int = 0
    rows_count: int = 0  # copied
    is_planned: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every chunk was copied."""
        return self.is_planned and self.migrated_count == self.chunks_count

    @property
    def ratio(self) -> float:
        """The share of chunks that were copied."""
        return self.migrated_count / self.chunks_count if self.chunks_count else 0.0


def parse_order(order_by: str) -> Order:
    """Return the first expression of an ORDER BY list; the others would only decide ties.

    NULLs come last unless the text says otherwise: a user who never logged in is not the
    most active one, although PostgreSQL sorts NULL first under DESC.

    Raises:
        ValueError: There is no expression.
    """
    matched = _ORDER.fullmatch(_first_item(order_by).strip())
    if matched is None:
        raise ValueError(f"order_by names nothing to sort by: {order_by!r}")
    direction, nulls = matched["direction"] or "ASC", matched["nulls"] or "LAST"
    return Order(matched["expression"], direction.upper(), nulls.upper())


def _first_item(listed: str) -> str:
    """Return the text up to the first comma outside of parentheses, brackets and quotes."""
    depth, quote = 0, ""
    for position, character in enumerate(listed):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and depth == 0:
            return listed[:position]
    return listed


def next_run(pending: Sequence[Chunk]) -> list[Chunk]:
    """Return the first chunk with those next to it, in key order: one range for one COPY.

    Args:
        pending: The chunks that should come next, best first, no more than may be taken.
    """
    by_number = {chunk.number: chunk for chunk in pending}
    first = last = pending[0].number
    while first - 1 in by_number:
        first -= 1
    while last + 1 in by_number:
        last += 1
    return [by_number[number] for number in range(first, last + 1)]


def joined(run: Sequence[Chunk]) -> Range:
    """Return the range of adjacent chunks."""
    return Range(run[0].bounds.lo, run[-1].bounds.hi)


def next_size(chunks_count: int, seconds: float) -> int:
    """Return how many chunks to take at once, given how long the last run of so many took.

    It at most doubles or halves: one slow commit, or one stretch of wide rows, says little.
    """
    wanted = chunks_count * RUN_S / max(seconds, 0.001)
    return round(min(max(wanted, chunks_count / 2, 1), chunks_count * 2, RUN_CHUNKS_MAX))


def cut_ranked(table: Table, order: Order, *, has_lo: bool) -> str:
    """Return the query for the next bounds after a key, each with the best value in its chunk.

    Parameters as in `bounds.cut`. The last row may be the end of a chunk that is not full:
    `is_full` says so.
    """
    columns = key_columns(table)
    after = f"WHERE ({columns}) > ({key_parameter(table, 3)})" if has_lo else ""
    return (
        f"SELECT {key_array(table)} AS hi, crossfade_best::text AS best,"
        " crossfade_n % $1::bigint = 0 AS is_full"
        f" FROM (SELECT *, first_value(crossfade_value) OVER (PARTITION BY (crossfade_n - 1) / $1::bigint"
        f" ORDER BY crossfade_value {order.suffix}) AS crossfade_best, count(*) OVER () AS crossfade_count"
        f" FROM (SELECT *, row_number() OVER (ORDER BY {columns}) AS crossfade_n"
        f" FROM (SELECT {columns}, ({order.expression}) AS crossfade_value FROM {rows_from(table)} {after}"
        f" ORDER BY {columns} LIMIT $2::bigint) AS head) AS numbered) AS ranked"
        " WHERE crossfade_n % $1::bigint = 0 OR crossfade_n = crossfade_count ORDER BY crossfade_n"
    )


async def plan_stretch(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    lease: Lease,
    table: Table,
    *,
    chunk_rows: int,
    order_by: str | None,
) -> Stretch:
    """Store the next chunks of a table that is not planned to its end.

    Raises:
        LeaseLost: Another process owns the engine; nothing is stored.
        ValueError: `order_by` cannot be read, or the key does not name every row.
        asyncpg.PostgresError: A cluster refused, for instance because of `order_by`.
    """
    order = parse_order(order_by) if order_by and table.key else None
    nameless = nameless_rows(table)
    if nameless and await source.fetchval(nameless):
        raise ValueError(f"it has rows whose key ({', '.join(table.nullable_key)}) is NULL")
    last = await target.fetchrow(
        "SELECT number, hi FROM crossfade.chunk WHERE tbl = $1 ORDER BY number DESC LIMIT 1", table.id
    )
    number, lo = (0, None) if last is None else (last["number"] + 1, tuple(last["hi"]))
    count = min(_STRETCH_CHUNKS, max(1, _STRETCH_ROWS_MAX // chunk_rows))
    cuts = await _cut(source, table, order, lo, chunk_rows, count)
    is_last = sum(is_full for _, _, is_full in cuts) < count
    if is_last:
        # The last chunk is open; what is left in the table ranks it.
        tail = next((best for _, best, is_full in cuts if not is_full), None)
        cuts = [*(found for found in cuts if found[2]), (None, tail, True)]
    records = []
    for hi, best, _ in cuts:
        records.append((table.id, number, lo, hi, number, best))
        number, lo = number + 1, hi
    async with target.transaction():
        await leases.check(target, lease, is_target=True)
        await target.copy_records_to_table(
            "chunk",
            schema_name="crossfade",
            columns=["tbl", "number", "lo", "hi", "rank", "best"],
            records=records,
        )
        if is_last and order is not None:
            await _rank(source, target, table, order)
    return Stretch(len(records), is_last)


async def _cut(
    source: asyncpg.Connection, table: Table, order: Order | None, lo: Key | None, rows: int, count: int
) -> list[tuple[Key | None, str | None, bool]]:
    """Return the next bounds: upper bound, best value, and whether the chunk is full."""
    if not table.key:
        return []
    parameters: list[object] = [rows, rows * count] if lo is None else [rows, rows * count, lo]
    if order is None:
        found = await source.fetch(cut(table, has_lo=lo is not None), *parameters)
        return [(tuple(row[0]), None, True) for row in found]
    found = await source.fetch(cut_ranked(table, order, has_lo=lo is not None), *parameters)
    return [(tuple(row["hi"]), row["best"], row["is_full"]) for row in found]


async def _rank(source: asyncpg.Connection, target: asyncpg.Connection, table: Table, order: Order) -> None:
    """Rank a table's chunks by their best values, compared as values of the expression's type."""
    asked = await source.prepare(f"SELECT ({order.expression}) FROM {rows_from(table)}")
    kind = asked.get_attributes()[0].type
    # A type that the target may not have is compared as text.
    cast = f"pg_catalog.{quote_name(kind.name)}" if kind.schema == "pg_catalog" else "text"
    await target.execute(
        "UPDATE crossfade.chunk AS c SET rank = r.rank FROM (SELECT number, row_number() OVER"
        f" (ORDER BY best::{cast} {order.suffix}, number) AS rank FROM crossfade.chunk WHERE tbl = $1) AS r"
        " WHERE c.tbl = $1 AND c.number = r.number",
        table.id,
    )


async def pending(target: asyncpg.Connection, table: Table, count_max: int) -> list[Chunk]:
    """Return the chunks that come next, best first."""
    found = await target.fetch(
        "SELECT number, lo, hi FROM crossfade.chunk WHERE tbl = $1 AND migrated_at IS NULL"
        " ORDER BY rank LIMIT $2",
        table.id,
        count_max,
    )
    return [Chunk(row["number"], Range(_key(row["lo"]), _key(row["hi"]))) for row in found]


def mark(table: Table, run: Sequence[Chunk], rows_count: int) -> str:
    """Return the SQL that marks a run migrated; its rows are counted at its first chunk."""
    first, last = run[0].number, run[-1].number
    return (
        "UPDATE crossfade.chunk SET migrated_at = clock_timestamp(),"
        f" rows_count = CASE WHEN number = {first} THEN {rows_count} ELSE 0 END"
        f" WHERE tbl = {table.id} AND number BETWEEN {first} AND {last}"
    )


async def left(target: asyncpg.Connection, table_ids: Collection[int]) -> int | None:
    """Return how many chunks of these tables wait to be copied; None while one is not planned."""
    row = await target.fetchrow(
        "SELECT count(*) FILTER (WHERE migrated_at IS NULL) AS waiting,"
        " count(*) FILTER (WHERE hi IS NULL) AS planned FROM crossfade.chunk WHERE tbl = ANY ($1::int[])",
        list(table_ids),
    )
    assert row is not None, "an aggregate returns one row"
    return row["waiting"] if row["planned"] == len(set(table_ids)) else None


async def progress(target: asyncpg.Connection) -> dict[int, Progress]:
    """Return the progress of every table that has chunks, by table id; it reads all chunks."""
    found = await target.fetch(
        "SELECT tbl, count(*) AS chunks, count(migrated_at) AS migrated, sum(rows_count)::bigint AS rows,"
        " bool_or(hi IS NULL) AS is_planned FROM crossfade.chunk GROUP BY tbl"
    )
    return {
        row["tbl"]: Progress(row["chunks"], row["migrated"], row["rows"], row["is_planned"]) for row in found
    }


async def reset(target: asyncpg.Connection) -> None:
    """Make every chunk wait again: writes went by uncaptured, so none can be trusted."""
    await target.execute(
        "UPDATE crossfade.chunk SET migrated_at = NULL, rows_count = 0 WHERE migrated_at IS NOT NULL"
    )
    await target.execute("DELETE FROM crossfade.verification")


def _key(stored: list[str] | None) -> Key | None:
    return None if stored is None else tuple(stored)
