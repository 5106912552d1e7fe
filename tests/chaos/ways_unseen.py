"""The ways to write whose text does not show which rows change, and tables that are not plain ones."""

from __future__ import annotations

import random

import asyncpg

from tests.chaos.ways import SHAPED, alone, met, shaped, temporary, together, user, word


@alone
@together
async def view_update(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE scored SET score = score + 1 WHERE id = $1", user(chance))


@together
async def view_insert_and_delete(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("DELETE FROM scored WHERE id = $1", user(chance))
    await connection.execute(
        "INSERT INTO scored VALUES ($1, $2) ON CONFLICT DO NOTHING", user(chance), chance.randint(0, 99)
    )


@alone
@together
async def rule(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(f"UPDATE ruled SET n = n + 1 WHERE id = {chance.randint(1, 9)}")


@alone
@together
async def trigger(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO audited VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET what = excluded.what",
        chance.randint(1, 50),
        word(chance),
    )


@alone
@together
async def function(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.fetch("SELECT score_all($1)", chance.randint(0, 9))


@alone
@together
async def do_block(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(f"DO $$ BEGIN UPDATE tags SET uses = uses + {chance.randint(1, 5)}; END $$")


@alone
@together
async def call(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(f"CALL tag('called {chance.randint(1, 9)}')")


@alone
async def call_with_commit(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(f"CALL in_steps({chance.randint(1, 50)})")


# Tables of other kinds.


@alone
@together
async def move_between_partitions(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        f"UPDATE places SET region = (region + 1) % 3, what = 'moved' WHERE id = {chance.randint(1, 60)}"
    )


@alone
@together
async def partition_by_name(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(f"UPDATE places_1 SET what = what || '!' WHERE id = {chance.randint(1, 60)}")


@shaped
@alone
async def detach_partition(_: random.Random, connection: asyncpg.Connection) -> None:
    try:
        await connection.execute("ALTER TABLE events DETACH PARTITION events_1")
    except asyncpg.PostgresError as error:
        raise met(error, "42P01", "55000") from error


@shaped
@alone
async def attach_partition(_: random.Random, connection: asyncpg.Connection) -> None:
    try:
        await connection.execute("ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES IN (1)")
    except asyncpg.PostgresError as error:
        raise met(error, "42809") from error


@alone
@together
async def events(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Write where partitions come and go."""
    table = chance.choice(("events", "events_1"))
    await connection.execute(
        f"INSERT INTO {table} VALUES (1, $1, 'x')"
        f" ON CONFLICT (region, id) DO UPDATE SET what = {table}.what || '+'",
        chance.randint(1, 40),
    )


SHAPED.add(events)


@alone
@together
async def inheritance(chance: random.Random, connection: asyncpg.Connection) -> None:
    number = chance.randint(1, 30)
    await connection.execute(
        "INSERT INTO dogs VALUES ($1, 'wuff') ON CONFLICT (id) DO UPDATE SET name = dogs.name || '!'", number
    )
    await connection.execute("UPDATE animals SET name = name || '?' WHERE id = $1", number)


@together
async def row_security(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("SET LOCAL ROLE chaos_limited")
    await connection.execute("UPDATE secrets SET n = n + 1 WHERE id % 5 = $1", chance.randint(0, 4))
    await connection.execute(
        f"INSERT INTO secrets VALUES ({chance.randint(100, 999)}, 'chaos_limited', 0) ON CONFLICT DO NOTHING"
    )
    await connection.execute("RESET ROLE")


@together
async def key_not_readable(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("SET LOCAL ROLE chaos_blind")
    await connection.execute(f"UPDATE letters SET n = {chance.randint(0, 99)}")
    await connection.execute("INSERT INTO letters VALUES ($1, 0)", chance.randint(100, 999_999))
    await connection.execute("RESET ROLE")


@alone
@together
async def unlogged(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO fleeting VALUES ($1, 0) ON CONFLICT (id) DO UPDATE SET n = fleeting.n + 1",
        chance.randint(1, 40),
    )


@temporary
@together
async def temporary_table(chance: random.Random, connection: asyncpg.Connection) -> None:
    """One that hides a mirrored table of the same name, too."""
    name = chance.choice(("tags", f"mine_{chance.getrandbits(30)}"))
    await connection.execute(
        f"CREATE TEMP TABLE {name} (name text PRIMARY KEY, uses int NOT NULL DEFAULT 0) ON COMMIT DROP"
    )
    await connection.execute(f"INSERT INTO {name} VALUES ('own', {chance.randint(0, 9)})")
    await connection.execute(
        f"INSERT INTO public.tags SELECT name || uses, uses FROM pg_temp.{name} ON CONFLICT DO NOTHING"
    )
    await connection.execute(f"DROP TABLE pg_temp.{name}")
