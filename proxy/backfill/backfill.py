"""Copy the history: every chunk of every table once, in small steps that can end anywhere.

    plan    all tables are cut into chunks first, a stretch at a time
    copy    runs of adjacent chunks, tables in order of their foreign keys, each run one range
            for converge and one transaction on the target, sized to take half a second

A step does one of the two and returns. The caller converges live writes between steps, so
those always go first, and must not ask for the next step before `wait_s` has passed;
asking earlier is harmless and does nothing.

Nothing is copied before every transaction has ended that may have written without capture.

What is copied is recorded by converge in the transaction that copies it. So a process that
dies anywhere leaves nothing behind but a run that is copied again.

A table that cannot go on (a run that would delete more rows than allowed, columns that
differ, an `order_by` that is no SQL) is blocked with the reason, tried again every minute and
as soon as either side's tables change, and holds up no other table. While one is blocked,
backfill is not complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import asyncpg

from proxy.backfill import chunks, signals, throttle
from proxy.backfill.barrier import Barrier
from proxy.backfill.chunks import Chunk, Progress
from proxy.catalog.model import Catalog, Table
from proxy.catalog.reader import read_catalog
from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.config.model import Backfill as Settings
from proxy.config.model import Tables
from proxy.converge.engine import Converger
from proxy.converge.plan import in_order
from proxy.errors import DeletesRefused, TablePaused, UpstreamLost
from proxy.ledger.connection import DRIVER_FAILURES, connect

_BLOCKED_S = 60.0
_FIRST_RUN_ROWS = 10_000
_BARRIER_WAIT_S = 0.2


_Seen = Mapping[int, Table]  # by id


class StepResult(NamedTuple):
    """What a step did, and when the next may come."""

    table: str | None = None  # None: there was only waiting
    chunks_count: int = 0
    rows_count: int = 0
    wait_s: float = 0.0
    reason: str = ""  # of the waiting, or of a table being blocked


@dataclass(frozen=True, slots=True)
class Statistics:
    """A reading of the backfill, by table name."""

    progress: Mapping[str, Progress]
    blocked: Mapping[str, str]
    pace: float
    reason: str
    is_complete: bool


class _Blocked(NamedTuple):
    reason: str
    until_s: float


class Backfill:
    """The backfill of one database in one direction.

    Args:
        converger: Copies the ranges; its lease is the right to plan, too.
    """

    def __init__(
        self,
        source: Dsn,
        target: Dsn,
        converger: Converger,
        *,
        tables: Tables,
        settings: Settings,
        clock: Clock = now_s,
    ) -> None:
        self._source, self._target = source, target
        self._converger = converger
        self._config = tables
        self._settings = settings
        self._clock = clock
        self._links: tuple[asyncpg.Connection, asyncpg.Connection] | None = None
        self._stack = AsyncExitStack()
        self._tables: Sequence[Table] = ()
        self._seen: tuple[_Seen, _Seen] = {}, {}
        self._progress: dict[int, Progress] = {}
        self._blocked: dict[int, _Blocked] = {}
        self._run_chunks: dict[int, int] = {}
        self._barrier = Barrier()
        self._decision = throttle.Decision(1.0, 0.0, False, "not started")
        self._ready_at_s = 0.0
        self._is_complete = False

    def configure(self, settings: Settings) -> None:
        """Go on under other settings; chunks that are planned keep their size."""
        self._settings = settings

    async def step(self) -> StepResult | None:
        """Plan or copy a little; None when every chunk of every table is copied.

        Raises:
            LeaseLost: Another process owns the engine; drop this object.
            UpstreamLost, UpstreamRefused: A cluster is down; try again later.
        """
        try:
            return await self._step()
        except DRIVER_FAILURES as error:
            await self.close()
            raise UpstreamLost(
                str(error) or type(error).__name__, hint="backfill goes on when it is back"
            ) from error

    async def refresh(self) -> None:
        """Look for tables again, after `init` or a change of schema.

        Of a new table there may be transactions again that have written unseen.
        """
        self._barrier = Barrier()
        await self.close()

    def covers(self, source: Catalog, target: Catalog) -> bool:
        """Return whether it has seen both sides' tables as they are; yes before it has looked."""
        return self._links is None or self._seen == (_seen(source), _seen(target))

    async def close(self) -> None:
        """Drop the connections; the object may be used again."""
        self._links = None
        self._is_complete = False
        await self._stack.aclose()

    def statistics(self) -> Statistics:
        """Return how far every table is, and what holds it up."""
        names = {table.id: _name(table) for table in self._tables}
        return Statistics(
            progress=MappingProxyType({names[n]: self._progress.get(n, Progress()) for n in names}),
            blocked=MappingProxyType(
                {names[n]: why.reason for n, why in self._blocked.items() if n in names}
            ),
            pace=self._decision.pace,
            reason=self._decision.reason,
            is_complete=self._is_complete,
        )

    async def _step(self) -> StepResult | None:
        if self._is_complete:
            return None
        source, target = await self._open()
        if all(self._progress_of(table).is_complete for table in self._tables):
            self._is_complete = True
            return None
        if left := await self._barrier.left_count(source):
            reason = f"waiting for {left} transactions that began before capture did"
            self._decision = self._decision._replace(reason=reason)
            return StepResult(wait_s=_BARRIER_WAIT_S, reason=reason)
        if not await self._may_run(source, target):
            return StepResult(wait_s=self._ready_at_s - self._clock(), reason=self._decision.reason)
        started_s = self._clock()
        result = await self._work(source, target, started_s)
        if result.table is None:
            return result
        await self._judge(source, target, self._clock() - started_s)
        return result._replace(wait_s=max(0.0, self._ready_at_s - self._clock()))

    async def _may_run(self, source: asyncpg.Connection, target: asyncpg.Connection) -> bool:
        """Return whether the pause after the last run is over and nothing stands in the way."""
        is_held = self._settings.pause or signals.is_flagged(self._settings)
        if self._clock() < self._ready_at_s and not is_held:
            return False
        if is_held or not self._decision.may_run:
            await self._judge(source, target, 0.0)
        return self._decision.may_run

    async def _judge(self, source: asyncpg.Connection, target: asyncpg.Connection, run_s: float) -> None:
        seen = await signals.read(source, target, self._settings, self._clock)
        self._decision = throttle.decide(self._decision.pace, run_s, seen, signals.limits(self._settings))
        self._ready_at_s = self._clock() + self._decision.wait_s

    async def _work(
        self, source: asyncpg.Connection, target: asyncpg.Connection, started_s: float
    ) -> StepResult:
        """Plan what is not planned, else copy; tables that are blocked are passed over."""
        waiting = [table for table in self._tables if not self._progress_of(table).is_complete]
        free = [table for table in waiting if not self._is_blocked(table, started_s)]
        unplanned = [table for table in free if not self._progress_of(table).is_planned]
        if not free:
            reason = "; ".join(self._blocked[table.id].reason for table in waiting)
            return StepResult(wait_s=throttle.STOPPED_WAIT_S, reason=reason)
        table = (unplanned or free)[0]
        try:
            if unplanned:
                return await self._plan(source, target, table)
            return await self._copy(target, table, started_s)
        except (DeletesRefused, TablePaused, ValueError) as error:
            return self._block(table, str(error))
        except asyncpg.PostgresError as error:
            if source.is_closed() or target.is_closed():
                raise
            return self._block(table, str(error))

    async def _plan(self, source: asyncpg.Connection, target: asyncpg.Connection, table: Table) -> StepResult:
        before = self._progress_of(table)
        planned = await chunks.plan_stretch(
            source,
            target,
            self._converger.lease,
            table,
            chunk_rows=self._settings.chunk_rows,
            order_by=self._config.order_by_of(*table.names),
        )
        count = before.chunks_count + planned.chunks_count
        self._progress[table.id] = before._replace(chunks_count=count, is_planned=planned.is_last)
        return StepResult(_name(table), planned.chunks_count)

    async def _copy(self, target: asyncpg.Connection, table: Table, started_s: float) -> StepResult:
        count_max = self._run_chunks.get(table.id) or max(1, _FIRST_RUN_ROWS // self._settings.chunk_rows)
        run = chunks.next_run(await chunks.pending(target, table, count_max))
        try:
            rows_count = await self._converge(table, run)
        except DeletesRefused:
            if len(run) == 1:
                raise
            # The limit is per chunk: one of these may be beyond it, or all of them together.
            self._run_chunks[table.id] = 1
            return StepResult(_name(table))
        size = chunks.next_size(len(run), self._clock() - started_s)
        # A run cut short by its neighbours says nothing against longer ones.
        self._run_chunks[table.id] = size if len(run) == count_max else max(size, count_max)
        done = self._progress_of(table)
        self._progress[table.id] = done._replace(
            migrated_count=done.migrated_count + len(run), rows_count=done.rows_count + rows_count
        )
        return StepResult(_name(table), len(run), rows_count)

    async def _converge(self, table: Table, run: Sequence[Chunk]) -> int:
        done = await self._converger.converge_range(
            table.id, chunks.joined(run), mark=lambda rows_count: chunks.mark(table, run, rows_count)
        )
        return done.rows_count

    def _block(self, table: Table, reason: str) -> StepResult:
        self._blocked[table.id] = _Blocked(f"{_name(table)}: {reason}", self._clock() + _BLOCKED_S)
        return StepResult(_name(table), reason=self._blocked[table.id].reason)

    def _is_blocked(self, table: Table, at_s: float) -> bool:
        blocked = self._blocked.get(table.id)
        if blocked is not None and blocked.until_s <= at_s:
            del self._blocked[table.id]
            return False
        return blocked is not None

    def _progress_of(self, table: Table) -> Progress:
        return self._progress.get(table.id, Progress())

    async def _open(self) -> tuple[asyncpg.Connection, asyncpg.Connection]:
        """Return a connection to each side; opening them, look for tables and progress, too."""
        if self._links is None:
            opened = []
            for dsn in (self._source, self._target):
                connection = await connect(dsn, application_name=self._converger.lease.application_name)
                self._stack.callback(connection.terminate)
                opened.append(connection)
            source, target = opened
            catalog = await read_catalog(source, self._config)
            self._seen = _seen(catalog), _seen(await read_catalog(target, self._config))
            self._tables = in_order(self._seen[0].values())
            self._progress = await chunks.progress(target)
            self._blocked.clear()
            self._links = source, target
        return self._links


def _seen(catalog: Catalog) -> _Seen:
    """Return the tables that `init` has given an id: only those are mirrored."""
    return {table.id: table for table in catalog.tables.values() if table.id}


def _name(table: Table) -> str:
    return f"{table.schema}.{table.name}"
