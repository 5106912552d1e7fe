"""Ledger entries that name a range or a whole table.

A whole table is converged range by range, a bounded time per pass, so that single keys do not
wait behind it. The entries that asked for it are deleted after the last range, and only
those that existed before the first: what is written meanwhile leaves entries of its own.

Their ctids are kept from pass to pass. No transaction holds the ledger in between, so the
deletion also requires that the ledger is still the same file: VACUUM FULL in the meantime
would have given the ctids to other entries, and then the walk starts again.

Rows that a COPY wrote are looked for in the table's files: see `stamps`.

Ranges stand for keys that lay densely (`widening`). There is no budget for deletes here: the
entries were written by the very transactions that removed the rows, which is better evidence
than any count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from proxy.catalog.bounds import Key, Range, cut
from proxy.clock import Clock
from proxy.converge import ranges
from proxy.converge.job import Job
from proxy.converge.links import Links
from proxy.converge.plan import Plan
from proxy.converge.split import Outcome
from proxy.converge.stamps import Stamps
from proxy.converge.statistics import Walked
from proxy.converge.widening import rows_estimate
from proxy.errors import TablePaused
from proxy.ledger import entries
from proxy.ledger.copying import STAMP
from proxy.ledger.lease import Lease
from proxy.ledger.reading import Batch

RANGE_ROWS = 20_000


@dataclass(slots=True)
class _Walk:
    """How far a whole table has come."""

    ctids: str
    entries_count: int
    ledger_file: int
    began_s: float
    rows_estimate: int
    lo: Key | None = None
    rows_count: int = 0


@dataclass(slots=True)
class Walks:
    """The whole tables under way; lives as long as the lease that its ctids depend on."""

    clock: Clock
    _walks: dict[int, _Walk] = field(default_factory=dict)
    _stamps: Stamps = field(init=False)

    def __post_init__(self) -> None:
        self._stamps = Stamps(self.clock)

    def walked(self) -> dict[int, Walked]:
        """Return by table id how far those are that take several passes."""
        now_s = self.clock()
        return self._stamps.walked() | {
            table_id: Walked.of(walk.rows_count, walk.rows_estimate, now_s - walk.began_s)
            for table_id, walk in self._walks.items()
        }

    async def go(
        self,
        links: Links,
        lease: Lease,
        batches: list[Batch],
        *,
        ledger_file: int,
        duration_s: float,
        deleter: asyncpg.Connection | None,
    ) -> Outcome:
        """Converge ranges and tables for about `duration_s`; entries that are done are deleted.

        Args:
            ledger_file: Of which file the ctids of the batches are.
        """
        outcome = Outcome()
        until_s = self.clock() + duration_s
        for batch in batches:
            table = ranges.plan_of(links, batch.table_id)
            job = Job(links, lease, table, batch, ledger_file, outcome, deleter, until_s)
            try:
                with ranges.pausing(table):
                    await self._converge(job)
            except TablePaused as error:
                outcome.paused[table.id] = outcome.last_error = str(error)
                job.leave()
        return outcome

    async def _converge(self, job: Job) -> None:
        if job.batch.kind == "r" and job.table.source.key:
            await self._ranges(job)
        elif job.batch.kind == STAMP and job.table.source.key:
            await self._stamps.go(job)
        else:
            await self._walk(job)

    async def _walk(self, job: Job) -> None:
        table, batch = job.table, job.batch
        walk = self._walks.get(table.id)
        if walk is None:
            estimate = await rows_estimate(job.links.writer, table.source)
            walk = _Walk(batch.ctids, batch.entries_count, job.ledger_file, self.clock(), estimate)
            self._walks[table.id] = walk
        while True:
            hi = await _next_bound(job.links, table, walk.lo)
            done = await job.converge(Range(walk.lo, hi))
            walk.lo = hi
            walk.rows_count += done.rows_count
            if hi is None:
                break
            if self.clock() >= job.until_s:
                job.leave()
                return
        del self._walks[table.id]
        # Entries that came after the walk began are for the next one.
        job.leave(await job.clear(walk.ctids, ledger_file=walk.ledger_file))

    async def _ranges(self, job: Job) -> None:
        half = len(job.table.source.key)
        cleared_count = 0
        for entry in await entries.read_keys(job.writer, job.batch.ctids, ledger_file=job.ledger_file):
            lo, hi = entry.key[:half], entry.key[half:]
            await job.converge(
                Range(lo if _is_bound(lo, half) else None, hi if _is_bound(hi, half) else None)
            )
            cleared_count += await job.clear(entry.ctids, ledger_file=job.ledger_file)
            if self.clock() >= job.until_s:
                break
        job.leave(cleared_count)


def _is_bound(values: Key, length: int) -> bool:
    return len(values) == length and None not in values


async def _next_bound(links: Links, table: Plan, lo: Key | None) -> Key | None:
    """Return the key that ends the next range, on the source; None: the range is open."""
    if not table.source.key:
        return None
    parameters = [RANGE_ROWS, RANGE_ROWS] + ([list(lo)] if lo is not None else [])
    found = await links.writer.fetchval(cut(table.source, has_lo=lo is not None), *parameters)
    return tuple(found) if found is not None else None
