"""Converger: passes over the ledger, in one direction.

    own          the lease was taken before this object was made, and is checked in every
                 transaction that writes
    snapshot     entries and rows are read in one snapshot of the source
    apply        one target transaction for all tables: the mirror equals the source at
                 some snapshot, and never shows an order without its lines
    clear        exactly the entries that were read, after the commit is known

When a pass is refused, `split` finds what is poisonous and puts only that aside; a table
whose columns differ between the two sides is paused; everything else goes on.

Passes and ranges take turns: two of them at a time could write an older row over a newer
one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from proxy.catalog.bounds import EVERYTHING, Range
from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.config.model import Tables
from proxy.converge import apply, failure, ranges, split, widening
from proxy.converge.apply import Attempt, Selection
from proxy.converge.ddl import Changes
from proxy.converge.failure import Meaning
from proxy.converge.joining import Work, join
from proxy.converge.links import Links
from proxy.converge.meetings import Meetings
from proxy.converge.plan import keys_of_entries
from proxy.converge.ranges import Mark, RangeResult
from proxy.converge.rows import SourceRefused
from proxy.converge.split import Outcome
from proxy.converge.statistics import Statistics, Tally
from proxy.converge.walks import Walks
from proxy.errors import ProxyError, UpstreamLost
from proxy.ledger import entries
from proxy.ledger.connection import DRIVER_FAILURES
from proxy.ledger.ddl import KIND as DDL
from proxy.ledger.lease import Lease, raise_if_lost
from proxy.ledger.reading import Entries, Reader

VACUUM_AFTER_ENTRIES = 50_000
PAUSE_S = 2.0
PROGRESS_INTERVAL_S = 0.05
WALK_S = 0.5

# With the ledger locked by the caller nobody adds entries, and one pass must take them all.
_DRAIN_ENTRIES_MAX = 5_000_000
_DRAIN_S = 3600.0

_OPERATING_FAILURES = (*DRIVER_FAILURES, SourceRefused)


class Pass(NamedTuple):
    """What a pass did.

    `is_complete`: every entry that `snapshot` sees is converged, so that the target equals
    the source at that snapshot. `left_count` counts entries and keys that are not; entries
    beyond the most that one pass takes count as one.
    """

    entries_count: int
    rows_count: int
    left_count: int
    is_complete: bool
    snapshot: str
    has_ddl: bool = False


class Converger:
    """Converges the target with the source, which must be the authority.

    Args:
        source, target: The primaries, with a login that may read and write all mirrored tables.
        lease: The right to do so; when it is lost, every method raises LeaseLost.
        deletes_max: Most rows that one range may delete on the target.
    """

    def __init__(
        self,
        source: Dsn,
        target: Dsn,
        *,
        lease: Lease,
        tables: Tables,
        deletes_max: int = 1000,
        clock: Clock = now_s,
    ) -> None:
        self.lease = lease
        self._source, self._target = source, target
        self._tables = tables
        self._deletes_max = deletes_max
        self._clock = clock
        self._turn = asyncio.Lock()
        self._links: Links | None = None
        self._tally = Tally(clock)
        self._paused: dict[int, tuple[str, float]] = {}  # by table id: why, and until when
        self._refreshed_s = clock()
        self._walks = Walks(clock)
        self._deleted_count = 0
        self._was_idle = True
        self._ddl = Changes()
        self._is_announced = False  # the last pass saw a statement that commits on its way
        self._meetings = Meetings()
        self._reader = Reader()
        self._progress = ("", 0.0)  # the last one written, and when

    async def converge_entries(self, deleter: asyncpg.Connection | None = None) -> Pass:
        """Converge what the ledger holds now.

        Args:
            deleter: A connection that holds the ledger's lock in an open transaction. Entries
                are then deleted in that transaction, and the pass takes all of them.

        Raises:
            LeaseLost: Somebody else owns the engine; drop this object.
            UpstreamLost, UpstreamRefused: A cluster is down; try again later.
        """
        async with self._exclusive() as links:
            if self._was_idle and deleter is None:
                is_empty, snapshot = await entries.is_empty(links.source)
                if is_empty:
                    return await self._nothing(links, snapshot)
            done = await self._pass(links, deleter)
            self._was_idle = done.entries_count == 0
            self._tally.passes_count += 1
            # What lies behind the reader is not read again until it starts over.
            is_due = self._deleted_count >= VACUUM_AFTER_ENTRIES and not self._reader.is_deep
            if deleter is None and is_due:
                await entries.vacuum(links.writer)
                self._deleted_count = 0
            return done

    async def converge_range(
        self,
        table_id: int,
        bounds: Range = EVERYTHING,
        *,
        origin: str = "backfill",
        mark: Mark | None = None,
        deletes_max: int | None = None,
    ) -> RangeResult:
        """Make a key range of a table equal to the source's, as of one snapshot.

        Args:
            mark: Called with the number of rows; the SQL it returns runs in the target's
                transaction, so that progress and rows are one.

        Raises:
            DeletesRefused: More rows than `deletes_max` would go; nothing was written.
            TablePaused: The two sides' columns differ, or the table is not known.
            LeaseLost, UpstreamLost, UpstreamRefused: As for `converge_entries`.
        """
        async with self._exclusive() as links:
            if table_id not in links.plans:
                await self._refresh(links)
            table = ranges.plan_of(links, table_id)
            limit = self._deletes_max if deletes_max is None else deletes_max
            with ranges.pausing(table):
                done = await ranges.converge(links, self.lease, table, bounds, mark=mark, deletes_max=limit)
            self._tally.converged(table.name, origin, done.rows_count)
            self._tally.tried(converged_count=0, failed_count=done.quarantined_count)
            return done

    def statistics(self) -> Statistics:
        """Return the counters so far."""
        return self._tally.statistics()

    async def refresh(self) -> None:
        """Read both catalogs again, after a change of schema or of the tables to mirror."""
        async with self._exclusive() as links:
            await self._refresh(links)

    async def close(self) -> None:
        """Drop the connections; the object may be used again."""
        async with self._turn:
            self._drop_links()

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[Links]:
        """Take the turn, with open connections; drop those when anything unexpected happens."""
        async with self._turn:
            try:
                if self._links is None or not self._links.is_open:
                    self._drop_links()
                    self._links = await Links.open(self._source, self._target, self.lease, self._tables)
                    self._tally.is_replica = self._links.is_replica
                yield self._links
            except _OPERATING_FAILURES as error:
                self._drop_links()
                self._tally.last_error = failure.sentence(error)
                if isinstance(error, asyncpg.PostgresError):
                    raise_if_lost(error)
                raise UpstreamLost(failure.sentence(error), hint="the entries stay; try again") from error
            except ProxyError as error:
                self._tally.last_error = str(error)
                raise
            except BaseException:
                self._drop_links()
                raise

    def _drop_links(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    async def _pass(self, links: Links, deleter: asyncpg.Connection | None) -> Pass:
        outcome, refusal = Outcome(), None
        ended = await entries.read_ended(deleter or links.writer) if self._is_announced else []
        was_deep = self._reader.is_deep
        async with links.snapshot():
            if deleter is None:
                found = await self._reader.read(links.source, ended=ended)
            else:
                found = await Reader().read(links.source, _DRAIN_ENTRIES_MAX, ended=ended)
            waiting = await self._ddl.awaited_by(links, found) | self._meetings.left_out
            apart = self._sort(links, found, waiting)
            work, done = await self._together(links, apart, found.snapshot, deleter)
            outcome.add_attempt(done, sum(s.entries_count for s in work.selections))
            refusal = done.refusal
        if refusal is None:
            self._meetings.passed(selection.table.id for selection in work.selections)
        else:
            outcome.last_error = failure.sentence(refusal)
            if self._meetings.refused(refusal):
                outcome.left_count += work.entries_count
                work = work._replace(walks=[])
            else:
                work = apart
                outcome.add(await split.isolate(links, self.lease, work.selections, deleter))
        if work.walks:
            walk_s = WALK_S if deleter is None else _DRAIN_S
            outcome.add(
                await self._walks.go(
                    links,
                    self.lease,
                    work.walks,
                    ledger_file=found.ledger_file,
                    duration_s=walk_s,
                    deleter=deleter,
                )
            )
        self._count(links, found, work, outcome)
        left_count = work.left_count + outcome.left_count + (0 if found.is_whole else 1)
        is_complete = left_count == 0
        if is_complete and work.is_all and work.selections and refusal is None:
            self._progress = (found.snapshot, self._clock())
        elif is_complete:
            await self._report_progress(links, found.snapshot)
        if self._paused or work.paused:
            await self._look_again(links, [batch.table_id for batch in found.batches])
        if deleter is None and not found.is_whole and not was_deep:
            self._widened(await widening.widen(links, self.lease))
        has_ddl = await self._run_ddl(links, deleter)
        return Pass(found.entries_count, outcome.rows_count, left_count, is_complete, found.snapshot, has_ddl)

    async def _together(
        self, links: Links, apart: Work, snapshot: str, deleter: asyncpg.Connection | None
    ) -> tuple[Work, Attempt]:
        """Converge in one transaction what can be; return also the work as it was done."""
        try:
            work = await join(links, apart)
        except failure.REFUSALS as error:
            if failure.meaning(error) is Meaning.LINK:
                raise
            return apart, Attempt(Counter(), error)
        if not work.selections:
            return work, Attempt(Counter())
        also = apply.progress(snapshot) if work.is_all else ""
        return work, await apply.attempt(links, self.lease, work.selections, also=also, deleter=deleter)

    async def _run_ddl(self, links: Links, deleter: asyncpg.Connection | None) -> bool:
        """Run the authority's DDL; return whether any could be run, or was found to be done."""
        done = await self._ddl.run(links, self.lease, deleter)
        self._tally.last_error = done.error or self._tally.last_error
        if done.done_count:
            await self._refresh(links)
        return done.done_count > 0

    def _sort(self, links: Links, found: Entries, waiting: Collection[int]) -> Work:
        """Decide what becomes of each batch: converge by key, walk its ranges, or leave it.

        Args:
            waiting: Tables that are left out of this pass.
        """
        selections, walks, paused = [], [], {}
        left_count = sum(found.waiting.values())
        self._is_announced = any(batch.kind == "c" for batch in found.batches)
        compared = {batch.table_id for batch in found.batches if batch.kind == "t"}
        for batch in found.batches:
            table = links.plans.get(batch.table_id)
            reason, until_s = self._paused.get(batch.table_id, ("", 0.0))
            if batch.kind == DDL or batch.table_id in waiting:
                left_count += batch.entries_count
            elif table is None:
                paused[batch.table_id] = links.refused.get(
                    batch.table_id, f"no mirrored table has the id {batch.table_id}"
                )
            elif reason and self._clock() < until_s:
                paused[batch.table_id] = reason
            elif batch.kind == "c":
                left_count += batch.entries_count
            elif batch.kind == "k" and table.source.key:
                query = keys_of_entries(batch.ctids)
                selections.append(Selection(table, query, batch.ctids, batch.entries_count))
            elif batch.kind == "a" and not table.source.key:
                if batch.table_id in compared:
                    left_count += batch.entries_count  # the comparison brings them along
                else:
                    selections.append(Selection(table, entries_count=batch.entries_count))
            else:
                walks.append(batch)
            if batch.table_id in paused and batch.kind != DDL and batch.table_id not in waiting:
                left_count += batch.entries_count
        # Parents first, as the plans are.
        order = {table_id: number for number, table_id in enumerate(links.plans)}
        selections.sort(key=lambda selection: order[selection.table.id])
        has_rest = left_count > 0 or not found.is_whole
        return Work(selections, walks, paused, left_count, has_rest)

    def _count(self, links: Links, found: Entries, work: Work, outcome: Outcome) -> None:
        """Put what happened into the statistics, and pause the tables that were refused."""
        until_s = self._clock() + PAUSE_S
        for selection in work.selections:
            self._paused.pop(selection.table.id, None)
        self._paused |= {table_id: (reason, until_s) for table_id, reason in outcome.paused.items()}
        for name, rows_count in outcome.rows.items():
            self._tally.converged(name, "live", rows_count)
        self._tally.tried(converged_count=outcome.entries_count, failed_count=outcome.quarantined_count)
        self._tally.lag_s = found.oldest_s
        self._tally.quarantined_keys = {links.name(id): count for id, count in found.waiting.items()}
        paused = work.paused | outcome.paused
        held_up = dict.fromkeys(self._ddl.held_up, "its rows wait for DDL in quarantine: see the last error")
        self._tally.paused = {links.name(id): reason for id, reason in (held_up | paused).items()}
        self._tally.walked = {links.name(id): walked for id, walked in self._walks.walked().items()}
        self._tally.last_error = outcome.last_error or self._tally.last_error
        self._deleted_count += outcome.entries_count
        if outcome.quarantined_count:
            self._reader.look_again()

    def _widened(self, entries_count: int) -> None:
        if entries_count:
            self._deleted_count += entries_count
            self._reader.start_over()

    async def _look_again(self, links: Links, table_ids: list[int]) -> None:
        """While something is paused, see now and then whether the schema has been put right."""
        if self._clock() - self._refreshed_s < PAUSE_S:
            return
        await self._refresh(links)
        for table_id in table_ids:
            if table_id and table_id not in links.plans and table_id not in links.refused:
                # The table was dropped, or is no longer to be mirrored: nothing can be owed to it.
                await entries.discard(links.writer, self.lease, table_id)

    async def _refresh(self, links: Links) -> None:
        await links.refresh(self._tables)
        self._refreshed_s = self._clock()

    async def _nothing(self, links: Links, snapshot: str) -> Pass:
        """Handle an empty ledger: the mirror is as far as the source, so say so now and then."""
        self._tally.lag_s = 0.0
        self._tally.quarantined_keys = {}
        self._tally.paused = {}
        self._tally.walked = {}
        if self._clock() - self._progress[1] >= PROGRESS_INTERVAL_S:
            await self._report_progress(links, snapshot)
        return Pass(0, 0, 0, True, snapshot)

    async def _report_progress(self, links: Links, snapshot: str) -> None:
        """Record progress on its own. A crash may lose it: an older progress is still true."""
        if snapshot != self._progress[0]:
            guard = self.lease.guard(is_target=True)
            await links.target.execute(
                f"{guard} SET LOCAL synchronous_commit = off; {apply.progress(snapshot)}"
            )
            self._progress = (snapshot, self._clock())
