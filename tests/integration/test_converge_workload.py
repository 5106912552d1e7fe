"""Random writers against a converger that never stops; at quiescence both sides are byte for byte equal.

While only passes run, as after backfill, readers of the mirror check that it always is the
source at some snapshot: transfers never show money that is gone or there twice.
"""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from proxy.catalog.bounds import Range
from proxy.converge.engine import Converger
from proxy.ledger.snapshot import dominates
from tests.integration.mirrors import Mirror
from tests.seeds import seeds

SEEDS = seeds(1, 2)
ROWS = 30
TOTAL = ROWS * 100

DDL = """
CREATE TABLE accounts (id int PRIMARY KEY, email text UNIQUE, cents int NOT NULL, slot int UNIQUE DEFERRABLE);
CREATE TABLE items (account int REFERENCES accounts ON UPDATE CASCADE, name text, about jsonb, price numeric,
    PRIMARY KEY (account, name));
"""


class Writer:
    """One application connection doing random transactions, captured in the statement."""

    def __init__(self, connection: asyncpg.Connection, mirror: Mirror, seed: int) -> None:
        self._connection = connection
        self._random = random.Random(seed)
        self._accounts = mirror.table("accounts").id
        self._items = mirror.table("items").id

    async def run(self, count: int) -> None:
        """Run transactions; one in five rolls back, some lose to unique values or deadlocks."""
        steps = [self._transfer, self._swap, self._rename, self._item, self._drop]
        for _ in range(count):
            try:
                async with self._connection.transaction():
                    for step in self._random.choices(steps, k=self._random.randint(1, 3)):
                        await step()
                    if self._random.random() < 0.2:
                        raise asyncpg.DataError("rolled back on purpose")
            except (
                asyncpg.IntegrityConstraintViolationError,
                asyncpg.DataError,
                asyncpg.DeadlockDetectedError,
            ):
                pass

    def _id(self) -> int:
        return self._random.randint(1, ROWS)

    async def _captured(self, sql: str, table: int, key: str, *args: object) -> None:
        await self._connection.execute(
            f"WITH w AS ({sql} RETURNING {key} AS key) INSERT INTO crossfade.ledger (tbl, key)"
            f" SELECT {table}, key FROM w",
            *args,
        )

    async def _account(self, sql: str, *args: object) -> None:
        await self._captured(f"UPDATE public.accounts SET {sql}", self._accounts, "ARRAY[id::text]", *args)

    async def _transfer(self) -> None:
        cents = self._random.randint(1, 50)
        one, other = self._random.sample(range(1, ROWS + 1), 2)
        await self._account("cents = cents - $1 WHERE id = $2", cents, one)
        await self._account("cents = cents + $1 WHERE id = $2", cents, other)

    async def _swap(self) -> None:
        """Exchange a unique e-mail by way of a third value, and a deferrable slot in one statement."""
        one, other = self._random.sample(range(1, ROWS + 1), 2)
        emails = {
            row["id"]: row["email"]
            for row in await self._connection.fetch(
                "SELECT id, email FROM public.accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE",
                [one, other],
            )
        }
        await self._account("email = NULL WHERE id = $1", one)
        await self._account("email = $1 WHERE id = $2", emails[one], other)
        await self._account("email = $1 WHERE id = $2", emails[other], one)
        await self._account(
            "slot = CASE id WHEN $1 THEN (SELECT slot FROM public.accounts WHERE id = $2)"
            " ELSE (SELECT slot FROM public.accounts WHERE id = $1) END WHERE id IN ($1, $2)",
            one,
            other,
        )

    async def _rename(self) -> None:
        await self._account("email = $1 WHERE id = $2", f"r{self._random.random()}", self._id())

    async def _item(self) -> None:
        await self._captured(
            "INSERT INTO public.items VALUES ($1, $2, $3::text::jsonb, $4::text::numeric)"
            " ON CONFLICT (account, name) DO UPDATE SET about = excluded.about, price = excluded.price",
            self._items,
            "ARRAY[account::text, name]",
            self._id(),
            self._random.choice("abc'\\,\"\n"),
            self._random.choice(['{"a": 1}', '{"a": 1.0}', "null", "[]"]),
            self._random.choice(["1", "1.0", "1.00", "NaN"]),
        )

    async def _drop(self) -> None:
        await self._captured(
            "DELETE FROM public.items WHERE account = $1",
            self._items,
            "ARRAY[account::text, name]",
            self._id(),
        )


async def converge_until(
    converger: Converger, mirror: Mirror, done: asyncio.Event, seed: int, ranges_ratio: float
) -> None:
    """Alternate passes with ranges at random places, as live converge and backfill do."""
    dice = random.Random(seed)
    tables = [mirror.table("accounts").id, mirror.table("items").id]
    while not done.is_set():
        await converger.converge_entries()
        if dice.random() < ranges_ratio:
            bound = str(dice.randint(1, ROWS))
            table = dice.choice(tables)
            lo = (bound,) if table == tables[0] else (bound, "b")
            await converger.converge_range(table, Range(lo, None), deletes_max=10_000)
    for _ in range(5):
        if (await converger.converge_entries()).is_complete:
            return


async def read_until(mirror: Mirror, done: asyncio.Event) -> tuple[int, int]:
    """Return how often the mirror was looked at, and how often it showed a state that never was."""
    reader = await asyncpg.connect(mirror.target.url())
    looks, wrong, progress = 0, 0, None
    try:
        while not done.is_set():
            async with reader.transaction(isolation="repeatable_read", readonly=True):
                total = await reader.fetchval("SELECT sum(cents) FROM accounts")
                now = await reader.fetchval("SELECT progress FROM crossfade.state")
            looks += 1
            wrong += total != TOTAL
            assert progress is None or now is None or dominates(now, progress), "progress went backwards"
            progress = now
    finally:
        reader.terminate()
    return looks, wrong


@pytest.mark.parametrize("ranges_ratio", [0.0, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
async def test_both_sides_are_equal_after_any_workload(
    old_db: str, new_db: str, seed: int, ranges_ratio: float
) -> None:
    print(f"SEED={seed}")
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(DDL)
        await mirror.write(
            f"INSERT INTO accounts SELECT i, 'u' || i, 100, i FROM generate_series(1, {ROWS}) i",
            accounts=range(1, ROWS + 1),
        )
        await mirror.converger.converge_entries()
        done = asyncio.Event()
        connections = [await asyncpg.connect(old_db) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            group.create_task(converge_until(mirror.converger, mirror, done, seed, ranges_ratio))
            reading = group.create_task(read_until(mirror, done))
            writers = [Writer(connection, mirror, seed + i) for i, connection in enumerate(connections)]
            await asyncio.gather(*(writer.run(60) for writer in writers))
            done.set()
        for connection in connections:
            connection.terminate()
        assert await mirror.differences("accounts", "items") == []
        assert await mirror.entries() == 0
        looks, wrong = reading.result()
        assert looks > 0
        if ranges_ratio == 0.0:
            assert wrong == 0, f"{wrong} of {looks} looks at the mirror"
