"""Two databases that `init` has been run on, for the tests of what reads both."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

import asyncpg

from proxy.catalog.model import Catalog, Table
from proxy.catalog.reader import read_catalog
from proxy.config.dsn import Dsn
from proxy.config.model import Tables
from proxy.ledger import schema
from proxy.ledger.connection import connect


class Two:
    """An old and a new database with the same or different tables, and a connection to each."""

    old: asyncpg.Connection
    new: asyncpg.Connection
    catalogs: tuple[Catalog, Catalog]

    def __init__(self, old_url: str, new_url: str, *, tables: Tables | None = None) -> None:
        self.source = Dsn.parse(old_url)
        self.target = Dsn.parse(new_url)
        self.tables = tables or Tables()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.old = await connect(self.source)
        self._stack.callback(self.old.terminate)
        self.new = await connect(self.target)
        self._stack.callback(self.new.terminate)
        await self.old.execute("SET search_path = public")
        await self.new.execute("SET search_path = public")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def execute(self, sql: str) -> None:
        """Run SQL on both sides."""
        await self.old.execute(sql)
        await self.new.execute(sql)

    async def init(self) -> None:
        """Create schema crossfade for the tables that exist now, and read both catalogs."""
        await schema.init(self.old, self.new, self.tables)
        self.catalogs = (
            await read_catalog(self.old, self.tables),
            await read_catalog(self.new, self.tables),
        )

    def table(self, name: str) -> Table:
        """Return the source's side of a table of schema public."""
        return self.catalogs[0].tables["public", name]
