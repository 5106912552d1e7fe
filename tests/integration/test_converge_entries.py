"""Passes over the ledger: what they carry, what they clear, what they leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from proxy.demo.clusters import Cluster
from tests.integration.mirrors import Mirror

SHOP = """
CREATE TYPE mood AS ENUM ('calm', 'loud');
CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE TABLE users (
    id bigserial PRIMARY KEY, email text UNIQUE, mood mood, moods mood[], tags text[], about json,
    place point, note text, balance numeric, since timestamptz, span interval, raw bytea,
    address inet, hits int, doubled int GENERATED ALWAYS AS (hits * 2) STORED);
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE,
    total price);
CREATE TABLE lines (order_id int REFERENCES orders, number int, what text, PRIMARY KEY (order_id, number));
CREATE TABLE members (team text, name uuid, PRIMARY KEY (team, name));
"""


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(SHOP)
        yield mirror


async def test_rows_of_every_kind_arrive_byte_for_byte(mirror: Mirror) -> None:
    await mirror.write(
        """
        INSERT INTO users (email, mood, moods, tags, about, place, note, balance, since, span, raw,
                           address, hits)
        SELECT 'u' || i, 'calm', '{calm,loud}', ARRAY['a,b', NULL, '"'], '{"a": 1,  "a": 2}', point(i, 0.1),
               '<a>1</a>', i * 1.10, '2024-02-29 12:00:00.123456+05', '1 year 2 mons -3 days', '\\x00ff',
               '10.0.0.1/8', i
          FROM generate_series(1, 50) i;
        INSERT INTO orders (user_id, total) SELECT i, 1.5 FROM generate_series(1, 50) i;
        INSERT INTO lines SELECT i, n, E'tab\\there\\nnew \\\\N'
          FROM generate_series(1, 50) i, generate_series(1, 3) n;
        INSERT INTO members SELECT 'O''Neil \\ "' || i, gen_random_uuid() FROM generate_series(1, 20) i;
        """
    )
    for name in ("users", "orders"):
        await mirror.enter(name, list(range(1, 51)))
    await mirror.enter("lines", [(i, n) for i in range(1, 51) for n in range(1, 4)])
    await mirror.enter("members", [tuple(row) for row in await mirror.old.fetch("SELECT * FROM members")])
    done = await mirror.converger.converge_entries()
    assert done.is_complete
    assert (done.entries_count, done.rows_count, done.left_count) == (270, 270, 0)
    assert await mirror.differences("users", "orders", "lines", "members") == []
    assert await mirror.entries() == 0
    assert await mirror.new.fetchval("SELECT progress FROM crossfade.state") == done.snapshot


async def test_updates_deletes_and_moved_keys_arrive(mirror: Mirror) -> None:
    await mirror.write(
        "INSERT INTO users (email) SELECT 'u' || i FROM generate_series(1, 9) i", users=range(1, 10)
    )
    await mirror.converger.converge_entries()
    await mirror.write(
        "UPDATE users SET hits = 1 WHERE id = 1; DELETE FROM users WHERE id = 2;"
        "UPDATE users SET id = 77 WHERE id = 3",
        users=[1, 2, 3, 77],
    )
    done = await mirror.converger.converge_entries()
    assert done.is_complete
    assert await mirror.differences("users") == []
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 8


async def test_converging_twice_equals_converging_once(mirror: Mirror) -> None:
    await mirror.write("INSERT INTO members VALUES ('a', gen_random_uuid())")
    (row,) = await mirror.old.fetch("SELECT * FROM members")
    for _ in range(2):
        await mirror.enter("members", [tuple(row), tuple(row)])
        assert (await mirror.converger.converge_entries()).is_complete
        before = await mirror.new.fetchval("SELECT xmin::text FROM members")
    await mirror.enter("members", [tuple(row)])
    await mirror.converger.converge_entries()
    assert await mirror.new.fetchval("SELECT xmin::text FROM members") == before, (
        "an equal row is not written"
    )


async def test_equal_but_not_identical_values_arrive(mirror: Mirror) -> None:
    await mirror.write("INSERT INTO users (email, balance, about) VALUES ('a', 1.0, '{}')", users=[1])
    await mirror.converger.converge_entries()
    await mirror.write("UPDATE users SET balance = 1.000, about = '{ }'", users=[1])
    await mirror.converger.converge_entries()
    assert await mirror.new.fetchval("SELECT balance::text || about::text FROM users") == "1.000{ }"


async def test_old_cluster_may_be_postgresql_15(
    pg15: Cluster, new_db: str, make_database: Callable[..., str]
) -> None:
    async with Mirror(make_database(pg15), new_db) as mirror:
        await mirror.start(SHOP)
        await mirror.write("INSERT INTO users (email) VALUES ('a'), ('b')", users=[1, 2])
        assert (await mirror.converger.converge_entries()).is_complete
        await mirror.converger.converge_range(mirror.table("users").id)
        assert await mirror.differences("users") == []


# Small tables that are compared as a whole.


async def test_a_small_table_is_compared_in_the_transaction_of_the_pass(mirror: Mirror) -> None:
    """With its rows that only one side has, and together with the keys of others and of its own."""
    await mirror.execute("CREATE TABLE other (id int PRIMARY KEY, v int)")
    await mirror.init()
    await mirror.converger.refresh()
    await mirror.write("INSERT INTO other SELECT n, n FROM generate_series(1, 9) n", other=[1, 2, 9])
    await mirror.new.execute("INSERT INTO other VALUES (3, -3), (77, 77)")
    await mirror.enter("other", [()], "t")
    await mirror.write("INSERT INTO users (id, email) VALUES (4711, 'x')", users=[4711])
    done = await mirror.converger.converge_entries()
    assert done.is_complete and await mirror.entries() == 0
    assert await mirror.differences("users", "other") == []
    written = await mirror.new.fetch(
        "SELECT xmin FROM other UNION SELECT xmin FROM users WHERE id = 4711"
        " UNION SELECT xmin FROM crossfade.state"
    )
    assert len(written) == 1, "rows of both tables and the progress, in one transaction"


async def test_a_small_table_that_is_refused_is_walked_and_its_poison_put_aside(mirror: Mirror) -> None:
    await mirror.execute("CREATE TABLE other (id int PRIMARY KEY, v int)")
    await mirror.init()
    await mirror.new.execute("ALTER TABLE other ADD CHECK (v <> 5)")
    await mirror.converger.refresh()
    await mirror.write("INSERT INTO other SELECT n, n FROM generate_series(1, 9) n")
    await mirror.enter("other", [()], "t")
    await mirror.write("INSERT INTO users (id, email) VALUES (4711, 'x')", users=[4711])
    await mirror.converger.converge_entries()
    assert await mirror.differences("users") == []
    assert await mirror.new.fetchval("SELECT count(*) FROM other") == 8
    (left,) = await mirror.old.fetch("SELECT key, attempts FROM crossfade.ledger")
    assert (left["key"], left["attempts"]) == (["5"], 1)
