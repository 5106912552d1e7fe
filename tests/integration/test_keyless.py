"""Tables without a key: rows arrive exactly once, and whatever happens both sides hold the same copies."""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import psycopg
import pytest

from proxy.capture.decide import decide
from proxy.capture.splice import splice
from proxy.capture.watch import watch_after, watch_before
from proxy.config.model import Tables
from proxy.converge import keyless
from proxy.demo.clusters import Cluster
from proxy.errors import DeletesRefused, TablePaused, UpstreamLost
from proxy.ledger import entries
from proxy.sql.classify import parse
from tests.integration.mirrors import Mirror
from tests.integration.nodes import three_nodes
from tests.running import Running

SCHEMA = """
CREATE TABLE log (at timestamptz DEFAULT '2024-01-01 10:00+02', what text, weight float8, n numeric, doc json);
CREATE TABLE part (region text, v int) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us (v int, region text);
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('us');
CREATE TABLE maybe (a int UNIQUE, b text);
CREATE TABLE keyed (id int PRIMARY KEY, v int);
"""
TABLES = ("log", "part", "maybe", "keyed")


class Keyless(Mirror):
    """A mirror whose source is written as the proxy writes it."""

    async def captured(self, text: str, connection: asyncpg.Connection | None = None) -> str:
        """Run a statement in the form that captures it; return which form that is."""
        connection = connection or self.old
        (statement,) = parse(text)
        plan = decide(statement, self.catalogs[0], ("public",))
        assert plan is not None
        if plan.is_inline_only:
            assert plan.inline is not None
            version = self.catalogs[0].server_version
            await connection.execute(splice(text, statement, plan.inline, None, version).text)
            return "inline"
        async with connection.transaction():
            for before in plan.entries_sql():
                await connection.execute(before)
            await connection.execute(watch_before())
            await connection.execute(text)
            await connection.execute(watch_after(plan.watch_except))
        return "watched"

    async def quiet(self) -> None:
        """Converge until the ledger is empty."""
        async with asyncio.timeout(30):
            while await self.entries():
                await self.converger.converge_entries()

    async def settle(self) -> None:
        """Converge until the ledger is empty; then both sides must be equal."""
        await self.quiet()
        assert await self.differences(*TABLES) == []


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Keyless]:
    async with Keyless(old_db, new_db) as mirror:
        await mirror.start(SCHEMA)
        yield mirror


WAYS = {
    "INSERT INTO log (what) VALUES ('a'), ('a'), (NULL)": "inline",
    "INSERT INTO log (what, weight, n, doc) SELECT 'x', 0.1 + i, '1.00', '{\"a\":  1}' FROM generate_series(1, 3) i": "inline",
    "INSERT INTO log (what) VALUES ('b') RETURNING what": "inline",
    "INSERT INTO part VALUES ('eu', 1), ('us', 1), ('us', 1)": "inline",
    "INSERT INTO part_us VALUES (7, 'us')": "inline",
    "INSERT INTO maybe VALUES (1, 'x'), (NULL, 'x'), (NULL, 'x') ON CONFLICT DO NOTHING": "inline",
    "INSERT INTO maybe VALUES (1, 'y') ON CONFLICT (a) DO UPDATE SET b = excluded.b": "watched",
    "UPDATE log SET what = 'c' WHERE what = 'a'": "watched",
    "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE what = 'c')": "watched",
    "UPDATE part SET region = 'eu' WHERE v = 7": "watched",
    "MERGE INTO maybe USING (VALUES (1)) s (a) ON maybe.a = s.a WHEN MATCHED THEN DELETE": "watched",
}


async def test_every_way_to_write_is_captured_and_arrives(mirror: Keyless) -> None:
    for text, form in WAYS.items():
        assert await mirror.captured(text) == form, text
        assert await mirror.entries(), text
        await mirror.settle()
    assert await mirror.new.fetchval("SELECT count(*) FROM log") == 6


async def test_all_at_once_they_arrive_too(mirror: Keyless) -> None:
    for text in WAYS:
        await mirror.captured(text)
    await mirror.settle()


async def test_history_is_copied_and_rows_written_meanwhile_arrive_once(mirror: Keyless) -> None:
    await mirror.old.execute("INSERT INTO log (what) SELECT i % 7 FROM generate_series(1, 100) i")
    await mirror.captured("INSERT INTO log (what) VALUES ('before')")
    log = mirror.table("log").id
    assert (await mirror.converger.converge_range(log)).is_straight
    await mirror.captured("INSERT INTO log (what) VALUES ('behind')")
    await mirror.settle()
    assert (await mirror.converger.converge_range(log)).rows_count == 102
    await mirror.settle()


