"""Rows that COPY FROM wrote are found by the stamp of their subtransaction, each of them and no other.

What a client sends between the two calls is sent here by a connection of the test's own.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import asyncpg
import pytest

from proxy.capture.copying import copy_after, copy_before
from proxy.converge import stamps
from proxy.ledger import copying
from tests.integration.mirrors import Mirror

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, note text);
CREATE TABLE "Odd ""1"" one" ("Key's" date, part text, PRIMARY KEY ("Key's", part));
CREATE TABLE part (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
"""
MANY = copying.KEYS_MAX + 1


class Copying(Mirror):
    """A mirror, and COPY as it is captured."""

    async def copy(self, name: str, rows: Iterable[tuple[Any, ...]], *, is_followed: bool = True) -> None:
        """Copy rows into a table, between the calls that enter them; the caller holds the transaction."""
        table = self.table(name)
        await self.old.execute(copy_before(table))
        await self.old.copy_records_to_table(name, records=rows, schema_name="public")
        if is_followed:
            await self.old.execute(copy_after(table))

    async def kinds(self) -> dict[str, int]:
        """Return how many entries there are of each kind."""
        rows = await self.old.fetch("SELECT kind::text, count(*) FROM crossfade.ledger GROUP BY 1")
        return dict(map(tuple, rows))

    async def keys(self) -> list[list[str]]:
        """Return the keys in the ledger."""
        return [row["key"] for row in await self.old.fetch("SELECT key FROM crossfade.ledger ORDER BY key")]

    async def assert_equal(self, *names: str) -> None:
        """Converge; then both sides must hold the same, and the ledger nothing."""
        while not (await self.converger.converge_entries()).is_complete:
            pass
        assert await self.differences(*names) == []
        assert await self.entries() == 0


@pytest.fixture(params=["pg15", "pg16", "pg18"])
async def mirror(request: pytest.FixtureRequest, make_database: Callable[..., str]) -> AsyncIterator[Copying]:
    old, new = request.getfixturevalue(request.param), request.getfixturevalue("pg18")
    async with Copying(make_database(old), make_database(new)) as mirror:
        await mirror.start(SCHEMA)
        yield mirror


def on_one_version(test: Any) -> Any:
    """Mark a test that would say the same of every version."""
    return pytest.mark.parametrize("mirror", ["pg16"], indirect=True)(test)


def items(first: int, count: int, note: str = "x") -> list[tuple[int, str]]:
    return [(first + n, note) for n in range(count)]


async def grow(mirror: Copying) -> None:
    """Make `item` large on both sides, with room in its first pages, half empty, and no key below 100,000."""
    await mirror.execute(
        "INSERT INTO item SELECT n, repeat('y', 150) FROM generate_series(100000, 130000) n;"
        "DELETE FROM item WHERE id < 106000 AND id % 2 = 0"
    )
    await mirror.old.execute("VACUUM item")


async def test_few_rows_are_entered_by_key(mirror: Copying) -> None:
    async with mirror.old.transaction():
        await mirror.copy("item", items(7, 3))
        await mirror.copy("part", [(1, "eu"), (2, "us"), (3, "eu")])
        await mirror.copy('Odd "1" one', [])
    assert await mirror.keys() == [["1", "eu"], ["2", "us"], ["3", "eu"], ["7"], ["8"], ["9"]]
    await mirror.assert_equal("item", "part")


async def test_keys_are_written_as_both_sides_read_them(mirror: Copying) -> None:
    async with mirror.old.transaction():
        await mirror.old.execute("SET LOCAL DateStyle = 'SQL, DMY'")
        await mirror.old.execute(copy_before(mirror.table('Odd "1" one')))
        await mirror.old.execute(
            "INSERT INTO \"Odd \"\"1\"\" one\" VALUES ('02/01/2024', 'it''s'), ('infinity', '{\"\\')"
        )
        await mirror.old.execute(copy_after(mirror.table('Odd "1" one')))
    assert await mirror.keys() == [["2024-01-02", "it's"], ["infinity", '{"\\']]
    await mirror.assert_equal('Odd "1" one')


@pytest.mark.parametrize("first", [200_000, 1], ids=["ascending", "scattered in free room"])
async def test_in_a_large_table_rows_are_found_where_they_may_be(mirror: Copying, first: int) -> None:
    await grow(mirror)
    async with mirror.old.transaction():
        await mirror.copy("item", items(first, 50))
    # Low keys in old pages are neither above the largest key nor at the end of the file.
    assert await mirror.kinds() == ({"k": 50} if first > 1 else {"x": 1})
    await mirror.assert_equal("item")


