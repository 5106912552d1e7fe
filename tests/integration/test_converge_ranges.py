"""Ranges and whole tables: backfill, repair, TRUNCATE."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.catalog.bounds import Range, ranges_between
from proxy.converge import joining, walks
from proxy.converge.sequences import set_sequences
from proxy.errors import DeletesRefused, TablePaused
from proxy.sql.quote import quote_text
from tests.integration.mirrors import Mirror


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            """
            CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0);
            CREATE TABLE pairs (a text, b int, note json, PRIMARY KEY (a, b));
            """
        )
        await mirror.old.execute("INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, 1000) i")
        await mirror.old.execute(
            "INSERT INTO pairs SELECT 'it''s ' || i, i % 7, '{}' FROM generate_series(1, 300) i"
        )
        yield mirror


def ids(lo: int | None, hi: int | None) -> Range:
    return Range(None if lo is None else (str(lo),), None if hi is None else (str(hi),))


async def test_empty_range_is_copied_straight_and_marked_in_the_same_transaction(mirror: Mirror) -> None:
    users = mirror.table("users").id
    marks: list[int] = []

    def mark(rows_count: int) -> str:
        marks.append(rows_count)
        columns = "tbl, number, rank, rows_count"
        return f"INSERT INTO crossfade.chunk ({columns}) VALUES ({users}, 1, 1, {rows_count});"

    done = await mirror.converger.converge_range(users, ids(100, 300), mark=mark)
    assert (done.rows_count, done.is_straight, marks) == (200, True, [200])
    assert await mirror.new.fetchval("SELECT min(id) || '-' || max(id) FROM users") == "101-300"
    assert await mirror.new.fetchval("SELECT rows_count FROM crossfade.chunk") == 200

    done = await mirror.converger.converge_range(users, ids(50, 150))
    assert (done.rows_count, done.is_straight) == (100, False)
    await mirror.converger.converge_range(users)
    await mirror.converger.converge_range(mirror.table("pairs").id, Range(("it's 2", "3"), None))
    await mirror.converger.converge_range(mirror.table("pairs").id)
    assert await mirror.differences("users", "pairs") == []


async def test_a_mark_that_fails_takes_the_rows_with_it(mirror: Mirror) -> None:
    users = mirror.table("users").id
    with pytest.raises(TablePaused, match="does not exist"):
        await mirror.converger.converge_range(users, mark=lambda _: "UPDATE nowhere SET x = 1")
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 0


async def test_rows_that_only_the_target_has_are_deleted_within_a_budget(mirror: Mirror) -> None:
    users = mirror.table("users").id
    await mirror.converger.converge_range(users)
    await mirror.old.execute("DELETE FROM users WHERE id BETWEEN 201 AND 220")
    await mirror.new.execute("UPDATE users SET hits = 9 WHERE id = 250")
    with pytest.raises(DeletesRefused, match="20 or more rows of"):
        await mirror.converger.converge_range(users, ids(200, 300), deletes_max=19)
    assert await mirror.differences("users") == ["users"]
    done = await mirror.converger.converge_range(users, ids(200, 300), deletes_max=20, origin="repair")
    assert done.deleted_count == 20
    assert await mirror.differences("users") == []
    rows = mirror.converger.statistics().converged_rows
    assert rows == {("public.users", "backfill"): 1000, ("public.users", "repair"): 80}


async def test_wrong_source_does_not_empty_the_target(mirror: Mirror) -> None:
    users = mirror.table("users").id
    await mirror.converger.converge_range(users)
    await mirror.converger.close()
    await mirror.old.execute("DELETE FROM users")
    with pytest.raises(DeletesRefused):
        await mirror.make(deletes_max=100).converge_range(users)
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 1000


async def test_sides_that_sort_differently_lose_no_row(mirror: Mirror) -> None:
    """As with two versions of a collation: every range names other rows on the other side."""
    words = ["apple", "Banane", "zebra", "it's", "b-c", "bc", "Zebra", "only here", "too"]
    labels = [quote_text(word) for word in words]
    for side, order in ((mirror.old, sorted(labels)), (mirror.new, sorted(labels, key=lambda x: x[::-1]))):
        await side.execute(f"CREATE TYPE word AS ENUM ({', '.join(order)})")
        await side.execute("CREATE TABLE words (word word, part int, n int, PRIMARY KEY (word, part))")
    await mirror.init()
    await mirror.converger.refresh()
    for side, of_side in ((mirror.old, words[:-2]), (mirror.new, words)):
        for word in of_side:
            await side.execute(
                "INSERT INTO words SELECT $1::text::word, part, 1 FROM generate_series(1, 3) part", word
            )
    await mirror.old.execute("UPDATE words SET n = 2; DELETE FROM words WHERE word = 'bc' OR part = 2")
    bounds = [
        tuple(row)
        for row in await mirror.old.fetch("SELECT word::text, part::text FROM words ORDER BY word, part")
    ]
    for between in ranges_between(bounds):
        await mirror.converger.converge_range(mirror.table("words").id, between)
    assert await mirror.differences("words") == []


async def test_poisonous_row_of_a_range_becomes_a_quarantined_entry(mirror: Mirror) -> None:
    users = mirror.table("users").id
    await mirror.new.execute("ALTER TABLE users ADD CONSTRAINT odd CHECK (id NOT IN (7, 700))")
    mark = "INSERT INTO crossfade.chunk (tbl, number, rank) VALUES (1, 1, 1)"
    done = await mirror.converger.converge_range(users, mark=lambda _: mark)
    assert (done.rows_count, done.quarantined_count) == (998, 2)
    found = await mirror.old.fetch("SELECT key, error FROM crossfade.ledger ORDER BY key")
    assert [row["key"] for row in found] == [["7"], ["700"]]
    assert await mirror.new.fetchval("SELECT count(*) FROM crossfade.chunk") == 1


async def test_value_that_the_target_cannot_even_stage_is_quarantined(mirror: Mirror) -> None:
    await mirror.new.execute("ALTER TABLE users ALTER email TYPE varchar(4)")
    await mirror.converger.refresh()
    done = await mirror.converger.converge_range(mirror.table("users").id)
    assert (done.rows_count, done.quarantined_count) == (999, 1)
    assert "too long" in await mirror.old.fetchval("SELECT error FROM crossfade.ledger")


async def test_stale_row_outside_of_the_range_is_read_again_not_deleted(mirror: Mirror) -> None:
    users = mirror.table("users").id
    await mirror.converger.converge_range(users)
    await mirror.old.execute(
        "UPDATE users SET email = 'tmp' WHERE id = 900; UPDATE users SET email = 'u900' WHERE id = 5;"
        "UPDATE users SET email = 'u5' WHERE id = 900"
    )
    await mirror.converger.converge_range(users, ids(None, 100))
    assert await mirror.differences("users") == []


async def test_truncated_table_is_emptied_and_written_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "RANGE_ROWS", 100)
    await mirror.converger.converge_range(mirror.table("users").id)
    await mirror.old.execute("TRUNCATE users")
    await mirror.enter("users", [()], "t")
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 0

    await mirror.old.execute("INSERT INTO users SELECT i, 'n' || i FROM generate_series(1, 450) i")
    await mirror.enter("users", [(), ()], "t")
    await mirror.enter("users", [3])
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0


async def test_whole_table_is_walked_over_several_passes(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "RANGE_ROWS", 100)
    monkeypatch.setattr(joining, "ROWS_MAX", 100)
    monkeypatch.setattr("proxy.converge.engine.WALK_S", 0.0)
    await mirror.old.execute("ANALYZE users")
    await mirror.enter("users", [()], "t")
    first = await mirror.converger.converge_entries()
    assert (first.is_complete, first.rows_count) == (False, 100)
    walked = mirror.converger.statistics().walked["public.users"]
    assert walked.ratio == 0.1 and walked.eta_s is not None
    await mirror.write("UPDATE users SET hits = 5 WHERE id IN (1, 999)", users=[1, 999])
    await mirror.enter("users", [()], "t")
    await mirror.old.execute("VACUUM FULL crossfade.ledger")
    passes_count = 1
    while not (await mirror.converger.converge_entries()).is_complete:
        passes_count += 1
    assert passes_count > 10, "the second entry, and moved ctids, ask for another walk"
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0
    assert mirror.converger.statistics().walked == {}


async def test_range_entries_are_converged_and_cleared(mirror: Mirror) -> None:
    users = mirror.table("users").id
    await mirror.converger.converge_range(users)
    await mirror.new.execute("UPDATE users SET hits = 1 WHERE id IN (10, 500, 900)")
    await mirror.enter("users", [("5", "20"), (None, "7"), ("899", None), ("20", "600")], "r")
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0


async def test_sequences_are_set_beyond_both_sides(old_db: str, new_db: str) -> None:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            """
            CREATE TABLE a (id bigserial PRIMARY KEY);
            CREATE TABLE b (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
            CREATE SEQUENCE down INCREMENT -2 MINVALUE -1000 MAXVALUE -1;
            CREATE SEQUENCE small MAXVALUE 12; CREATE SEQUENCE ring MAXVALUE 12 CYCLE; CREATE SEQUENCE fresh;
            """
        )
        await mirror.old.execute(
            "SELECT nextval('a_id_seq'), nextval('down'), setval('small', 9), setval('ring', 9);"
            "INSERT INTO b DEFAULT VALUES"
        )
        await mirror.new.execute("INSERT INTO a VALUES (500); SELECT setval('b_id_seq', 70)")
        assert await set_sequences(mirror.old, mirror.new, mirror.catalogs[0], 10) == 5

        async def drawn(name: str) -> int:
            return int(await mirror.new.fetchval(f"SELECT nextval('{name}')"))

        assert [await drawn(name) for name in ("a_id_seq", "b_id_seq", "down", "ring", "fresh")] == [
            511, 81, -23, 10, 1,
        ]  # fmt: skip
        with pytest.raises(asyncpg.PostgresError, match="reached maximum"):
            await drawn("small")
