"""Every way to write to a mirrored table, each a function that a client calls with a choice of its own.

Those of DDL are in `ways_ddl`, those whose text does not say which rows they change in `ways_unseen`.

    together   may be a step of a transaction, under a savepoint, or before PREPARE TRANSACTION
    alone      may be a transaction by itself
    shaped     needs the same partitions on the mirror: not where it is spread over nodes

A campaign counts how often each was done and acknowledged; one that never was, fails it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import asyncpg

USERS = 120
ORDERS = 60
ACCOUNTS = 20

Way = Callable[[random.Random, asyncpg.Connection], Awaitable[object]]
TOGETHER: list[Way] = []
ALONE: list[Way] = []
SHAPED: set[Way] = set()
TEMPORARY: set[Way] = set()
"""What PREPARE TRANSACTION refuses."""


class Met(Exception):
    """Another client was faster; the transaction is given up."""


def together(way: Way) -> Way:
    """Register a step of a transaction."""
    TOGETHER.append(way)
    return way


def alone(way: Way) -> Way:
    """Register a transaction."""
    ALONE.append(way)
    return way


def shaped(way: Way) -> Way:
    """Register what depends on the mirror's partitions."""
    SHAPED.add(way)
    return way


def temporary(way: Way) -> Way:
    """Register what cannot be prepared."""
    TEMPORARY.add(way)
    return way


def user(chance: random.Random) -> int:
    """Return the key of a row that may be there."""
    return chance.randint(1, USERS)


def word(chance: random.Random) -> str:
    """Return a text that is hard to quote."""
    odd = chance.choice(("a", "Ä", "tab\t", "line\n", "\\", '"', ","))
    return f"{odd}{chance.getrandbits(20)}"


def met(error: asyncpg.PostgresError, *states: str) -> Exception:
    """Return that somebody was faster, if the error says so; else the error."""
    return Met() if error.sqlstate in states else error


# INSERT, UPDATE, DELETE, MERGE.


