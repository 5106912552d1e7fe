"""Targets of every kind: what each of them cannot do, and that both sides become equal all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from proxy.catalog.bounds import Range
from proxy.demo.clusters import Cluster
from tests.integration.mirrors import Mirror, dsn_as
from tests.integration.nodes import three_nodes
from tests.roles import ensure_roles

SHOP = """
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0, about jsonb,
                    doubled int GENERATED ALWAYS AS (hits * 2) STORED);
CREATE TABLE orders (id bigint PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, total numeric);
CREATE TABLE lines (order_id bigint REFERENCES orders ON DELETE CASCADE, number int, what text,
                    PRIMARY KEY (order_id, number))
"""
KEYS = {"users": "id", "orders": "id", "lines": "order_id, number"}


@pytest.fixture
async def spread(
    old_db: str, pg15: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> AsyncIterator[Mirror]:
    """A source, and a target on three nodes."""
    async with Mirror(old_db, three_nodes(pg15, pg18, make_database, SHOP, KEYS)) as mirror:
        await mirror.old.execute(SHOP)
        await mirror.start("SELECT 1")
        await mirror.write(
            "INSERT INTO users SELECT i, 'u' || i, i, '{}' FROM generate_series(1, 30) i;"
            "INSERT INTO orders SELECT i, i, i * 1.10 FROM generate_series(1, 30) i;"
            "INSERT INTO lines SELECT i, n, 'line' FROM generate_series(1, 30) i, generate_series(1, 2) n",
            users=range(1, 31),
            orders=range(1, 31),
            lines=[(i, n) for i in range(1, 31) for n in (1, 2)],
        )
        yield mirror


async def test_rows_spread_over_three_nodes_are_updated_and_deleted_there(spread: Mirror) -> None:
    assert (await spread.converger.converge_entries()).is_complete
    assert await spread.differences(*KEYS) == []
    await spread.write(
        "UPDATE users SET hits = -1 WHERE id <= 9; DELETE FROM users WHERE id = 10;"
        "UPDATE lines SET what = NULL WHERE number = 1",
        users=range(1, 11),
        orders=[10],
        lines=[*((i, 1) for i in range(1, 31)), (10, 2)],
    )
    assert (await spread.converger.converge_entries()).is_complete
    assert await spread.differences(*KEYS) == []


async def test_unique_values_swapped_on_one_node_and_between_two(spread: Mirror) -> None:
    await spread.converger.converge_entries()
    await spread.write(
        "UPDATE users SET email = 'x' || id; UPDATE users SET email = 'u' || (id % 30 + 1)",
        users=range(1, 31),
    )
    assert (await spread.converger.converge_entries()).is_complete
    assert await spread.differences(*KEYS) == []


async def test_a_range_of_three_nodes_is_made_equal(spread: Mirror) -> None:
    table = spread.table("users").id
    done = await spread.converger.converge_range(table, Range(("5",), ("20",)))
    assert (done.rows_count, done.is_straight) == (15, True)
    await spread.new.execute(
        "INSERT INTO users (id, email, hits) VALUES (100, 'alone', 0); UPDATE users SET email = 'y' || id"
    )
    done = await spread.converger.converge_range(table)
    assert (done.rows_count, done.deleted_count) == (30, 1)
    assert await spread.differences("users") == []


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            "CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
            "CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE)"
        )
        await mirror.write(
            "INSERT INTO parents SELECT i, 'c' || i FROM generate_series(1, 9) i;"
            "INSERT INTO children SELECT i, i FROM generate_series(1, 9) i",
            parents=range(1, 10),
            children=range(1, 10),
        )
        yield mirror


async def swap(mirror: Mirror) -> dict[str, str]:
    """Change rows and let unique values change hands; return which tables are paused, and why."""
    await mirror.write(
        "UPDATE parents SET code = 'x' || id; UPDATE parents SET code = 'c' || (id % 9 + 1);"
        "UPDATE children SET parent = 1; DELETE FROM children WHERE id = 3",
        parents=range(1, 10),
        children=range(1, 10),
    )
    done = await mirror.converger.converge_entries()
    paused = dict(mirror.converger.statistics().paused)
    assert done.is_complete == (not paused), mirror.converger.statistics().last_error
    return paused


async def test_on_conflict_is_not_used_where_a_rule_forbids_it(mirror: Mirror) -> None:
    await mirror.new.execute("CREATE RULE watch AS ON UPDATE TO children DO ALSO SELECT 1")
    assert await swap(mirror) == {}
    assert await mirror.differences("parents", "children") == []


async def test_a_role_that_may_not_update_replaces_rows(mirror: Mirror, pg18: Cluster, new_db: str) -> None:
    role = limited(pg18, new_db, "SELECT, INSERT, DELETE")
    mirror.converger = mirror.make(target=dsn_as(mirror.target, role))
    assert await swap(mirror) == {"public.parents": "permission denied for table parents (42501)"}, (
        "a delete there would cascade"
    )
    await mirror.new.execute(f"GRANT SET ON PARAMETER session_replication_role TO {role}")
    await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")  # children had no parents
    try:
        mirror.converger = mirror.make(target=dsn_as(mirror.target, role))
        assert await swap(mirror) == {}
        assert await mirror.differences("parents", "children") == []
    finally:
        await mirror.new.execute(f"REVOKE ALL ON PARAMETER session_replication_role FROM {role}")


async def test_a_role_without_temporary_tables_is_told_so(mirror: Mirror, pg18: Cluster, new_db: str) -> None:
    role = limited(pg18, new_db, "ALL")
    await mirror.new.execute(f"REVOKE TEMP ON DATABASE {new_db.rpartition('/')[2]} FROM PUBLIC")
    mirror.converger = mirror.make(target=dsn_as(mirror.target, role))
    paused = await swap(mirror)
    assert "permission denied to create temporary tables" in paused["public.parents"]


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_transaction_that_lost_against_another_is_tried_again(mirror: Mirror, state: str) -> None:
    await mirror.converger.converge_entries()
    await mirror.new.execute(
        "CREATE SEQUENCE tries; CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('public.tries') < 4 THEN RAISE 'lost' USING ERRCODE = '{state}'; END IF; RETURN new;"
        " END $$; CREATE TRIGGER lose BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION lose();"
        " ALTER TABLE parents ENABLE ALWAYS TRIGGER lose"
    )
    assert await swap(mirror) == {}
    assert await mirror.new.fetchval("SELECT last_value FROM tries") > 3
    assert await mirror.differences("parents", "children") == []


async def test_a_type_without_a_binary_form_travels_as_text(mirror: Mirror) -> None:
    await mirror.execute("CREATE TABLE rights (id int PRIMARY KEY, rights aclitem[])")
    await mirror.init()
    await mirror.write("INSERT INTO rights VALUES (1, '{postgres=arwd/postgres}')", rights=[1])
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("rights") == []


def limited(cluster: Cluster, url: str, privileges: str) -> str:
    """Return a login that has these privileges on the tables, and may not become a replica."""
    ensure_roles(cluster, "limited")
    cluster.psql(
        f"GRANT {privileges} ON ALL TABLES IN SCHEMA public TO limited;"
        "GRANT ALL ON ALL TABLES IN SCHEMA crossfade TO limited; GRANT ALL ON SCHEMA crossfade TO limited;"
        "GRANT ALL ON ALL FUNCTIONS IN SCHEMA crossfade TO limited",
        url.rpartition("/")[2],
    )
    return "limited"
