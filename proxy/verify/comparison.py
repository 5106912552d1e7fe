"""One table on both sides: from digests of ranges down to the rows that differ.

`run` spreads the ranges over the connections it is given. What looks different becomes a
suspect at once and is judged by the rule of `ranges`: a first time where it was found, then
together with all others at the end of the table, when converge has had time to come by.
What the ledger still explains then is counted as pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg

from proxy.catalog.bounds import EVERYTHING, Key, Range, cut
from proxy.verify import digest
from proxy.verify.digest import Shape
from proxy.verify.ranges import (
    Difference,
    Digest,
    Row,
    Sighting,
    Verdict,
    batches,
    buckets_count,
    describe,
    differing,
    judge,
    plan,
)
from proxy.verify.report import TableReport

# Bounds are looked for in stretches of this many ranges, so that no statement is long.
_CUT_RANGES = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a verification may take."""

    range_rows: int = 10_000
    connections_max: int = 2  # per side
    buckets_at_once: int = 4  # about 400 row hashes in Python
    keys_at_once: int = 200
    differences_max: int = 1000  # per table; beyond it the table is cut short
    # Waits before suspects are looked at again, long enough for a few passes of converge.
    waits_s: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 2.0)
    statement_timeout_s: float = 600.0


class Pair(NamedTuple):
    """A connection to each side, used for one range at a time."""

    source: asyncpg.Connection
    target: asyncpg.Connection


Query = tuple[str, list[object]]