@alone
@together
async def insert(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.fetch(
        "INSERT INTO users (id, email, about) VALUES ($1, $2, $3::text::jsonb) RETURNING *",
        user(chance),
        word(chance),
        chance.choice(('{"a": 1.0}', "[]", "null", '{"a":  "x"}')),
    )


@alone
@together
async def insert_select(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO children SELECT $1::int + n, id FROM users, generate_series(1, 2) n WHERE id = $2",
        chance.randint(1000, 9000),
        user(chance),
    )


@alone
@together
async def on_conflict_update(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO users AS u (id, email) VALUES ($1, $2), ($1 + 1, $2 || '!')"
        " ON CONFLICT (id) DO UPDATE SET score = u.score + 1 WHERE u.score < 1000",
        user(chance),
        word(chance),
    )


@together
async def on_conflict_constraint(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO users (id, email) VALUES ($1, $2)"
        " ON CONFLICT ON CONSTRAINT users_email_key DO UPDATE SET score = excluded.score, about = '[1]'",
        user(chance) + USERS,
        f"u{user(chance)}",
    )


@together
async def on_conflict_nothing(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        f"INSERT INTO users VALUES ({user(chance)}, 'u{user(chance)}') ON CONFLICT DO NOTHING"
    )


@alone
@together
async def update_row(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.fetchval(
        "UPDATE users SET score = score + 1, email = $2 WHERE id = $1 RETURNING score",
        user(chance),
        word(chance),
    )


@alone
@together
async def update_range(chance: random.Random, connection: asyncpg.Connection) -> None:
    low = user(chance)
    await connection.execute(
        f"UPDATE users SET score = score - 1 WHERE id BETWEEN {low} AND {low + 20} -- some"
    )


@together
async def update_from(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "UPDATE users u SET score = u.score + c.id % 7 FROM children c WHERE c.user_id = u.id AND u.id = $1",
        user(chance),
    )


@alone
@together
async def update_key(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Cascades to the children."""
    await connection.execute("UPDATE users SET id = $2 WHERE id = $1", user(chance), user(chance))


@together
async def update_current_of(chance: random.Random, connection: asyncpg.Connection) -> None:
    name = f"c{chance.getrandbits(30)}"
    await connection.execute(
        f"DECLARE {name} CURSOR FOR SELECT * FROM users WHERE id > {user(chance)} FOR UPDATE"
    )
    if await connection.fetch(f"FETCH 1 FROM {name}"):
        await connection.execute(f"UPDATE users SET score = -5 WHERE CURRENT OF {name}")
    await connection.execute(f"CLOSE {name}")


@together
async def swap_unique(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Let unique values change hands round a ring of two to six rows."""
    ring = chance.sample(range(1, USERS + 1), chance.randint(2, 6))
    rows = await connection.fetch(
        "SELECT id, email FROM users WHERE id = ANY($1) ORDER BY id FOR UPDATE", ring
    )
    await connection.execute("UPDATE users SET email = NULL WHERE id = ANY($1)", ring)
    for row, other in zip(rows, [*rows[1:], *rows[:1]], strict=True):
        await connection.execute("UPDATE users SET email = $1 WHERE id = $2", other["email"], row["id"])


@alone
@together
async def delete_row(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Cascades to the children."""
    await connection.execute("DELETE FROM users WHERE id = $1", user(chance))


@together
async def delete_using(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "DELETE FROM children c USING users u WHERE u.id = c.user_id AND u.id = $1", user(chance)
    )


@alone
@together
async def writable_cte(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        f"WITH gone AS (DELETE FROM places WHERE id = {chance.randint(1, 60)} RETURNING *)"
        " INSERT INTO tags SELECT what || id || '/' || region, region FROM gone"
        " ON CONFLICT (name) DO UPDATE SET uses = 0"
    )


@alone
@together
async def merge(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "MERGE INTO places p USING"
        " (SELECT n % 3 AS region, n AS id FROM generate_series($1::int, $1 + 3) n) s"
        " ON p.region = s.region AND p.id = s.id WHEN MATCHED AND p.id % 2 = 0 THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET what = 'merged'"
        " WHEN NOT MATCHED THEN INSERT VALUES (s.region, s.id, 'new')",
        chance.randint(1, 60),
    )


@together
async def explain_analyze(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.fetch(f"EXPLAIN ANALYZE UPDATE users SET score = 7 WHERE id = {user(chance)}")


@alone
async def string_of_statements(chance: random.Random, connection: asyncpg.Connection) -> None:
    """One transaction."""
    one, other = user(chance), user(chance)
    await connection.execute(
        f"UPDATE users SET score = 1 WHERE id = {one}; DELETE FROM children WHERE user_id = {other};"
        f" SELECT 1; INSERT INTO tags VALUES ('s{one}') ON CONFLICT DO NOTHING"
    )


# COPY and TRUNCATE.


@alone
@together
async def copy_binary(chance: random.Random, connection: asyncpg.Connection) -> None:
    records = [(f"copied {chance.getrandbits(24)}", n) for n in range(3)]
    await connection.copy_records_to_table("tags", records=records, columns=["name", "uses"])


@alone
@together
async def copy_csv(chance: random.Random, connection: asyncpg.Connection) -> None:
    text = f'"{chance.getrandbits(24)}, csv"\n"{chance.getrandbits(24)} ""csv"""\n'
    await _copy(connection, text, format="csv")


@alone
@together
async def copy_text(chance: random.Random, connection: asyncpg.Connection) -> None:
    await _copy(connection, f"{chance.getrandbits(24)}\\ttext\n{chance.getrandbits(24)}\\\\ text\n")


async def _copy(connection: asyncpg.Connection, text: str, **options: str) -> None:
    async def lines() -> object:
        yield text.encode()

    await connection.copy_to_table("tags", source=lines(), columns=["name"], **options)


@alone
@together
async def truncate(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("TRUNCATE labels")
    await connection.execute(f"INSERT INTO labels SELECT generate_series(1, {chance.randint(1, 9)})")


@together
async def truncate_cascade(chance: random.Random, connection: asyncpg.Connection) -> None:
    await connection.execute("TRUNCATE shelves CASCADE")
    await connection.execute(f"INSERT INTO shelves VALUES ({chance.randint(1, 9)})")


@alone
@together
async def fill_shelf(chance: random.Random, connection: asyncpg.Connection) -> None:
    """Give TRUNCATE something to do."""
    await connection.execute(
        "INSERT INTO books SELECT $1, min(id) FROM shelves ON CONFLICT DO NOTHING", chance.randint(1, 500)
    )


# What must be true at any time.


@together
async def transfer(chance: random.Random, connection: asyncpg.Connection) -> None:
    one, other = sorted(chance.sample(range(1, ACCOUNTS + 1), 2))
    cents = chance.randint(-50, 50)
    async with connection.transaction():
        await connection.execute("UPDATE money SET cents = cents - $1 WHERE id = $2", cents, one)
        await connection.execute("UPDATE money SET cents = cents + $1 WHERE id = $2", cents, other)


@alone
async def transfer_string(chance: random.Random, connection: asyncpg.Connection) -> None:
    one, other = sorted(chance.sample(range(1, ACCOUNTS + 1), 2))
    await connection.execute(
        f"UPDATE money SET cents = cents - 7 WHERE id = {one};"
        f" UPDATE money SET cents = cents + 7 WHERE id = {other}"
    )


@together
async def new_order(chance: random.Random, connection: asyncpg.Connection) -> None:
    order, count = chance.getrandbits(40), chance.randint(1, 3)
    async with connection.transaction():
        await connection.execute("INSERT INTO orders VALUES ($1, $2)", order, 5 * count)
        for number in range(count):
            await connection.execute("INSERT INTO lines VALUES ($1, $2, 5)", order, number)


@together
async def change_order(chance: random.Random, connection: asyncpg.Connection) -> None:
    order = chance.randint(1, ORDERS)
    async with connection.transaction():
        update = "UPDATE orders SET total = total + 1 WHERE id = $1 RETURNING id"
        if await connection.fetchval(update, order) is not None:
            number = chance.getrandbits(30)
            await connection.execute("INSERT INTO lines VALUES ($1, $2, 1)", order, number)


@together
async def drop_order(chance: random.Random, connection: asyncpg.Connection) -> None:
    order = chance.randint(1, ORDERS)
    async with connection.transaction():
        await connection.execute("DELETE FROM orders WHERE id = $1", order)
        await connection.execute("DELETE FROM lines WHERE order_id = $1", order)
