"""Verify names every row that differs, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.config.model import Tables
from proxy.verify.comparison import Limits
from proxy.verify.ranges import Difference, Kind
from proxy.verify.report import Report, TableReport
from proxy.verify.verifier import verify
from tests.integration.pairs import Two

QUICK = Limits(range_rows=1000, waits_s=(0.0, 0.0, 0.05))


@pytest.fixture
async def two(old_db: str, new_db: str) -> AsyncIterator[Two]:
    async with Two(old_db, new_db) as both:
        yield both


async def compare(two: Two, **arguments: object) -> Report:
    arguments.setdefault("limits", QUICK)
    return await verify(two.source, two.target, two.catalogs, **arguments)  # type: ignore[arg-type]


async def only_table(two: Two, **arguments: object) -> TableReport:
    (table,) = (await compare(two, **arguments)).tables
    return table


async def test_equal_tables_have_no_differences(two: Two) -> None:
    await two.execute(
        """CREATE TABLE t (id int PRIMARY KEY, a text, at timestamptz, n numeric(10,2), f float8, j jsonb);
        INSERT INTO t SELECT i, 'x' || i, '2024-01-01'::timestamptz + i * interval '1s', i / 3.0, i / 7.0,
            jsonb_build_object('i', i) FROM generate_series(1, 5000) i;
        INSERT INTO t VALUES (0, NULL, NULL, NULL, NULL, NULL), (-1, '', NULL, NULL, 'NaN', 'null')"""
    )
    await two.init()
    report = await compare(two)
    assert (report.exit_status, report.rows_count, report.differences_count) == (0, 5002, 0)


async def test_every_kind_of_difference_is_named(two: Two) -> None:
    await two.execute(
        """CREATE TABLE t (id int PRIMARY KEY, a text, b text);
        INSERT INTO t SELECT i, 'a', 'b' FROM generate_series(1, 5000) i"""
    )
    await two.init()
    await two.new.execute("DELETE FROM t WHERE id IN (1, 2500)")
    await two.new.execute("UPDATE t SET b = NULL WHERE id = 777; UPDATE t SET a = '', b = '' WHERE id = 5000")
    await two.new.execute("INSERT INTO t VALUES (-7), (9999)")
    found = await only_table(two)
    assert set(found.differing) == {
        Difference(("1",), Kind.MISSING),
        Difference(("2500",), Kind.MISSING),
        Difference(("777",), Kind.DIFFERING, ("b",)),
        Difference(("5000",), Kind.DIFFERING, ("a", "b")),
        Difference(("-7",), Kind.EXTRA),
        Difference(("9999",), Kind.EXTRA),
    }
    assert found.rows_count == 5000


@pytest.mark.parametrize("is_source_empty", [True, False])
async def test_one_empty_side_is_cut_short(two: Two, is_source_empty: bool) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await two.init()
    full = two.new if is_source_empty else two.old
    await full.execute("INSERT INTO t SELECT generate_series(1, 20000)")
    found = await only_table(two, limits=Limits(range_rows=1000, differences_max=50, waits_s=(0.0,)))
    assert found.is_cut_short
    assert len(found.differing) == 50
    assert {difference.kind for difference in found.differing} == {
        Kind.EXTRA if is_source_empty else Kind.MISSING
    }


async def test_sides_that_sort_keys_differently_are_compared_row_by_row(two: Two) -> None:
    """On one side 10 comes before 9, on the other after it; so it is with two collations of text."""
    await two.old.execute("CREATE TABLE t (id text PRIMARY KEY, a int)")
    await two.new.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    await two.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 5000) i")
    await two.init()
    assert (await only_table(two)).differing == ()
    await two.new.execute("DELETE FROM t WHERE a = 17; UPDATE t SET a = 0 WHERE a = 1800")
    await two.new.execute("INSERT INTO t VALUES (-1, 1), (99999, 2), (5001, 3)")
    found = await only_table(two)
    assert [(difference.key, difference.kind) for difference in found.differing] == [
        (("-1",), Kind.EXTRA),
        (("17",), Kind.MISSING),
        (("1800",), Kind.DIFFERING),
        (("5001",), Kind.EXTRA),
        (("99999",), Kind.EXTRA),
    ]
    assert found.pending_count == 0


async def test_composite_and_quoted_keys(two: Two) -> None:
    await two.execute(
        """CREATE TABLE "T a" (n int, "n n" text, k1 uuid DEFAULT gen_random_uuid(), v text,
            PRIMARY KEY ("n n", n));
        INSERT INTO "T a" SELECT i % 50, 'x''"' || i / 50, '00000000-0000-0000-0000-000000000000', 'v'
            FROM generate_series(0, 4999) i"""
    )
    await two.init()
    assert (await compare(two)).exit_status == 0
    await two.new.execute("""UPDATE "T a" SET v = NULL WHERE n = 3 AND "n n" = 'x''"7'""")
    assert (await only_table(two)).differing == (Difference(("x'\"7", "3"), Kind.DIFFERING, ("v",)),)


async def test_types_and_column_order_may_differ(two: Two) -> None:
    await two.old.execute(
        """CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE t (id int PRIMARY KEY, c char(5), n numeric, j json, f real, at timestamptz(3),
            m mood, old int, g int GENERATED ALWAYS AS (id * 2) STORED);
        ALTER TABLE t DROP COLUMN old;
        INSERT INTO t SELECT i, 'ab', i / 4.0, '{"b": 1,  "a": 2}', 0.1, '2024-01-01', 'ok'
            FROM generate_series(1, 100) i"""
    )
    await two.new.execute(
        """CREATE TABLE t (m text, at timestamptz, f float8, j jsonb, n numeric(10,2), c text,
            id bigint PRIMARY KEY, g int, more int DEFAULT 5);
        INSERT INTO t SELECT 'ok', '2024-01-01', 0.1, '{"a": 2, "b": 1}', i / 4.0, 'ab', i
            FROM generate_series(1, 100) i"""
    )
    await two.init()
    report = await compare(two)
    assert report.exit_status == 0, report
    await two.new.execute("UPDATE t SET f = 0.2, m = 'sad', n = 9.99 WHERE id = 3")
    assert (await only_table(two)).differing == (Difference(("3",), Kind.DIFFERING, ("n", "f", "m")),)


async def test_partitioned_tables(two: Two) -> None:
    await two.execute(
        """CREATE TABLE t (id int, day date, v int, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO ('2024-02-01');
        CREATE TABLE t2 PARTITION OF t FOR VALUES FROM ('2024-02-01') TO (MAXVALUE);
        INSERT INTO t SELECT i, '2024-01-01'::date + i % 60, i FROM generate_series(1, 3000) i"""
    )
    await two.init()
    await two.new.execute("UPDATE t SET v = 0 WHERE id = 44")
    assert [found.columns for found in (await only_table(two)).differing] == [("v",)]


async def test_what_cannot_be_compared_is_a_problem_of_that_table_alone(two: Two) -> None:
    await two.execute("CREATE TABLE good (id int PRIMARY KEY)")
    await two.old.execute(
        """CREATE TABLE absent (id int PRIMARY KEY); CREATE TABLE nameless (id int UNIQUE);
        INSERT INTO nameless VALUES (1), (NULL);
        CREATE TABLE narrower (id int PRIMARY KEY, lost int);
        CREATE TABLE worse (id int PRIMARY KEY, a text); INSERT INTO worse VALUES (1, 'x')"""
    )
    await two.new.execute(
        """CREATE TABLE nameless (id int UNIQUE); CREATE TABLE narrower (id int PRIMARY KEY);
        CREATE TABLE worse (id int PRIMARY KEY, a int)"""
    )
    two.tables = Tables(key={"nameless": ("id",)})
    await two.init()
    report = await compare(two)
    assert report.exit_status == 2
    problems = {table.name: table.problem or "" for table in report.tables}
    assert problems["public.good"] == ""
    assert "no such table" in problems["public.absent"]
    assert "whose key (id) is NULL" in problems["public.nameless"]
    assert "no column lost" in problems["public.narrower"]
    assert "invalid input syntax" in problems["public.worse"]


async def test_without_a_key_copies_are_counted(two: Two) -> None:
    await two.execute(
        """CREATE TABLE t (a int, b text); INSERT INTO t SELECT i % 900, 'x' FROM generate_series(1, 2000) i;
        CREATE TABLE same (a int); INSERT INTO same VALUES (1), (1), (NULL)"""
    )
    await two.init()
    assert not any(table.differing for table in (await compare(two)).tables)
    await two.old.execute("INSERT INTO t VALUES (1, 'x'), (5000, NULL)")
    await two.new.execute("INSERT INTO t VALUES (2, 'x'); INSERT INTO t VALUES (3, 'y')")
    found = (await compare(two, repair=True)).tables[1].differing
    assert {(each.key, each.kind) for each in found} == {
        (("(1,x)",), Kind.MISSING),
        (("(5000,)",), Kind.MISSING),
        (("(2,x)",), Kind.EXTRA),
        (("(3,y)",), Kind.EXTRA),
    }
    assert all(each.is_repaired for each in found)
    assert await two.old.fetch("SELECT kind::text FROM crossfade.ledger") == [("t",)]


async def test_without_a_key_rows_on_their_way_are_pending_where_they_are(two: Two) -> None:
    await two.execute("CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 5000)")
    await two.init()
    await two.new.execute("INSERT INTO t VALUES (-1)")
    await two.old.execute(
        """WITH w AS (INSERT INTO t VALUES (-2), (-3) RETURNING ctid, tableoid)
        INSERT INTO crossfade.ledger (tbl, kind, key) SELECT $1, 'a', ARRAY[ctid::text, tableoid::text,
            pg_relation_filenode(tableoid)::text, pg_current_xact_id()::text] FROM w""",
        two.table("t").id,
    )
    (table,) = (await compare(two)).tables
    assert [each.key for each in table.differing] == [("(-1)",)]
    assert table.pending_count == 2


async def test_a_row_named_by_the_ledger_is_pending_not_different(two: Two) -> None:
    """The entry may have been written under settings that print the key in another way."""
    await two.execute("CREATE TABLE t (at timestamptz PRIMARY KEY, a int)")
    await two.init()
    await two.old.execute("INSERT INTO t VALUES ('2024-01-01 00:00Z'), ('2024-01-02 00:00Z')")
    await two.old.execute(
        "INSERT INTO crossfade.ledger (tbl, key) VALUES ($1, '{2024-01-01 05:00:00+05}')".replace(
            "$1", str(two.table("t").id)
        )
    )
    found = await only_table(two)
    assert [difference.key for difference in found.differing] == [("2024-01-02 00:00:00+00",)]
    assert found.pending_count == 1
    await two.old.execute(f"INSERT INTO crossfade.ledger (tbl, kind) VALUES ({two.table('t').id}, 't')")
    found = await only_table(two)
    assert (found.differing, found.pending_count) == ((), 2)


async def test_repair_writes_an_entry_for_each_difference(two: Two) -> None:
    await two.execute("CREATE TABLE t (a int, b text, PRIMARY KEY (a, b))")
    await two.init()
    await two.old.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y\"{},')")
    await two.new.execute("INSERT INTO t VALUES (3, 'z')")
    report = await compare(two, repair=True)
    assert all(found.is_repaired for found in report.tables[0].differing)
    entries = await two.old.fetch("SELECT tbl, kind, key FROM crossfade.ledger ORDER BY key")
    table_id = two.table("t").id
    assert [tuple(entry) for entry in entries] == [
        (table_id, b"k", ["1", "x"]),
        (table_id, b"k", ["2", 'y"{},']),
        (table_id, b"k", ["3", "z"]),
    ]


async def test_repair_of_a_table_that_was_cut_short_names_the_table(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await two.init()
    await two.old.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    await compare(two, repair=True, limits=Limits(differences_max=10, waits_s=(0.0,)))
    assert await two.old.fetchval("SELECT string_agg(kind::text, '') FROM crossfade.ledger") == "t"


async def test_the_result_is_stored_on_the_source(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    await two.init()
    await two.old.execute("INSERT INTO t VALUES (1)")
    await compare(two)
    await compare(two, only=[("public", "u")])
    rows = await two.old.fetch(
        "SELECT is_whole, tables_count, rows_count, differences_count FROM crossfade.verification ORDER BY at"
    )
    assert [tuple(row) for row in rows] == [(True, 2, 1, 1), (False, 1, 0, 0)]


async def test_rows_in_flight_are_never_blamed(two: Two) -> None:
    """A writer, and a mirror that follows it properly, while verify runs again and again."""
    await two.execute(
        """CREATE TABLE t (id int PRIMARY KEY, a bigint);
        INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) i"""
    )
    await two.init()
    table_id = two.table("t").id
    stop = asyncio.Event()

    async def write_and_mirror() -> None:
        """One round: capture with the write, apply on the target, delete the entry."""
        round_number = 0
        while not stop.is_set():
            round_number += 1
            key = 1 + round_number * 7 % 500
            async with two.old.transaction():
                # A few values come back again and again; keys come and go.
                await two.old.execute(f"DELETE FROM t WHERE id = {key}")
                if round_number % 5:
                    await two.old.execute(f"INSERT INTO t VALUES ({key}, {round_number % 2})")
                await two.old.execute(
                    f"INSERT INTO crossfade.ledger (tbl, key) VALUES ({table_id}, '{{{key}}}')"
                )
            row = await two.old.fetchrow(f"SELECT id, a FROM t WHERE id = {key}")
            async with two.new.transaction():
                await two.new.execute(f"DELETE FROM t WHERE id = {key}")
                if row is not None:
                    await two.new.execute(f"INSERT INTO t VALUES ({row['id']}, {row['a']})")
            await two.old.execute("DELETE FROM crossfade.ledger")

    async with asyncio.TaskGroup() as group:
        group.create_task(write_and_mirror())
        limits = Limits(range_rows=100, waits_s=(0.0, 0.01, 0.02, 0.05))
        for _ in range(10):
            report = await compare(two, limits=limits)
            assert report.differences_count == 0, report
        stop.set()
    report = await compare(two)
    assert (report.differences_count, report.pending_count) == (0, 0)


async def test_verify_of_200000_rows_takes_a_second_or_two(two: Two) -> None:
    await two.execute(
        """CREATE TABLE t (id bigint PRIMARY KEY, email text, payload text, at timestamptz, n numeric);
        INSERT INTO t SELECT i, 'user' || i, repeat(md5(i::text), 3), '2024-01-01', i * 1.1
            FROM generate_series(1, 200000) i;
        ANALYZE t"""
    )
    await two.init()
    report = await compare(two, limits=Limits())
    assert (report.rows_count, report.differences_count) == (200_000, 0)
    assert report.seconds < 6, "far beyond what a busy machine explains"
