"""Keys that lie densely become ranges: nothing is forgotten, and nothing is compared in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from proxy.converge import widening
from proxy.converge.walks import Walks
from proxy.ledger import entries
from tests.integration.mirrors import Mirror

ROWS = 400


@pytest.fixture
async def mirror(old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    monkeypatch.setattr(widening, "RUN_ENTRIES", 50)
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            "CREATE TABLE item (id int PRIMARY KEY, v int NOT NULL DEFAULT 0);"
            'CREATE TABLE event (at timestamptz, "no, 1" bigint, v int NOT NULL DEFAULT 0,'
            ' PRIMARY KEY (at, "no, 1"));'
        )
        await mirror.execute(
            f"INSERT INTO item SELECT n FROM generate_series(1, {ROWS}) n;"
            f"INSERT INTO event SELECT '2024-01-01'::timestamptz + n / 7 * interval '1 s', n"
            f" FROM generate_series(1, {ROWS}) n; ANALYZE"
        )
        yield mirror


async def change(mirror: Mirror, table: str, sql: str, connection: asyncpg.Connection | None = None) -> None:
    """Run a captured statement that ends with RETURNING and the key as an array."""
    entry = f"INSERT INTO crossfade.ledger (tbl, key) SELECT {mirror.table(table).id}, key FROM w"
    await (connection or mirror.old).execute(f"WITH w AS ({sql}) {entry}")


async def widen(mirror: Mirror, table: str) -> int:
    return await widening.to_ranges(mirror.old, mirror.lease, mirror.table(table))


async def kinds(mirror: Mirror) -> dict[str, int]:
    rows = await mirror.old.fetch("SELECT kind::text, count(*) FROM crossfade.ledger GROUP BY 1")
    return dict(map(tuple, rows))


async def settle(mirror: Mirror, *tables: str) -> list[str]:
    """Converge all there is, and return what differs then."""
    while not (await mirror.converger.converge_entries()).is_complete:
        pass
    return await mirror.differences(*tables)


async def test_dense_keys_become_ranges_and_others_stay(mirror: Mirror) -> None:
    await change(mirror, "item", "UPDATE item SET v = 1 WHERE id <= 200 RETURNING ARRAY[id::text] AS key")
    await change(
        mirror, "item", "DELETE FROM item WHERE id BETWEEN 50 AND 60 RETURNING ARRAY[id::text] AS key"
    )
    await change(
        mirror, "item", "UPDATE item SET v = 2 WHERE id > 250 AND id % 9 = 0 RETURNING ARRAY[id::text] AS key"
    )
    assert await widen(mirror, "item") == 200
    found = await mirror.old.fetch("SELECT key FROM crossfade.ledger WHERE kind = 'r'")
    bounds = sorted((int(row["key"][0] or 0), int(row["key"][1])) for row in found)
    assert bounds[0][0] == 0 and bounds[-1][1] < 250
    assert all(lo <= hi for (_, hi), (lo, _) in pairwise(bounds)), "without a gap"
    assert await kinds(mirror) == {"r": 4, "k": 28}
    assert await settle(mirror, "item") == []


async def test_keys_of_several_columns_become_ranges(mirror: Mirror) -> None:
    returning = 'RETURNING ARRAY[at::text, "no, 1"::text] AS key'
    await change(mirror, "event", f'UPDATE event SET v = 1 WHERE "no, 1" BETWEEN 100 AND 249 {returning}')
    await change(mirror, "event", f'DELETE FROM event WHERE "no, 1" BETWEEN 248 AND 252 {returning}')
    assert await widen(mirror, "event") >= 150
    assert await settle(mirror, "event") == []


async def test_a_row_that_is_written_all_the_time_is_one_range(mirror: Mirror) -> None:
    for _ in range(120):
        await change(
            mirror, "item", "UPDATE item SET v = v + 1 WHERE id = 7 RETURNING ARRAY[id::text] AS key"
        )
    assert await widen(mirror, "item") == 120
    done = await mirror.converger.converge_entries()
    assert done.rows_count <= 6 and done.is_complete
    assert await settle(mirror, "item") == []


async def test_an_update_of_many_rows_is_converged_by_ranges(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widening, "ENTRIES_MIN", 150)
    monkeypatch.setattr("proxy.ledger.reading.ENTRIES_MAX", 40)
    monkeypatch.setattr("proxy.converge.engine.WALK_S", 0.0)
    await change(mirror, "item", "UPDATE item SET v = 1 WHERE id <= 300 RETURNING ARRAY[id::text] AS key")
    first = await mirror.converger.converge_entries()
    assert (first.entries_count, first.is_complete) == (40, False)
    assert await kinds(mirror) == {"r": 6}
    second = await mirror.converger.converge_entries()
    assert (second.rows_count, second.is_complete) == (50, False), (
        "one range, then single keys have their turn"
    )
    assert await settle(mirror, "item") == []


async def test_a_write_during_the_widening_keeps_an_entry_that_is_later(mirror: Mirror) -> None:
    await change(mirror, "item", "UPDATE item SET v = 1 WHERE id <= 100 RETURNING ARRAY[id::text] AS key")
    late = await asyncpg.connect(mirror.source.url())
    transaction = late.transaction()
    await transaction.start()
    await change(
        mirror, "item", "UPDATE item SET v = 2 WHERE id = 150 RETURNING ARRAY[id::text] AS key", late
    )
    assert await widen(mirror, "item") == 100
    await transaction.commit()
    late.terminate()
    assert await kinds(mirror) == {"r": 2, "k": 1}
    assert await settle(mirror, "item") == []


# Races, and what each guard is for.


async def sorted_otherwise(mirror: Mirror) -> list[str]:
    """Both sides sort the keys differently, as two versions of a collation do; some are deleted."""
    for side, order in ((mirror.old, "'a', 'b', 'c'"), (mirror.new, "'c', 'a', 'b'")):
        await side.execute(f"CREATE TYPE letter AS ENUM ({order})")
        await side.execute("CREATE TABLE word (word letter, part int, PRIMARY KEY (word, part))")
        await side.execute(
            "INSERT INTO word SELECT w, n FROM unnest('{a,b,c}'::letter[]) w, generate_series(1, 60) n"
        )
    await mirror.init()
    await mirror.converger.refresh()
    await change(
        mirror, "word", "DELETE FROM word WHERE word >= 'b' RETURNING ARRAY[word::text, part::text] AS key"
    )
    if widening.has_ranges(mirror.table("word")):
        await widen(mirror, "word")
    return await settle(mirror, "word")


async def test_keys_that_sides_may_sort_differently_stay(mirror: Mirror) -> None:
    assert await sorted_otherwise(mirror) == []


async def test_as_ranges_they_leave_rows_behind(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "has_ranges", lambda table: True)
    assert await sorted_otherwise(mirror) == ["word"]


async def ledger_rewritten(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ledger is rewritten between reading a range's entry and converging it."""
    await change(mirror, "item", "UPDATE item SET v = 1 WHERE id <= 3 RETURNING ARRAY[id::text] AS key")
    await mirror.converger.converge_entries()
    await change(mirror, "item", "UPDATE item SET v = 2 WHERE id = 5 RETURNING ARRAY[id::text] AS key")
    await mirror.old.execute("UPDATE crossfade.ledger SET kind = 'r', key = '{4,5}'")
    place = await mirror.old.fetchval("SELECT ctid::text FROM crossfade.ledger")
    original = Walks.go

    async def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(Walks, "go", original)
        await change(
            mirror,
            "item",
            "UPDATE item SET v = 9 WHERE id BETWEEN 11 AND 19 RETURNING ARRAY[id::text] AS key",
        )
        await mirror.old.execute("VACUUM FULL crossfade.ledger")
        moved = await mirror.old.fetchval(
            "SELECT kind::text FROM crossfade.ledger WHERE ctid = $1::text::tid", place
        )
        assert moved == "k", "its place is another's now"
        return await original(*args, **kwargs)

    monkeypatch.setattr(Walks, "go", interrupted)
    return await settle(mirror, "item")


async def test_a_rewritten_ledger_loses_no_entry(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await ledger_rewritten(mirror, monkeypatch) == []


async def test_without_the_look_at_the_ledgers_file_it_does(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "same_file", lambda ledger_file: "")
    assert await ledger_rewritten(mirror, monkeypatch) == ["item"]
