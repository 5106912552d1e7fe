"""DDL on the mirror: in its order, before the rows that follow it, and once; with and without each guard."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.converge.engine import Converger
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
    original, calls = Converger._has_ddl, iter((False,))
    monkeypatch.setattr(Converger, "_has_ddl", staticmethod(lambda found: next(calls, original(found))))
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
