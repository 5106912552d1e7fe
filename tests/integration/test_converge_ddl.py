"""DDL on the mirror: in its order, before the rows that follow it, and once; with and without each guard."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.converge import apply, plan, split
from proxy.converge import ddl as ddl_runs
from proxy.ledger import ddl
from tests.integration.mirrors import Mirror

NOTES = "CREATE TABLE notes (id int PRIMARY KEY, note text)"
ADD, RENAME = "ALTER TABLE notes ADD COLUMN more int", "ALTER TABLE notes RENAME COLUMN more TO most"
PASSES = 6


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(NOTES)
        yield mirror


async def enter_ddl(mirror: Mirror, second: int, text: str) -> None:
    """Write the entry of a statement that ran at a certain second."""
    await mirror.old.execute(
        "INSERT INTO crossfade.ledger (tbl, kind, key) VALUES (0, 'd', ARRAY[$1, 'public', 'postgres', $2])",
        f"2026-01-01 00:00:{second:02}",
        text,
    )


async def columns(mirror: Mirror) -> list[str]:
    """Converge for as long as it gets on; return the columns that the target has then."""
    for _ in range(PASSES):
        if (await mirror.converger.converge_entries()).is_complete:
            break
    found = await mirror.new.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'notes'::regclass"
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return [row["attname"] for row in found]


async def entered_in_reverse(mirror: Mirror) -> list[str]:
    """Two statements stand in the ledger's file in reverse, as where room was used again."""
    await mirror.old.execute(f"{ADD}; {RENAME}")
    await enter_ddl(mirror, 2, RENAME)
    await enter_ddl(mirror, 1, ADD)
    return await columns(mirror)


async def test_ddl_runs_in_the_order_in_which_it_ran_on_the_source(mirror: Mirror) -> None:
    assert await entered_in_reverse(mirror) == ["id", "note", "most"]
    assert await mirror.entries() == 0


async def test_in_another_order_it_stands_still(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddl, "_READ", ddl._READ.replace("ORDER BY key[1]", "ORDER BY key[1] DESC"))
    assert await entered_in_reverse(mirror) == ["id", "note"]


async def made_anew(mirror: Mirror) -> list[str]:
    """A table is dropped, made again and filled, all in one snapshot; return what differs in the end."""
    await mirror.write(f"DROP TABLE notes; {NOTES}; INSERT INTO notes VALUES (1, 'new')", notes=[1])
    await enter_ddl(mirror, 1, "DROP TABLE notes")
    await enter_ddl(mirror, 2, NOTES)
    await columns(mirror)
    assert await mirror.entries() == 0
    return await mirror.differences("notes")


async def test_rows_come_after_the_ddl_before_them(mirror: Mirror) -> None:
    assert await made_anew(mirror) == []


async def test_rows_that_come_before_it_are_lost_with_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl_runs, "concerned", lambda plans, changes: set())

    async def steady(*_: object) -> set[int]:
        return set()

    monkeypatch.setattr(ddl_runs, "unsteady", steady)
    assert await made_anew(mirror) == ["notes"]


async def run_by_who_died_behind_it(mirror: Mirror, *, forget: bool) -> list[str]:
    """The engine dies when its DDL has run and its entry is still there; the next one goes on."""
    await mirror.old.execute(f"{ADD}; {RENAME}")
    await enter_ddl(mirror, 1, ADD)
    await mirror.converger.converge_entries()
    if forget:
        await mirror.new.execute("DELETE FROM crossfade.applied")
    await enter_ddl(mirror, 2, RENAME)
    await mirror.new.execute(RENAME)  # by hand, so that a second ADD would be no error
    for side in (mirror.old, mirror.new):
        await side.execute("UPDATE crossfade.heartbeat SET until = '-infinity'")
    mirror.converger = mirror.make(await mirror.take())
    return await columns(mirror)


async def test_ddl_runs_once_whoever_dies_behind_it(mirror: Mirror) -> None:
    assert await run_by_who_died_behind_it(mirror, forget=False) == ["id", "note", "most"]


async def test_without_the_note_that_it_ran_it_runs_twice(mirror: Mirror) -> None:
    assert await run_by_who_died_behind_it(mirror, forget=True) == ["id", "note", "most", "more"]


async def add_users(mirror: Mirror) -> None:
    """Add a table that no statement here is about."""
    await mirror.execute("CREATE TABLE users (id int PRIMARY KEY, hits int)")
    await mirror.init()
    await mirror.converger.refresh()


