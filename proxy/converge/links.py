"""The three connections a converger works with, and the staging tables on one of them.

    source  reads: one repeatable-read snapshot per attempt
    writer  deletes and quarantines entries on the source, outside of that snapshot
    target  staging tables and the target's transactions

A connection whose state is not exactly known is closed, never used again: whatever goes
wrong outside of the expected refusals ends all three, and the next pass opens new ones.

A staging table lives as long as the target connection. It is emptied by the transaction
that applies it, with DELETE while few rows went through it (a TRUNCATE costs about a
millisecond and leaves dead rows in pg_class) and with TRUNCATE once it has grown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg
import structlog

from proxy.catalog.reader import read_catalog
from proxy.config.dsn import Dsn
from proxy.config.model import Tables
from proxy.converge import plan, probe
from proxy.converge.plan import Plan
from proxy.converge.rows import Format, Into, pipe
from proxy.converge.writing import Writing
from proxy.ledger import lineage
from proxy.ledger.connection import become_replica, connect
from proxy.ledger.lease import Lease

_log = structlog.get_logger()
_STAGED_ROWS_MAX = 10_000


class _Stage(NamedTuple):
    """A staging table that exists: the shape it has, and what the target can do with it."""

    table: Plan
    writing: Writing
    format: Format


class Links:
    """Open connections in one direction, with the plans that fit them."""

    def __init__(
        self, source: asyncpg.Connection, writer: asyncpg.Connection, target: asyncpg.Connection
    ) -> None:
        self.source = source
        self.writer = writer
        self.target = target
        self.is_replica = False
        self.plans: dict[int, Plan] = {}
        self.refused: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._stages: dict[int, _Stage] = {}  # those that exist
        self._staged_rows: dict[int, int] = {}  # rows ever put in since the last TRUNCATE
        self._dirty: set[int] = set()  # holds rows of an attempt that did not commit

    @classmethod
    async def open(cls, source: Dsn, target: Dsn, lease: Lease, tables: Tables) -> Links:
        """Open the connections and read both catalogs.

        Raises:
            UpstreamRefused: One of the clusters cannot be reached.
        """
        opened: list[asyncpg.Connection] = []
        try:
            for dsn in (source, source, target):
                opened.append(await connect(dsn, application_name=lease.application_name))
            links = cls(*opened)
            # The deletions of entries may be lost in a crash: the entries are converged again.
            await links.writer.execute("SET synchronous_commit = off")
            links.is_replica = await become_replica(links.target)
            await links.refresh(tables)
            if await lineage.follow(links.writer, links.target):
                _log.warning("a cluster was promoted or restored: every table is compared")
        except BaseException:
            for connection in opened:
                connection.terminate()
            raise
        return links

    async def refresh(self, tables: Tables) -> None:
        """Read both catalogs again, after a change of schema."""
        source, target = await read_catalog(self.writer, tables), await read_catalog(self.target, tables)
        self.plans, self.refused = plan.plans(source, target)
        self._names = {table.id: f"{table.schema}.{table.name}" for table in source.tables.values()}

    def name(self, table_id: int) -> str:
        """Return a table's name for people."""
        return self._names.get(table_id, f"table {table_id}")

    @property
    def is_open(self) -> bool:
        """Whether all three connections are, as far as we know."""
        return not any(c.is_closed() for c in (self.source, self.writer, self.target))

    def close(self) -> None:
        """Drop all connections at once; the servers roll back what was in flight."""
        for connection in (self.source, self.writer, self.target):
            connection.terminate()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Hold one snapshot of the source; entries and rows are read in the same one."""
        await self.source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SAVEPOINT begun")
        try:
            yield
        except Exception:
            if not self.source.is_closed():
                await self.source.execute("ROLLBACK")
            raise
        await self.source.execute("COMMIT")

    async def read_on(self) -> None:
        """Go on in the snapshot after the source has refused something."""
        await self.source.execute("ROLLBACK TO begun")

    async def empty(self, table: Plan) -> None:
        """Make the table's staging table exist and be empty.

        Raises:
            asyncpg.PostgresError: The target cannot stage, or cannot write, this table.
        """
        stage = self._stages.get(table.id)
        if stage is None or stage.table != table:
            self._stages.pop(table.id, None)
            await self.target.execute(table.create_stage)
            format = await probe.format_of(self.target, table)
            writing = await probe.writing(self.target, table, is_replica=self.is_replica)
            self._stages[table.id] = _Stage(table, writing, format)
            self._staged_rows[table.id] = 0
        elif table.id in self._dirty:
            await self.target.execute(f"TRUNCATE pg_temp.{table.stage}")
            self._staged_rows[table.id] = 0
        self._dirty.discard(table.id)

    def writing(self, table: Plan) -> Writing:
        """Return how staged rows are written, as the target can."""
        return self._stages[table.id].writing

    async def fill(self, table: Plan, query: str) -> int:
        """Add the rows of a query on the source to the staging table; return how many.

        Raises:
            SourceRefused: The source cannot produce them.
            asyncpg.PostgresError: The target cannot hold them.
        """
        self._dirty.add(table.id)
        into = Into(None, table.stage, table.stage_columns)
        format = self._stages[table.id].format
        rows_count = await pipe(self.source, query, self.target, into, format=format)
        self._staged_rows[table.id] += rows_count
        return rows_count

    def emptying(self, tables: Iterable[Plan]) -> str:
        """Return the SQL that empties staging tables, for the end of the transaction that applies them."""
        return "".join(
            f"TRUNCATE pg_temp.{table.stage};"
            if self._staged_rows[table.id] > _STAGED_ROWS_MAX
            else f"DELETE FROM pg_temp.{table.stage};"
            for table in tables
        )

    def emptied(self, tables: Iterable[Plan]) -> None:
        """Note that the transaction with the SQL of `emptying` committed."""
        for table in tables:
            self._dirty.discard(table.id)
            if self._staged_rows[table.id] > _STAGED_ROWS_MAX:
                self._staged_rows[table.id] = 0
