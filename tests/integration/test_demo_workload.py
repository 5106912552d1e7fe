"""The demo's load and its two proofs, tried on PostgreSQL itself before any proxy is involved.

A proof that cannot fail proves nothing: each one is also shown a database that is wrong.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

import proxy.demo
from proxy.demo.clusters import Cluster
from proxy.demo.compare import compare
from proxy.demo.journal import Journal, Row
from proxy.demo.workload import KEYS, Shape, Workload
from tests.roles import ensure_roles

FOLDER = Path(proxy.demo.__file__).parent
SHAPE = Shape(users_count=2400, operations_per_s=600)


@pytest.fixture
def shop(old_db: str, pg16: Cluster) -> str:
    """URL of a small shop, as the superuser."""
    database = old_db.rsplit("/", 1)[1]
    ensure_roles(pg16, "app")
    pg16.psql((FOLDER / "schema.sql").read_text(), database)
    pg16.psql(f"\\set users {SHAPE.users_count}\n" + (FOLDER / "seed.sql").read_text(), database)
    return old_db


async def run_load(url: str, statements_count: int) -> Journal:
    """Run the load until its clients have run that many statements."""
    journal = Journal(KEYS)
    load = Workload(url.replace("postgres@", "app@"), journal, SHAPE)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await journal.wait_statements(statements_count)
        await load.stop()
    return journal


async def test_load_runs_without_failures_and_everything_acknowledged_is_there(shop: str) -> None:
    journal = await run_load(shop, 4000)
    statistics = journal.statistics()
    assert statistics.failures == ()
    assert statistics.statements_count >= 4000
    assert statistics.writes_count > 500
    connection = await asyncpg.connect(shop)
    try:
        assert await journal.lost(connection) == []
        # A load that leaves any of the tables alone would prove nothing about it.
        for table in KEYS:
            changed = "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = $1"
            await connection.execute("SELECT pg_stat_force_next_flush()")
            assert await connection.fetchval(changed, table) > 0, table
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DELETE FROM events WHERE payload ? 'n' AND kind = 'checkout'", "missing"),
        ("UPDATE users SET email = 'x' || email", ".email"),
        ("UPDATE products SET stock = stock + 1", ".stock"),
        ("DELETE FROM order_lines", "order_lines("),
    ],
)
async def test_lost_acknowledged_write_is_named(shop: str, damage: str, named: str) -> None:
    journal = await run_load(shop, 1500)
    connection = await asyncpg.connect(shop)
    try:
        await connection.execute(damage)
        lost = await journal.lost(connection)
    finally:
        await connection.close()
    assert lost
    assert any(named in str(item) for item in lost)


async def test_deleted_row_that_came_back_is_named(shop: str) -> None:
    journal = Journal(KEYS)
    journal.deleted(Row("orders", ("1",)))
    connection = await asyncpg.connect(shop)
    try:
        (lost,) = await journal.lost(connection)
    finally:
        await connection.close()
    assert str(lost) == "orders(1): acknowledged 'deleted', found 'still there'"


async def test_failed_statement_is_counted_and_its_row_is_uncertain(shop: str, pg16: Cluster) -> None:
    database = shop.rsplit("/", 1)[1]
    pg16.psql("ALTER TABLE events ADD CONSTRAINT none CHECK (false) NOT VALID", database)
    journal = await run_load(shop, 1500)
    statistics = journal.statistics()
    assert statistics.failures_count > 0
    assert all("insert events: 23514" in reason for reason, _ in statistics.failures)
    connection = await asyncpg.connect(shop)
    try:
        assert await journal.lost(connection) == []
    finally:
        await connection.close()


async def test_comparison_names_what_differs_and_how(
    old_db: str, new_db: str, pg16: Cluster, pg18: Cluster
) -> None:
    table = "CREATE TABLE t (a int, b text, c numeric, PRIMARY KEY (a, b));"
    rows = "INSERT INTO t SELECT n, E'k\\t' || n, n / 3.0 FROM generate_series(1, 5000) n;"
    for url, cluster in ((old_db, pg16), (new_db, pg18)):
        cluster.psql(table + rows, url.rsplit("/", 1)[1])
    keys = {"t": ("a", "b")}
    (equal,) = await compare(old_db, new_db, keys)
    assert (equal.rows_count, equal.differences_count) == (5000, 0)
    pg18.psql(
        "DELETE FROM t WHERE a = 7; UPDATE t SET c = 0 WHERE a = 8; INSERT INTO t VALUES (9, 'x', 1)",
        new_db.rsplit("/", 1)[1],
    )
    (different,) = await compare(old_db, new_db, keys)
    assert different.differences == (
        "7,k\\t7 only on the first side",
        "8,k\\t8 differs",
        "9,x only on the second side",
    )


async def test_longest_wait_is_of_statements_under_way_in_the_span() -> None:
    journal = Journal(KEYS)
    for started_s, duration_s in ((0.0, 5.0), (6.0, 1.0), (8.0, 3.0), (12.0, 9.0)):
        journal.waited(started_s, duration_s, f"at {started_s}")
    assert journal.longest_wait(5.5, 11.5).operation == "at 8.0"
    assert journal.longest_wait(5.5, 7.5).operation == "at 6.0"
    assert journal.longest_wait(100.0, 101.0).duration_s == 0.0