async def test_rows_of_other_tables_do_not_wait_for_ddl(mirror: Mirror) -> None:
    """Or those who change the schema all the time would keep the mirror from ever getting a row."""
    await add_users(mirror)
    await mirror.write(f"{ADD}; INSERT INTO notes VALUES (1, 'n', 1); INSERT INTO users VALUES (1, 1)",
                       notes=[1], users=[1])  # fmt: skip
    await enter_ddl(mirror, 1, ADD)
    done = await mirror.converger.converge_entries()
    assert done.has_ddl and not done.is_complete
    assert await mirror.differences("users") == []
    assert await mirror.new.fetchval("SELECT count(*) FROM notes") == 0
    assert await columns(mirror) == ["id", "note", "more"]
    assert await mirror.new.fetchval("SELECT more FROM notes") == 1
    assert await mirror.entries() == 0


async def test_rows_wait_for_ddl_that_waits_in_quarantine(mirror: Mirror) -> None:
    await add_users(mirror)
    await mirror.new.execute("CREATE VIEW above AS SELECT * FROM notes")  # which forbids the drop
    await mirror.write(f"DROP TABLE notes; {NOTES}; INSERT INTO notes VALUES (1, 'new')", notes=[1])
    await enter_ddl(mirror, 1, "DROP TABLE notes")
    await enter_ddl(mirror, 2, NOTES)
    await mirror.write("INSERT INTO users VALUES (1, 1)", users=[1])
    for _ in range(PASSES):
        await mirror.converger.converge_entries()
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 3
    told = mirror.converger.statistics()
    assert told.paused == {"public.notes": "its rows wait for DDL in quarantine: see the last error"}
    assert told.last_error is not None and "DROP TABLE notes" in told.last_error
    await mirror.new.execute("DROP VIEW above")
    await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")
    await columns(mirror)
    assert await mirror.entries() == 0
    assert await mirror.differences("notes") == []


async def test_a_table_that_is_dropped_while_its_rows_are_read_does_not_split_the_pass(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction's rows would be seen by halves: the next snapshot knows of the drop."""
    await add_users(mirror)
    await mirror.write(
        "INSERT INTO notes VALUES (1, 'n'); INSERT INTO users VALUES (1, 1)", notes=[1], users=[1]
    )
    original = apply.fill

    async def dropping(*arguments: Any) -> Counter[str]:
        await mirror.old.execute("DROP TABLE IF EXISTS notes")
        return await original(*arguments)

    async def isolate(*_: object) -> None:
        raise AssertionError("the pass was split")

    monkeypatch.setattr(apply, "fill", dropping)
    monkeypatch.setattr(split, "isolate", isolate)
    await mirror.converger.converge_entries()
    assert await mirror.entries() == 2
    monkeypatch.setattr(apply, "fill", original)
    await enter_ddl(mirror, 1, "DROP TABLE notes")
    for _ in range(PASSES):
        await mirror.converger.converge_entries()
    assert await mirror.differences("users") == []


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("CREATE INDEX ON notes (id)", {"notes"}),
        ('ALTER TABLE "notes" RENAME TO others', {"notes"}),
        ("ALTER TABLE others RENAME TO NOTES", {"notes"}),
        ("COMMENT ON TABLE a IS 'notes'", set()),
        ("DROP SCHEMA public CASCADE", {"notes", "users"}),
        ("CREATE VIEW v AS SELECT FROM public.a", set()),
        ('ALTER TABLE u&"n\\006ftes" ADD x int', {"notes", "users"}),
    ],
)
async def test_a_statement_concerns_the_tables_that_it_names(
    mirror: Mirror, text: str, tables: set[str]
) -> None:
    await add_users(mirror)
    plans, _ = plan.plans(*mirror.catalogs)
    found = ddl_runs.concerned(plans, [ddl.Change("(0,1)", "", "public", "postgres", text, True)])
    assert {plans[number].source.name for number in found} == tables


async def test_a_small_table_that_is_dropped_while_it_is_joined_lets_no_other_be_walked(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_users(mirror)
    await mirror.write("INSERT INTO users VALUES (1, 1)")
    for table in ("notes", "users"):
        await mirror.enter(table, [()], "t")
    await mirror.old.execute("DROP TABLE notes")  # its DDL is not entered yet, or past the proxy
    done = await mirror.converger.converge_entries()
    assert (done.is_complete, done.left_count) == (False, 2)
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 0, "it was walked by itself"
    await mirror.converger.converge_entries()
    assert await mirror.differences("users") == []
