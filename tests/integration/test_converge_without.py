"""Guards of converge, each tried with and without: what happens when one is taken away.

The races of `test_converge_guards` are about time; these are about what is written and deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.catalog.bounds import Range
from proxy.converge import apply, closure, ranges, rows
from proxy.converge.plan import Plan
from proxy.errors import DeletesRefused, UpstreamLost
from proxy.ledger import reading
from proxy.ledger.lease import Lease
from tests.integration.mirrors import Mirror

SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, total int);
CREATE TABLE lines (order_id int REFERENCES orders, number int, amount int, PRIMARY KEY (order_id, number));
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0);
"""


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(SCHEMA)
        await mirror.execute("INSERT INTO users SELECT n, 'u' || n FROM generate_series(1, 20) n")
        yield mirror


async def half_an_order(mirror: Mirror) -> list[int]:
    """Hold one of two tables on the target while a pass writes both; return what a reader then sees."""
    insert = "INSERT INTO orders VALUES ({0}, 10); INSERT INTO lines VALUES ({0}, 1, 10)"
    await mirror.write(insert.format(0), orders=[0], lines=[(0, 1)])
    await mirror.converger.converge_entries()  # finding out how to write locks the tables, too
    await mirror.write(insert.format(1), orders=[1], lines=[(1, 1)])
    blocker = await asyncpg.connect(mirror.target.url())
    await blocker.execute("BEGIN; LOCK TABLE lines IN SHARE MODE")
    passing = asyncio.create_task(mirror.converger.converge_entries())
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'lines'::regclass"
    while not await mirror.new.fetchval(waits):
        await asyncio.sleep(0.005)
    counts = ("SELECT count(*) FROM orders WHERE id = 1", "SELECT count(*) FROM lines WHERE order_id = 1")
    seen = [int(await mirror.new.fetchval(count)) for count in counts]
    await blocker.execute("ROLLBACK")
    blocker.terminate()
    assert (await passing).is_complete
    assert await mirror.differences("orders", "lines") == []
    return seen


async def test_a_reader_of_the_mirror_never_sees_an_order_without_its_lines(mirror: Mirror) -> None:
    assert await half_an_order(mirror) == [0, 0]


