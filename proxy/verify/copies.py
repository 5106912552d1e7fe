"""A table without a key on both sides: as many copies of each row, whatever is being written.

Nothing names a row, so what is judged by the rule of `ranges` is a bucket: the rows whose hash
falls into it, by their number and the sum of their hashes. Rows that were appended and are
still on their way are entries of the ledger, and say which buckets they are in; an entry for the
whole table is about every one.

Every look reads the whole table, on the source twice. Most tables are equal at the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from proxy.catalog.bounds import EVERYTHING
from proxy.verify import digest
from proxy.verify.comparison import Limits, Pair
from proxy.verify.digest import Shape
from proxy.verify.ranges import Difference, Kind, Row, Sighting, Verdict, buckets_count, judge
from proxy.verify.report import TableReport

_ALL = -1  # the bucket that stands for every one
_IMAGE_LENGTH_MAX = 200


class Copies:
    """The comparison of one table."""

    def __init__(self, name: str, source: Shape, target: Shape, limits: Limits) -> None:
        self._name = name
        self._source, self._target = source, target
        self._limits = limits
        self._count = 1  # of buckets

    async def run(self, pair: Pair) -> TableReport:
        """Compare the table."""
        await self._set_up(pair)
        ((here, here_sum),) = await self._fetch(pair.source, digest.digest(self._source, EVERYTHING))
        ((there, there_sum),) = await self._fetch(pair.target, digest.digest(self._target, EVERYTHING))
        if (here, here_sum) == (there, there_sum):
            return TableReport(self._name, here)
        self._count = buckets_count(max(here, there))
        differing, pending_count = await self._settle(pair)
        found = await self._name_rows(pair, differing)
        limit = self._limits.differences_max
        return TableReport(self._name, here, tuple(sorted(found[:limit])), pending_count, len(found) > limit)

    async def _set_up(self, pair: Pair) -> None:
        for connection in pair:
            await connection.execute("SET enable_seqscan = on")

    async def _settle(self, pair: Pair) -> tuple[list[int], int]:
        """Return the buckets that differ, and how many could not be judged."""
        seen = await self._look(pair)
        suspects = {bucket: found for bucket, found in seen.items() if judge(found) is not Verdict.EQUAL}
        differing = []
        for wait_s in self._limits.waits_s:
            if not suspects:
                break
            await asyncio.sleep(wait_s)
            seen = await self._look(pair)
            for bucket, before in list(suspects.items()):
                now = seen.get(bucket, Sighting(None, None, None, False))
                verdict = judge(now)
                if verdict is Verdict.UNSETTLED or (verdict is Verdict.DIFFERENT and now != before):
                    suspects[bucket] = now
                    continue
                del suspects[bucket]
                if verdict is Verdict.DIFFERENT:
                    differing.append(bucket)
        return differing, len(suspects)

    async def _look(self, pair: Pair) -> dict[int, Sighting]:
        """Return what the two sides hold in every bucket now. The order of the three steps is the rule."""
        before, pending_before = await self._look_at_source(pair.source)
        there = _rows(await self._fetch(pair.target, digest.buckets(self._target, EVERYTHING, self._count)))
        after, pending_after = await self._look_at_source(pair.source)
        pending = pending_before | pending_after
        return {
            bucket: Sighting(
                before.get(bucket),
                there.get(bucket),
                after.get(bucket),
                bucket in pending or _ALL in pending,
            )
            for bucket in before.keys() | there.keys() | after.keys()
        }

    async def _look_at_source(self, source: asyncpg.Connection) -> tuple[dict[int, Row], set[int]]:
        """Return the buckets, and those that the ledger is about, as of one snapshot."""
        async with source.transaction(isolation="repeatable_read", readonly=True):
            found = await self._fetch(source, digest.buckets(self._source, EVERYTHING, self._count))
            pending = await self._fetch(source, digest.pending_buckets(self._source, self._count, _ALL))
        return _rows(found), {row[0] for row in pending}

    async def _name_rows(self, pair: Pair, differing: list[int]) -> list[Difference]:
        """Return the rows of these buckets of which the sides hold unequal numbers of copies."""
        if not differing:
            return []
        queries = [digest.copies(shape, self._count, differing) for shape in (self._source, self._target)]
        here = dict(await self._fetch(pair.source, queries[0]))
        there = dict(await self._fetch(pair.target, queries[1]))
        return [
            Difference(
                (image[:_IMAGE_LENGTH_MAX],),
                Kind.MISSING if here.get(image, 0) > there.get(image, 0) else Kind.EXTRA,
            )
            for image in here.keys() | there.keys()
            if here.get(image, 0) != there.get(image, 0)
        ]

    async def _fetch(self, connection: asyncpg.Connection, query: tuple[str, list[object]]) -> list[Any]:
        text, parameters = query
        rows: list[Any] = await connection.fetch(text, *parameters, timeout=self._limits.statement_timeout_s)
        return rows


def _rows(found: Sequence[Any]) -> dict[int, Row]:
    return {bucket: Row((count, int(hashes_sum))) for bucket, count, hashes_sum in found}
