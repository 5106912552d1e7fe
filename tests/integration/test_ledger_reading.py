"""A ledger deeper than one pass is read from where the last pass stopped, and nothing is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.converge import meetings, widening
from proxy.ledger import depth, entries, reading
from proxy.ledger.reading import Reader
from tests.integration.mirrors import Mirror

ROWS = 300


@pytest.fixture
async def mirror(old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    """Both sides are equal, and a pass takes a hundred entries."""
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start("CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0)")
        await mirror.execute(f"INSERT INTO users SELECT generate_series(1, {ROWS}); ANALYZE users")
        monkeypatch.setattr(reading, "ENTRIES_MAX", 100)
        yield mirror


async def write_all(mirror: Mirror, hits: int, connection: asyncpg.Connection | None = None) -> None:
    """Write every row, and its entry with it, in one statement."""
    await (connection or mirror.old).execute(
        f"WITH w AS (UPDATE public.users SET hits = {hits} RETURNING id)"
        f" INSERT INTO crossfade.ledger (tbl, key) SELECT {mirror.table('users').id}, ARRAY[id::text] FROM w"
    )


async def behind_the_reader(mirror: Mirror) -> bool:
    """Let a long transaction commit behind the place that reading has come to; return whether all is
    equal at the first pass that says so."""
    long = await asyncpg.connect(mirror.source.url())
    try:
        transaction = long.transaction()
        await transaction.start()
        await write_all(mirror, 1, long)
        await mirror.old.execute(
            f"INSERT INTO crossfade.ledger (tbl, key) SELECT {mirror.table('users').id}, ARRAY[n::text]"
            f" FROM generate_series(1, {ROWS}) n"
        )
        for _ in range(2):
            assert not (await mirror.converger.converge_entries()).is_complete
        await transaction.commit()
        for _ in range(20):
            if (await mirror.converger.converge_entries()).is_complete:
                break
        return await mirror.differences("users") == []
    finally:
        long.terminate()


async def test_what_commits_behind_the_reader_is_read_before_a_pass_counts_as_complete(
    mirror: Mirror,
) -> None:
    assert await behind_the_reader(mirror)
    assert await mirror.entries() == 0


async def test_taking_the_last_pages_for_the_whole_ledger_calls_a_stale_mirror_complete(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Reader.read

    async def hasty(self: Reader, *args: Any, **kwargs: Any) -> Any:
        found = await original(self, *args, **kwargs)
        return found._replace(is_whole=found.entries_count < 100)

    monkeypatch.setattr(Reader, "read", hasty)
    assert not await behind_the_reader(mirror)


async def test_each_pass_goes_on_where_the_last_one_stopped(mirror: Mirror) -> None:
    await write_all(mirror, 1)
    reader, seen = Reader(), set[str]()
    for count in (100, 100, 100, 0):
        found = await reader.read(mirror.old)
        assert (found.entries_count, found.is_whole) == (count, False)
        for batch in found.batches:
            ctids = set(batch.ctids.strip("{}").split('","'))
            assert not ctids & seen
            seen |= ctids
    assert (await reader.read(mirror.old)).entries_count == 100, "from the first page again"


async def test_newer_entries_of_a_key_in_quarantine_wait_while_the_ledger_is_deep(mirror: Mirror) -> None:
    await mirror.new.execute("ALTER TABLE users ADD CONSTRAINT poison CHECK (id <> 7 OR hits = 0)")
    for hits in (1, 2, 3):
        await write_all(mirror, hits)
    attempts = set()
    for _ in range(12):
        await mirror.converger.converge_entries()
        attempts.add(await mirror.old.fetchval("SELECT max(attempts) FROM crossfade.ledger"))
    assert max(attempts) <= 2, "each pass would try it again"
    assert await mirror.entries() == 3
    await mirror.new.execute("ALTER TABLE users DROP CONSTRAINT poison")
    await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")
    while not (await mirror.converger.converge_entries()).is_complete:
        pass
    assert await mirror.differences("users") == []


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "ENTRIES_MIN", 150)


async def test_more_entries_than_rows_become_one_for_the_table(mirror: Mirror, wide: None) -> None:
    for hits in (1, 2, 3):
        await write_all(mirror, hits)
    first = await mirror.converger.converge_entries()
    assert (first.entries_count, first.is_complete) == (100, False)
    kinds = await mirror.old.fetch("SELECT kind::text, count(*) FROM crossfade.ledger GROUP BY kind")
    assert [tuple(row) for row in kinds] == [("t", 1)]
    await write_all(mirror, 4)
    while not (await mirror.converger.converge_entries()).is_complete:
        pass
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0


async def test_a_write_during_the_widening_keeps_an_entry_that_is_later(mirror: Mirror, wide: None) -> None:
    """Written before the deletion and committed after it: neither gone nor forgotten."""
    await write_all(mirror, 1)
    long = await asyncpg.connect(mirror.source.url())
    transaction = long.transaction()
    await transaction.start()
    await write_all(mirror, 2, long)
    assert await entries.widen(mirror.old, mirror.lease, mirror.table("users").id) == ROWS
    await transaction.commit()
    long.terminate()
    assert await mirror.entries() == 1 + ROWS
    while not (await mirror.converger.converge_entries()).is_complete:
        pass
    assert await mirror.differences("users") == []


async def test_the_depth_of_a_large_ledger_is_an_estimate(mirror: Mirror) -> None:
    for hits in range(100):
        await write_all(mirror, hits)
    exact = await depth.depth(mirror.old)
    assert (sum(exact.entries.values()), exact.is_estimate) == (100 * ROWS, False)
    rough = await depth.depth(mirror.old, pages_max=60)
    assert rough.is_estimate
    assert 0.3 < sum(rough.entries.values()) / (100 * ROWS) < 3


async def test_a_row_that_is_written_all_the_time_is_converged_once_a_pass(mirror: Mirror) -> None:
    for _ in range(90):
        await mirror.write("UPDATE users SET hits = hits + 1 WHERE id = 1", users=[1])
    done = await mirror.converger.converge_entries()
    assert (done.entries_count, done.rows_count, done.is_complete) == (90, 1, True)


async def test_a_pass_that_met_others_waits_as_a_whole_before_it_is_split(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split, it would show one table's rows without the other's."""
    await mirror.new.execute("CREATE TABLE held AS SELECT 1; ALTER TABLE users ADD CONSTRAINT c CHECK (true)")
    blocker = await asyncpg.connect(mirror.target.url())
    await blocker.execute("BEGIN; LOCK TABLE users IN SHARE MODE")
    await mirror.converger.converge_entries()
    monkeypatch.setattr(meetings, "COUNT_MAX", 1)
    await mirror.converger._links.target.execute("SET lock_timeout = '50ms'")  # type: ignore[union-attr]
    await mirror.write("UPDATE users SET hits = 5 WHERE id = 1", users=[1])
    done = await mirror.converger.converge_entries()
    assert (done.left_count, done.is_complete) == (1, False)
    await blocker.execute("ROLLBACK")
    blocker.terminate()
    await asyncio.sleep(0)
    assert (await mirror.converger.converge_entries()).is_complete
