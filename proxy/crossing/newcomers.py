"""Tables that DDL has made: from the statement on the mirror to the first row.

id        as `init` gives one: in one go on both clusters, with triggers where they capture
capture   a proxy that does not know the table yet has its writes counted, and counting begins
          with the id
entry     for the whole table, at once, and again as soon as everybody has ended who may have
          written before that
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import asyncpg

from proxy.backfill.barrier import Barrier
from proxy.capture.triggers import install_sql
from proxy.catalog.reader import read_catalog
from proxy.config.model import Database as Configuration
from proxy.ledger import schema
from proxy.ledger.connection import connect
from proxy.routing.policy import Side


class Newcomers:
    """The new tables of one database, in one reign."""

    def __init__(self, configuration: Configuration, authority: Side) -> None:
        self._configuration = configuration
        self._authority = authority
        self._ids: list[int] = []  # whose second entry is still to be written
        self._barrier = Barrier()

    async def look(self, *, has_ddl: bool) -> bool:
        """Take in what DDL has made; return whether there are new tables.

        Raises:
            asyncpg.PostgresError, OSError: A cluster failed; the DDL is still in the ledger then.
        """
        if not (has_ddl or self._ids):
            return False
        found: list[int] = []
        async with AsyncExitStack() as stack:
            sides = {}
            for side in Side:
                sides[side] = await connect(self._configuration.cluster(side.value).primary)
                stack.callback(sides[side].terminate)
            if has_ddl:
                found = await self._take_in(sides)
                if found:
                    self._ids += found
                    self._barrier = Barrier()
            source = sides[self._authority]
            if self._ids and not await self._barrier.left_count(source):
                await _enter(source, self._ids)
                self._ids = []
        return bool(found)

    async def _take_in(self, sides: Mapping[Side, asyncpg.Connection]) -> list[int]:
        """Give the tables without an id theirs, and their first entry; return the ids."""
        tables = self._configuration.tables
        catalog = await read_catalog(sides[self._authority], tables)
        names = {table.names for table in catalog.tables.values() if not table.id}
        if not names:
            return []
        listed = await schema.init(sides[Side.OLD], sides[Side.NEW], tables)
        ids = [each.id for each in listed if (each.schema, each.name) in names]
        for connection in sides.values():
            now = await read_catalog(connection, tables)
            script = install_sql(table for table in now.tables.values() if table.id in ids)
            if script:  # the mirror may not have them yet
                await connection.execute(script)
        await _enter(sides[self._authority], ids)
        return ids


async def _enter(source: asyncpg.Connection, ids: Sequence[int]) -> None:
    await source.executemany(
        "INSERT INTO crossfade.ledger (tbl, kind) VALUES ($1, 't')", [(each,) for each in ids]
    )
