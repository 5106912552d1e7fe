"""An old and a new database, the lease of their engine, and a converger from old to new."""

from __future__ import annotations

from typing import Any

from proxy.config.dsn import Dsn
from proxy.config.model import Tables
from proxy.converge.engine import Converger
from proxy.ledger import lease
from proxy.ledger.connection import connect
from tests.integration.pairs import Two


class Mirror(Two):
    """Two databases with a converger; call `start` when the tables are there."""

    converger: Converger
    lease: lease.Lease

    def __init__(
        self, old_url: str, new_url: str, *, tables: Tables | None = None, kind: type[Converger] = Converger
    ) -> None:
        super().__init__(old_url, new_url, tables=tables)
        self._kind = kind

    async def start(self, sql: str = "") -> None:
        """Create the same tables on both sides, install the schema and take the lease."""
        await self.execute(sql)
        await self.init()
        self.lease = await self.take()
        self.converger = self.make()

    async def take(self, owner: str | None = None) -> lease.Lease:
        """Take the lease under a new name."""
        owner = owner or lease.new_owner()
        name = lease.application_name(owner)
        old = await connect(self.source, application_name=name)
        self._stack.callback(old.terminate)
        new = await connect(self.target, application_name=name)
        self._stack.callback(new.terminate)
        return await lease.take(old, new, owner)

    def make(self, held: lease.Lease | None = None, **arguments: Any) -> Converger:
        """Return a converger from old to new."""
        source = arguments.pop("source", self.source)
        target = arguments.pop("target", self.target)
        kind = arguments.pop("kind", self._kind)
        made = kind(source, target, lease=held or self.lease, tables=self.tables, **arguments)
        self._stack.push_async_callback(made.close)
        return made

    async def write(self, sql: str, **keys: Any) -> None:
        """Run SQL on the source and write key entries, in one transaction: table=[key, ...]."""
        async with self.old.transaction():
            await self.old.execute(sql)
            for table, listed in keys.items():
                await self.enter(table, listed)

    async def enter(self, table: str, keys: list[Any], kind: str = "k") -> None:
        """Write ledger entries; a key is a value, or a tuple of them."""
        for key in keys:
            parts = key if isinstance(key, tuple) else (key,)
            await self.old.execute(
                'INSERT INTO crossfade.ledger (tbl, kind, key) VALUES ($1, $2::text::"char", $3)',
                self.table(table).id,
                kind,
                [None if part is None else str(part) for part in parts] if key != () else None,
            )

    async def entries(self) -> int:
        """Return how many entries the ledger has."""
        return int(await self.old.fetchval("SELECT count(*) FROM crossfade.ledger"))

    async def differences(self, *tables: str) -> list[str]:
        """Return the tables whose bytes differ between the two sides."""
        found = []
        for name in tables:
            table = self.table(name)
            names = [column.name for column in table.columns]
            order = ", ".join(f'"{name}"::text COLLATE "C"' for name in table.key or names)
            columns = ", ".join(f'"{name}"' for name in names)
            query = f"SELECT {columns} FROM {table.qualified} ORDER BY {order}"
            sides = []
            for connection in (self.old, self.new):
                chunks: list[bytes] = []

                async def keep(chunk: bytes, chunks: list[bytes] = chunks) -> None:
                    chunks.append(chunk)

                await connection.copy_from_query(query, output=keep)
                sides.append(b"".join(chunks))
            if sides[0] != sides[1]:
                found.append(name)
        return found


def dsn_as(dsn: Dsn, user: str) -> Dsn:
    """Return the same database for another login."""
    return dsn.as_user(user, None)