async def test_many_rows_are_one_entry(mirror: Copying) -> None:
    await grow(mirror)
    await mirror.old.execute("VACUUM FULL item")
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, MANY))
        await mirror.copy("part", [(n, ("eu", "us")[n % 2]) for n in range(3 * MANY)])
    rows = await mirror.old.fetch("SELECT key[3]::int AS page FROM crossfade.ledger ORDER BY tbl, page DESC")
    assert [row["page"] > 0 for row in rows] == [True, False, False], "only the large file is worth a page"
    await mirror.assert_equal("item", "part")


async def test_a_copy_that_nothing_can_follow_is_one_entry(mirror: Copying) -> None:
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, 5), is_followed=False)
        await mirror.copy("part", [(1, "eu"), (2, "us")], is_followed=False)
    assert await mirror.kinds() == {"x": 2}
    await mirror.assert_equal("item", "part")


async def test_a_savepoint_takes_rows_and_entries_with_it(mirror: Copying) -> None:
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, MANY))
        await mirror.old.execute("SAVEPOINT a")
        await mirror.copy("item", items(10_000, MANY))
        await mirror.copy("part", [(1, "eu")])
        await mirror.old.execute("ROLLBACK TO a")
        await mirror.copy("item", items(20_000, MANY))
        await mirror.old.execute("SAVEPOINT b")
        await mirror.copy("item", items(30_000, MANY))
        await mirror.old.execute("RELEASE b")
    assert await mirror.kinds() == {"x": 3}
    await mirror.assert_equal("item", "part")


@on_one_version
async def test_rows_that_change_afterwards_are_converged_as_they_are(mirror: Copying) -> None:
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, MANY))
    await mirror.write("UPDATE item SET note = 'z' WHERE id = 5; DELETE FROM item WHERE id = 6", item=[5, 6])
    await mirror.assert_equal("item")


@on_one_version
async def test_a_copy_in_flight_is_converged_when_it_has_committed(mirror: Copying) -> None:
    transaction = mirror.old.transaction()
    await transaction.start()
    await mirror.copy("item", items(1, MANY))
    assert (await mirror.converger.converge_entries()).entries_count == 0
    await transaction.commit()
    await mirror.assert_equal("item")


@on_one_version
async def test_where_nothing_may_be_written_the_copy_is_refused_in_its_own_words(mirror: Copying) -> None:
    with pytest.raises(asyncpg.PostgresError, match="cannot execute COPY FROM"):
        async with mirror.old.transaction(readonly=True):
            await mirror.copy("item", items(1, 1))


@on_one_version
async def test_who_may_copy_need_not_be_allowed_to_read(mirror: Copying) -> None:
    await mirror.old.execute(
        "DO $$ BEGIN CREATE ROLE copies_only; EXCEPTION WHEN duplicate_object THEN END $$;"
        "GRANT INSERT ON item TO copies_only"
    )
    async with mirror.old.transaction():
        await mirror.old.execute("SET LOCAL ROLE copies_only; SET LOCAL search_path = ''")
        await mirror.copy("item", items(1, 2))
    assert await mirror.keys() == [["1"], ["2"]]
    await mirror.old.execute("DROP OWNED BY copies_only")


@on_one_version
async def test_settings_of_others_delete_nobodys_entries(mirror: Copying) -> None:
    await mirror.copy("item", items(1, MANY), is_followed=False)
    place = await mirror.old.fetchval("SELECT ctid::text FROM crossfade.ledger")
    forged = f'{{"number": {mirror.table("item").id}, "place": "{place}", "stamp": "9", "command": "0"}}'
    async with mirror.old.transaction():
        await mirror.old.execute("SELECT set_config('crossfade.copying', $1, true)", forged)
        await mirror.old.execute(copy_after(mirror.table("item")))
    assert place in [row[0] for row in await mirror.old.fetch("SELECT ctid::text FROM crossfade.ledger")]


# Races, and what each guard is for.


async def other_rows_of_the_transaction(mirror: Copying) -> list[str]:
    """Rows copied into free room, behind as many that another statement has put at the end."""
    await grow(mirror)
    await mirror.old.execute("ALTER TABLE item ALTER note SET STORAGE PLAIN")
    async with mirror.old.transaction():
        for key, note in items(1, 20, "w" * 8100):  # too wide for any room but that of a new page
            await mirror.old.execute("INSERT INTO item VALUES ($1, $2)", key, note)
            await mirror.enter("item", [key])
        await mirror.copy("item", items(50, 20))
    await mirror.converger.converge_entries()
    return await mirror.differences("item")


