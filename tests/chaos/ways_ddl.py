"""The ways of DDL: tables are made, changed and dropped while others write to them.

What is made is called made_...; any client may write to it, change it or drop it.
"""

from __future__ import annotations

import random

import asyncpg

from tests.chaos.ways import Met, alone, met, together


@alone
@together
async def create_table(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = _new(chance)
    await connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, n int)")
    await _attempt(connection, f"INSERT INTO {name} SELECT n, n FROM generate_series(1, 9) n")


@together
async def create_table_as(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = _new(chance)
    await connection.execute(f"CREATE TABLE {name} AS SELECT id, score AS n FROM users WHERE id < 20")
    await connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")


@together
async def select_into(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = _new(chance)
    await connection.execute(f"SELECT id, cents AS n INTO {name} FROM money")
    await connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")


@alone
@together
async def materialized_view(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Made, filled again, and dropped: what it holds is no row of a table."""
    name = f"view_{_new(chance)}"
    await connection.execute(f"CREATE MATERIALIZED VIEW {name} AS SELECT count(*) FROM users")
    await connection.execute(f"REFRESH MATERIALIZED VIEW {name}")
    await connection.execute(f"DROP MATERIALIZED VIEW {name}")


@alone
@together
async def write_to_made_table(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = await _made(chance, connection)
    await _attempt(connection, f"UPDATE {name} SET n = n + 1 WHERE id < {chance.randint(1, 30)}")
    await _attempt(connection, f"INSERT INTO {name} (id) VALUES ({chance.randint(100, 9999)})")


@alone
@together
async def add_column(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = await _made(chance, connection)
    await _attempt(connection, f"ALTER TABLE {name} ADD COLUMN more text NOT NULL DEFAULT 'x'")
    await _attempt(connection, f"UPDATE {name} SET more = 'y' WHERE id % 2 = 0")


@alone
@together
async def drop_column(chance: random.Random, connection: asyncpg.Connection) -> None:
    await _attempt(connection, f"ALTER TABLE {await _made(chance, connection)} DROP COLUMN IF EXISTS more")


@alone
@together
async def widen_column(chance: random.Random, connection: asyncpg.Connection) -> None:
    await _attempt(connection, f"ALTER TABLE {await _made(chance, connection)} ALTER COLUMN n TYPE bigint")


@alone
async def index_concurrently(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = await _made(chance, connection)
    await _attempt(connection, f"CREATE INDEX CONCURRENTLY i_{chance.getrandbits(40)} ON {name} (n)")


@alone
@together
async def drop_table(chance: random.Random, connection: asyncpg.Connection) -> None:
    await _attempt(connection, f"DROP TABLE {await _made(chance, connection)}")


def _new(chance: random.Random) -> str:
    return f"made_{chance.getrandbits(40)}"


async def _made(chance: random.Random, connection: asyncpg.Connection) -> str:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relname ~ '^made_[0-9]+$' AND relkind = 'r' ORDER BY 1"
    )
    if not rows:
        raise Met
    return str(chance.choice(rows)["relname"])


async def _attempt(connection: asyncpg.Connection, text: str) -> None:
    """Run a statement on a table that somebody else may have dropped or changed by now."""
    try:
        await connection.execute(text)
    except asyncpg.InternalServerError as error:
        if "tuple concurrently" in str(error):  # PostgreSQL's words for two at the same table's catalog
            raise Met from error
        raise
    except asyncpg.PostgresError as error:
        raise met(error, "42P01", "42701", "42703") from error