async def test_without_one_transaction_for_all_tables_it_does(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = apply.apply

    async def one_by_one(links: Any, lease: Lease, tables: list[Plan], *, also: str = "") -> None:
        for table in tables:
            await original(links, lease, [table], also=also)

    monkeypatch.setattr(apply, "apply", one_by_one)
    assert await half_an_order(mirror) == [1, 0]


async def emptied(mirror: Mirror) -> int:
    """Converge from a source that is empty, as by mistake; return how many rows are left."""
    await mirror.old.execute("DELETE FROM users")
    try:
        await mirror.make(deletes_max=5).converge_range(mirror.table("users").id, Range(("3",), None))
    except DeletesRefused:
        pass
    return int(await mirror.new.fetchval("SELECT count(*) FROM users"))


async def test_a_source_that_is_empty_by_mistake_deletes_no_more_than_the_budget(mirror: Mirror) -> None:
    assert await emptied(mirror) == 20


async def test_without_the_budget_it_empties_the_target(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ranges.converge

    async def boundless(*args: Any, **kwargs: Any) -> Any:
        return await original(*args, **{**kwargs, "deletes_max": None})

    monkeypatch.setattr(ranges, "converge", boundless)
    assert await emptied(mirror) == 3


async def strict(mirror: Mirror) -> set[int]:
    """Converge two rows of which the target allows only one; return those it has."""
    await mirror.old.execute("ALTER TABLE users DROP CONSTRAINT users_email_key")
    await mirror.write("INSERT INTO users VALUES (100, 'u1')", users=[100])
    await mirror.converger.converge_entries()
    return {row[0] for row in await mirror.new.fetch("SELECT id FROM users WHERE email = 'u1'")}


async def test_a_row_that_blocks_rightly_is_kept(mirror: Mirror) -> None:
    assert await strict(mirror) == {1}


async def test_deleting_whatever_blocks_deletes_an_innocent_row(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replace(links: Any, tables: list[Plan], error: Exception) -> bool:
        await links.target.execute("DELETE FROM public.users WHERE email = 'u1'")
        return True

    monkeypatch.setattr(closure, "resolve", replace)
    assert await strict(mirror) == {100}


async def half_a_stream(mirror: Mirror) -> list[str]:
    """Let the source fail in the middle of its rows; return what differs when the pass has ended."""
    await mirror.write("UPDATE users SET hits = 1; DELETE FROM users WHERE id = 20", users=range(1, 21))
    await mirror.new.execute("DELETE FROM users")
    try:
        await mirror.converger.converge_range(mirror.table("users").id)
    except UpstreamLost:
        pass
    count = await mirror.new.fetchval("SELECT count(*) FROM users")
    return [] if count in (0, 19) else [f"{count} rows"]


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break off the source's stream after some rows."""
    original = asyncpg.Connection.copy_from_query

    async def broken(self: asyncpg.Connection, query: str, *, output: Any, **kwargs: Any) -> str:
        await original(self, query + " LIMIT 7", output=output, **kwargs)
        raise ConnectionResetError("cut in the middle")

    monkeypatch.setattr(asyncpg.Connection, "copy_from_query", broken)


async def test_half_a_stream_is_not_taken_for_a_whole_one(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch)
    assert await half_a_stream(mirror) == []


async def test_taking_what_came_for_all_there_is_loses_rows(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch)
    read = rows._Pipe.read

    async def trusting(self: Any, *args: Any) -> None:
        await read(self, *args)
        self.failure = None

    monkeypatch.setattr(rows._Pipe, "read", trusting)
    assert await half_a_stream(mirror) == ["7 rows"]


async def constant_writes(mirror: Mirror) -> int:
    """Write a poisonous row again and again; return how often it was tried."""
    await mirror.new.execute(
        "CREATE SEQUENCE tries; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM nextval('public.tries'); RAISE check_violation; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW WHEN (old.id = 7)"
        " EXECUTE FUNCTION refuse(); ALTER TABLE users ENABLE ALWAYS TRIGGER refuse"
    )
    for _ in range(5):
        await mirror.write("UPDATE users SET hits = hits + 1 WHERE id IN (7, 8)", users=[7, 8])
        await mirror.converger.converge_entries()
    return int(await mirror.new.fetchval("SELECT last_value FROM tries"))


async def test_a_poisonous_row_under_constant_writes_is_tried_once(mirror: Mirror) -> None:
    assert await constant_writes(mirror) <= 4, "the pass, the table, its halves"


async def test_without_waiting_for_the_key_every_pass_tries_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = reading._READ.replace("AND (tbl, kind, key) NOT IN (SELECT tbl, kind, key FROM waiting)", "")
    monkeypatch.setattr(reading, "_READ", impatient)
    assert await constant_writes(mirror) >= 10


async def against_the_authority(mirror: Mirror) -> int:
    """Converge towards the side that reigns, as a process that missed a switch; return what it wrote."""
    await mirror.write("UPDATE users SET hits = 9 WHERE id = 1", users=[1])
    await mirror.new.execute("UPDATE crossfade.state SET is_authority = true")
    try:
        await mirror.converger.converge_entries()
    except UpstreamLost:
        pass
    except Exception as error:
        assert "the target is the authority" in str(error)
    return int(await mirror.new.fetchval("SELECT count(*) FROM users WHERE hits = 9"))


async def test_nothing_is_written_to_the_authority(mirror: Mirror) -> None:
    assert await against_the_authority(mirror) == 0


async def test_without_the_look_at_the_reign_newer_rows_are_overwritten(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Lease, "guard", lambda self, *, is_target: f"SELECT crossfade.own({self.epoch}, false);"
    )
    assert await against_the_authority(mirror) == 1