@on_one_version
async def test_rows_of_another_statement_are_not_taken_for_those_of_the_copy(mirror: Copying) -> None:
    assert await other_rows_of_the_transaction(mirror) == []


@on_one_version
async def test_without_the_number_of_the_statement_they_are_and_rows_are_lost(mirror: Copying) -> None:
    blind = copying.FUNCTIONS.replace("t.cmin::text::int8 > $2", "$2 IS NOT NULL")
    assert blind != copying.FUNCTIONS
    await mirror.old.execute(blind)
    assert await other_rows_of_the_transaction(mirror) == ["item"]


async def rewritten(mirror: Copying) -> list[str]:
    """The table is rewritten after the COPY: its rows move to pages before the one entered."""
    await grow(mirror)
    await mirror.old.execute("VACUUM FULL item")
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, MANY))
    assert int(await mirror.old.fetchval("SELECT key[3] FROM crossfade.ledger")) > 0
    await mirror.execute("DELETE FROM item WHERE id > 100000")
    await mirror.old.execute("VACUUM FULL item")
    await mirror.converger.converge_entries()
    return await mirror.differences("item")


@on_one_version
async def test_rows_are_found_in_a_table_that_was_rewritten(mirror: Copying) -> None:
    assert await rewritten(mirror) == []


@on_one_version
async def test_without_the_look_at_the_file_they_are_not(
    mirror: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = stamps._FILES.replace("l.key[4] = pg_relation_filenode(c.oid)::text", "true")
    assert blind != stamps._FILES
    monkeypatch.setattr(stamps, "_FILES", blind)
    assert await rewritten(mirror) == ["item"]


async def rewritten_meanwhile(mirror: Copying, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same between two stretches of the search: rows move to pages that were read already."""
    monkeypatch.setattr(stamps, "STRETCH_PAGES", 8)
    monkeypatch.setattr("proxy.converge.engine.WALK_S", 0.0)
    async with mirror.old.transaction():
        await mirror.copy("item", items(1, MANY, "y" * 150))
    first = await mirror.converger.converge_entries()
    assert 0 < first.rows_count < MANY - 1
    await mirror.execute("DELETE FROM item WHERE id <= 300")
    await mirror.old.execute("VACUUM FULL item")
    while not (await mirror.converger.converge_entries()).is_complete:
        pass
    return await mirror.differences("item")


@on_one_version
async def test_rows_are_found_in_a_table_that_is_rewritten_meanwhile(
    mirror: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await rewritten_meanwhile(mirror, monkeypatch) == []


@on_one_version
async def test_without_looking_at_the_file_again_they_are_not(
    mirror: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await mirror.old.fetchval("SELECT pg_relation_filenode('item')::text")
    blind = stamps._NOW.replace("pg_relation_filenode($1::oid::regclass)::int8", f"{file}::int8")
    assert blind != stamps._NOW
    monkeypatch.setattr(stamps, "_NOW", blind)
    assert await rewritten_meanwhile(mirror, monkeypatch) == ["item"]


KEYS = {
    "uuid": "('00000000-0000-0000-0000-00000000000' || n)::uuid",
    "bool": "n = 1",
    "inet": "('10.0.0.' || n)::inet",
    "bytea": "decode('0' || n, 'hex')",
    "mood": "(ARRAY['sad', 'ok'])[n]::mood",
    "int4range": "int4range(n, n + 1)",
    "jsonb": "to_jsonb(n)",
}


async def test_keys_of_any_type_that_has_an_order(old_db: str, new_db: str) -> None:
    """uuid has one, but no max()."""
    async with Copying(old_db, new_db) as mirror:
        tables = "".join(f"CREATE TABLE by_{type_} (id {type_} PRIMARY KEY);" for type_ in KEYS)
        await mirror.start("CREATE TYPE mood AS ENUM ('sad', 'ok');" + tables)
        for type_, key in KEYS.items():
            name, table = f"by_{type_}", mirror.table(f"by_{type_}")
            for side in (mirror.old, mirror.new):
                await side.execute(f"INSERT INTO {name} SELECT {key} FROM generate_series(1, 1) n")
            line = io.BytesIO()
            await mirror.old.copy_from_query(f"SELECT {key} FROM generate_series(2, 2) n", output=line)
            async with mirror.old.transaction():
                await mirror.old.execute(copy_before(table))
                await mirror.old.copy_to_table(name, source=io.BytesIO(line.getvalue()))
                await mirror.old.execute(copy_after(table))
            assert len(await mirror.keys()) == 1, type_
            await mirror.assert_equal(name)