class Comparison:
    """The state of comparing one table."""

    def __init__(self, name: str, source: Shape, target: Shape, limits: Limits) -> None:
        self._name = name
        self._source = source
        self._target = target
        self._limits = limits
        self._rows_count = 0
        self._suspects: dict[Key, Sighting] = {}  # with what was seen of each last
        self._found: list[Difference] = []
        self._pending_count = 0  # of suspects that were not kept
        self._is_cut_short = False

    async def run(self, pairs: Sequence[Pair]) -> TableReport:
        """Compare the whole table; the first pair is used alone before and after the others."""
        ranges = await self._plan(pairs[0])
        # A range is read through the key's index, whatever the estimate: for a composite key
        # it looks at the first column only, and would read the whole table for every range.
        is_whole = ranges == [EVERYTHING]
        for connection in (side for pair in pairs for side in pair):
            await connection.execute(f"SET enable_seqscan = {'on' if is_whole else 'off'}")
        remaining = iter(ranges)
        async with asyncio.TaskGroup() as group:
            for pair in pairs:
                group.create_task(self._work(pair, remaining))
        await self._settle(pairs[0])
        return TableReport(
            self._name,
            self._rows_count,
            tuple(sorted(self._found)),
            self._pending_count + len(self._suspects),
            self._is_cut_short,
        )

    async def _plan(self, pair: Pair) -> list[Range]:
        rows, bounds = self._limits.range_rows, list[Key]()
        while True:
            text = cut(self._source.table, has_lo=bool(bounds))
            found = await pair.source.fetch(text, rows, rows * _CUT_RANGES, *bounds[-1:])
            bounds += [tuple(row[0]) for row in found]
            if len(found) < _CUT_RANGES:
                return plan(bounds, await self._target_order(pair.target, bounds))

    async def _target_order(self, target: asyncpg.Connection, bounds: Sequence[Key]) -> list[int]:
        """Return the positions of bounds as the target sorts them.

        Text may sort differently, but so may an enum, or a key whose type is another.
        """
        table = self._target.table
        found = await target.fetch(digest.collations(table), table.key)
        collated = {row["attname"]: row["name"] for row in found}
        text = digest.order_of_bounds(table, collated)
        return [row[0] for row in await target.fetch(text, *_columns(bounds, len(table.key)))]

    async def _work(self, pair: Pair, ranges: Iterator[Range]) -> None:
        for bounds in ranges:
            if self._is_cut_short:
                return
            await self._compare(pair, bounds)

    async def _compare(self, pair: Pair, bounds: Range) -> None:
        """Compare one range, and look at the rows of it that differ."""
        (here,), (there,) = await self._ask(pair, lambda shape: digest.digest(shape, bounds))
        self._rows_count += here[0]
        if tuple(here) == tuple(there):
            return
        count = buckets_count(max(here[0], there[0]))
        sides = await self._ask(pair, lambda shape: digest.buckets(shape, bounds, count))
        source, target = ({row[0]: Digest(row[1], int(row[2])) for row in side} for side in sides)
        for chosen in batches(differing(source, target), self._limits.buckets_at_once):
            if self._is_cut_short:
                return
            await self._suspect(pair, bounds, count, list(chosen))

    async def _suspect(self, pair: Pair, bounds: Range, count: int, chosen: list[int]) -> None:
        """Look at the rows of some buckets that are not the same on both sides."""
        sides = await self._ask(pair, lambda shape: digest.rows(shape, bounds, count, chosen))
        source, target = ({tuple(key): row_hash for key, row_hash in side} for side in sides)
        for keys in batches(differing(source, target), self._limits.keys_at_once):
            for key, sighting in zip(keys, await self._look(pair, keys), strict=True):
                self._keep(key, sighting)

    def _keep(self, key: Key, sighting: Sighting) -> None:
        """Remember a suspect, unless it is cleared or there are too many."""
        verdict = judge(sighting)
        if verdict is Verdict.EQUAL:
            return
        if len(self._suspects) < self._limits.differences_max:
            self._suspects[key] = sighting
        elif verdict is Verdict.DIFFERENT:
            self._is_cut_short = True
        else:
            self._pending_count += 1

    async def _settle(self, pair: Pair) -> None:
        """Look at every suspect until it is cleared, or seen to differ twice in the same way."""
        for wait_s in self._limits.waits_s:
            if not self._suspects:
                return
            await asyncio.sleep(wait_s)
            for keys in batches(list(self._suspects), self._limits.keys_at_once):
                for key, sighting in zip(keys, await self._look(pair, keys), strict=True):
                    self._judge_again(key, sighting)

    def _judge_again(self, key: Key, sighting: Sighting) -> None:
        verdict, seen = judge(sighting), self._suspects[key]
        if verdict is Verdict.EQUAL:
            del self._suspects[key]
        elif verdict is Verdict.DIFFERENT and sighting == seen:
            del self._suspects[key]
            self._found.append(describe(key, sighting, self._source.columns))
        else:
            self._suspects[key] = sighting

    async def _look(self, pair: Pair, keys: Sequence[Key]) -> list[Sighting]:
        """Return what the two sides hold for some keys now. The order of the three steps is the rule."""
        columns = _columns(keys, len(self._source.key))
        before, pending_before = await self._look_at_source(pair.source, columns)
        target = await pair.target.fetch(digest.rows_of_keys(self._target, has_version=False), *columns)
        after, pending_after = await self._look_at_source(pair.source, columns)
        there = _rows(target)
        pending = pending_before | pending_after
        return [
            Sighting(before.get(n), there.get(n), after.get(n), n in pending or 0 in pending)
            for n in range(1, len(keys) + 1)
        ]

    async def _look_at_source(
        self, source: asyncpg.Connection, columns: list[list[str]]
    ) -> tuple[dict[int, Row], set[int]]:
        """Return rows and the positions of keys that the ledger names, as of one snapshot."""
        async with source.transaction(isolation="repeatable_read", readonly=True):
            found = await source.fetch(digest.rows_of_keys(self._source, has_version=True), *columns)
            pending = await source.fetch(digest.pending_keys(self._source.table), *columns)
        return _rows(found), {row[0] for row in pending}

    async def _ask(self, pair: Pair, query: Callable[[Shape], Query]) -> tuple[list[Any], list[Any]]:
        """Put a query, built for each side's shape, to both sides at the same time."""
        async with asyncio.TaskGroup() as group:
            here, there = (
                group.create_task(_fetch(connection, query(shape), self._limits.statement_timeout_s))
                for connection, shape in zip(pair, (self._source, self._target), strict=True)
            )
        return here.result(), there.result()


async def _fetch(connection: asyncpg.Connection, query: Query, timeout_s: float) -> list[Any]:
    text, parameters = query
    rows: list[Any] = await connection.fetch(text, *parameters, timeout=timeout_s)
    return rows


def _rows(found: Sequence[Any]) -> dict[int, Row]:
    return {n: Row(tuple(hashes), version) for n, version, hashes in found}


def _columns(keys: Sequence[Key], count: int) -> list[list[str]]:
    """Return one list for each of the `count` key columns: how keys travel as parameters."""
    return [[key[position] for key in keys] for position in range(count)]