async def test_rows_that_arrived_before_the_history_are_not_doubled(mirror: Keyless) -> None:
    await mirror.old.execute("INSERT INTO log (what) VALUES ('old'), ('old')")
    await mirror.captured("INSERT INTO log (what) VALUES ('new')")
    await mirror.converger.converge_entries()
    assert await mirror.new.fetchval("SELECT count(*) FROM log") == 1
    await mirror.converger.converge_range(mirror.table("log").id)
    await mirror.settle()


async def rows_change_places(mirror: Keyless) -> list[str]:
    """CLUSTER gives the addresses of rows on their way to rows that have arrived; return what differs."""
    await mirror.old.execute("CREATE INDEX by_what ON log (what)")
    await mirror.captured("INSERT INTO log (what) VALUES ('m'), ('n')")
    await mirror.settle()
    await mirror.captured("INSERT INTO log (what) VALUES ('b'), ('a')")
    await mirror.old.execute("CLUSTER log USING by_what")
    await mirror.quiet()
    return await mirror.differences("log")


async def test_rows_that_moved_make_it_compare_the_table(mirror: Keyless) -> None:
    assert await rows_change_places(mirror) == []


async def test_without_the_look_at_the_file_other_rows_arrive(
    mirror: Keyless, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = keyless.appended
    condition = " AND pg_relation_filenode(t.tableoid)::text = e.file"
    monkeypatch.setattr(keyless, "appended", lambda *args: original(*args).replace(condition, ""))
    assert await rows_change_places(mirror) == ["log"]


async def entries_outlive_their_rows_arrival(mirror: Keyless, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The target has committed and nothing is cleared, as when the answer is lost; return what differs."""
    await mirror.captured("INSERT INTO log (what) VALUES ('once')")
    with monkeypatch.context() as patch:
        patch.setattr(entries, "delete_appended", lost)
        with pytest.raises(UpstreamLost):
            await mirror.converger.converge_entries()
    assert await mirror.new.fetchval("SELECT count(*) FROM log") == 1
    await mirror.captured("INSERT INTO log (what) VALUES ('again')")
    await mirror.quiet()
    return await mirror.differences("log")


async def lost(*_: object) -> int:
    raise ConnectionResetError("the answer is lost")


async def test_a_row_that_has_arrived_does_not_arrive_again(
    mirror: Keyless, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await entries_outlive_their_rows_arrival(mirror, monkeypatch) == []


async def test_without_remembering_the_snapshot_it_does(
    mirror: Keyless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyless, "_APPLIED", "SELECT NULL::text FROM (VALUES ($1::int, $2::bigint)) v")
    assert await entries_outlive_their_rows_arrival(mirror, monkeypatch) == ["log"]


async def a_snapshot_of_another_reign(mirror: Keyless) -> list[str]:
    """The target remembers a snapshot of its own, from when it reigned; return what differs."""
    await mirror.new.execute(
        "INSERT INTO crossfade.appended SELECT $1, epoch - 1, '1:99999999:' FROM crossfade.state",
        mirror.table("log").id,
    )
    await mirror.captured("INSERT INTO log (what) VALUES ('fresh')")
    await mirror.quiet()
    return await mirror.differences("log")


async def test_what_was_remembered_in_another_reign_counts_for_nothing(mirror: Keyless) -> None:
    assert await a_snapshot_of_another_reign(mirror) == []


async def test_without_the_reign_a_row_is_taken_for_one_that_has_arrived(
    mirror: Keyless, monkeypatch: pytest.MonkeyPatch
) -> None:
    unaware = "SELECT snapshot FROM crossfade.appended WHERE tbl = $1 AND $2::bigint IS NOT NULL"
    monkeypatch.setattr(keyless, "_APPLIED", unaware)
    assert await a_snapshot_of_another_reign(mirror) == ["log"]


async def test_a_row_that_the_target_refuses_pauses_its_table_alone(mirror: Keyless) -> None:
    await mirror.new.execute("ALTER TABLE log ADD CHECK (what <> 'bad')")
    await mirror.captured("INSERT INTO log (what) VALUES ('good'), ('bad')")
    await mirror.captured("INSERT INTO part VALUES ('eu', 1)")
    for _ in range(3):
        await mirror.converger.converge_entries()
    assert await mirror.differences("log", "part") == ["log"]
    assert "violates check constraint" in mirror.converger.statistics().paused["public.log"]
    await mirror.new.execute("ALTER TABLE log DROP CONSTRAINT log_what_check")
    await mirror.settle()


async def test_a_source_that_is_empty_by_mistake_does_not_empty_the_target(mirror: Keyless) -> None:
    await mirror.new.execute("INSERT INTO log (what) SELECT 'x' FROM generate_series(1, 2000)")
    with pytest.raises(DeletesRefused):
        await mirror.converger.converge_range(mirror.table("log").id)


async def test_a_row_in_flight_arrives_when_it_is_committed(mirror: Keyless) -> None:
    """Its transaction is older than what the target has, and not seen by that."""
    other = await asyncpg.connect(mirror.source.url())
    try:
        async with other.transaction():
            await mirror.captured("INSERT INTO log (what) VALUES ('slow')", other)
            async with other.transaction():
                await mirror.captured("INSERT INTO log (what) VALUES ('in a savepoint')", other)
            await mirror.captured("INSERT INTO log (what) VALUES ('quick')")
            await mirror.converger.converge_entries()
            assert await mirror.new.fetchval("SELECT array_agg(what) FROM log") == ["quick"]
        await mirror.settle()
    finally:
        await other.close()


async def test_on_three_nodes_as_many_copies_arrive(
    old_db: str, pg15: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    """Rows of several nodes may have one address: the partition tells them apart."""
    schema = "CREATE TABLE log (what text, v int)"
    target = three_nodes(pg15, pg18, make_database, schema, {"log": "what"})
    async with Keyless(old_db, target) as mirror:
        await mirror.old.execute(schema)
        await mirror.start("SELECT 1")
        await mirror.captured("INSERT INTO log SELECT i % 9, i % 2 FROM generate_series(1, 100) i")
        await mirror.quiet()
        assert await mirror.differences("log") == []
        await mirror.captured("UPDATE log SET v = 7 WHERE what IN ('1', '2') AND v = 1")
        await mirror.captured("DELETE FROM log WHERE what IN ('3', '4', '5') AND v = 0")
        await mirror.captured("INSERT INTO log VALUES ('1', 7), (NULL, 1), ('6', 0)")
        await mirror.quiet()
        assert await mirror.differences("log") == []


async def test_from_three_nodes_it_compares(
    new_db: str, pg15: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    """On the way back: a foreign table has no file, so an address in it proves nothing."""
    schema = "CREATE TABLE log (what text, v int)"
    source = three_nodes(pg15, pg18, make_database, schema, {"log": "what"})
    async with Keyless(source, new_db) as mirror:
        await mirror.new.execute(schema)
        await mirror.start("SELECT 1")
        for n in (1, 2):
            await mirror.captured(f"INSERT INTO log SELECT i % 9, {n} FROM generate_series(1, 50) i")
            await mirror.quiet()
            assert await mirror.differences("log") == []


async def test_rows_arrive_once_through_a_switch_and_the_way_back(
    old_db: str, new_db: str, tmp_path: Path
) -> None:
    with Running(tmp_path, old_db, new_db) as running:
        for url in (old_db, new_db):
            with psycopg.connect(url, autocommit=True) as direct:
                direct.execute("CREATE TABLE log (what text, side text)")
        with psycopg.connect(old_db, autocommit=True) as old:
            old.execute("INSERT INTO log SELECT 'history', 'old' FROM generate_series(1, 100)")
        running.command("init")
        running.start()
        await running.wait_converged()
        with psycopg.connect(running.url(), autocommit=True) as client:
            for side in ("old", "new", "old"):
                if side != running.status()["authority"]:
                    await running.switch(side)
                client.execute("INSERT INTO log VALUES ('twice', %s), ('twice', %s)", (side, side))
                client.execute(
                    "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE what = 'history')"
                )
                client.execute("INSERT INTO log VALUES ('last', %s)", (side,))
        await running.wait_converged()
        assert running.command("verify").returncode == 0
        for url in (old_db, new_db):
            with psycopg.connect(url) as direct:
                found = dict(direct.execute("SELECT what, count(*) FROM log GROUP BY what").fetchall())
                assert found == {"history": 97, "twice": 6, "last": 3}


async def test_a_key_that_holds_null_pauses_its_table_until_it_does_not(
    pg15: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    """`tables.key` names a unique index whose columns may be NULL: the operator vouches for them."""
    tables = Tables.model_validate({"key": {"maybe": "a"}})
    async with Keyless(make_database(pg15), make_database(pg18), tables=tables) as mirror:
        await mirror.start(SCHEMA)
        assert mirror.table("maybe").nullable_key == ("a",)
        await mirror.captured("INSERT INTO maybe VALUES (1, 'x'), (2, 'x')")
        await mirror.settle()
        await mirror.captured("INSERT INTO maybe VALUES (NULL, 'x'), (3, 'x')")
        await mirror.converger.converge_entries()
        assert "whose key (a) is NULL" in mirror.converger.statistics().paused["public.maybe"]
        with pytest.raises(TablePaused):
            await mirror.converger.converge_range(mirror.table("maybe").id)
        await mirror.captured("UPDATE maybe SET a = 4 WHERE a IS NULL")
        await mirror.settle()
