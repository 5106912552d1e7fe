"""Every way to write a row, through the proxy: afterwards both sides hold the same bytes.

Each way runs as a simple query and (from 16 on) as a prepared statement, on rows of its own,
and must change something; otherwise it would prove nothing.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.integration.writing import Writing, writing

# {k} is the number before the first of nine rows in every table.
WAYS = {
    "writable CTE": "WITH gone AS (DELETE FROM item WHERE id = {k} + 9 RETURNING id, v) INSERT INTO triggered SELECT id + 100, v FROM gone",
    "writable CTEs only": "WITH a AS (DELETE FROM line WHERE id = {k} + 1), b AS (UPDATE item SET v = 5 WHERE id = {k} + 2 RETURNING id) SELECT count(*) FROM b",
    "MERGE": "MERGE INTO item t USING (VALUES ({k} + 1, 1), ({k} + 2, 2), ({k} + 50, 3)) s (id, n) ON s.id = t.id"
    " WHEN MATCHED AND n = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET v = n * 10 WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, n)",
    "MERGE with a changed key": "MERGE INTO tagged t USING (VALUES ({k} + 1)) s (id) ON s.id = t.id WHEN MATCHED THEN UPDATE SET id = t.id + 60",
    "INSERT ... SELECT": "INSERT INTO item SELECT id + 100, v FROM item WHERE id BETWEEN {k} AND {k} + 9",
    "INSERT ... DEFAULT VALUES": "INSERT INTO numbered DEFAULT VALUES",
    "INSERT ... OVERRIDING": "INSERT INTO numbered OVERRIDING SYSTEM VALUE VALUES ({k} + 100000, 1) RETURNING *",
    "ON CONFLICT DO NOTHING": "INSERT INTO item VALUES ({k} + 1, 0), ({k} + 51, 0) ON CONFLICT DO NOTHING",
    "ON CONFLICT DO UPDATE": "INSERT INTO item VALUES ({k} + 1, 70), ({k} + 52, 7) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "ON CONFLICT ... WHERE": "INSERT INTO item VALUES ({k} + 1, 80), ({k} + 2, 80) ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE item.v = 1",
    "ON CONFLICT ON CONSTRAINT": "INSERT INTO tagged VALUES ({k} + 70, 'x', {k} + 1) ON CONFLICT ON CONSTRAINT tagged_v DO UPDATE SET name = 'conflicted' || {k} RETURNING *",
    "ON CONFLICT that changes the key": "INSERT INTO tagged AS t VALUES ({k} + 71, 'name' || {k} + 2, 0) ON CONFLICT (name) DO UPDATE SET id = excluded.id",
    "UPDATE ... FROM": "UPDATE item SET v = t.v FROM tagged t WHERE t.id = item.id AND item.id BETWEEN {k} AND {k} + 3",
    "UPDATE ... FROM itself": "UPDATE item AS a SET v = b.v FROM item b WHERE b.id = a.id + 1 AND a.id = {k} + 1 RETURNING b.id, a.*",
    "DELETE ... USING": "DELETE FROM line USING item WHERE line.item = item.id AND item.id = {k} + 1",
    "UPDATE of the key": "UPDATE tagged SET id = id + 80 WHERE id = {k} + 3",
    "UPDATE of the key, returned": "UPDATE tagged SET id = id + 80 WHERE id = {k} + 3 RETURNING *",
    "keys that move along": "UPDATE tagged SET id = id + 1 WHERE id = {k} + 9",
    "UPDATE of a key with a cascade": "UPDATE item SET id = id + 80 WHERE id = {k} + 3",
    "updatable view": "UPDATE item_view SET v = 900 WHERE id = {k} + 1",
    "updatable view, inserted": "INSERT INTO item_view VALUES ({k} + 91, 9)",
    "view with INSTEAD OF": "UPDATE joined SET v = 4, name = 'joined' || {k} WHERE id = {k} + 1",
    "view with a rule": "INSERT INTO ruled_view VALUES ({k} + 92, 1)",
    "rule": "UPDATE ruled SET v = 77 WHERE id = {k} + 1",
    "row movement": "UPDATE part SET region = 'us', v = 0 WHERE id = {k} + 2 AND region = 'eu'",
    "one partition": "UPDATE part_eu SET v = 44 WHERE id BETWEEN {k} AND {k} + 9",
    "inheritance": "UPDATE animal SET v = 0 WHERE id BETWEEN {k} AND {k} + 9",
    "inheritance, child": "DELETE FROM dog WHERE id = {k} + 5",
    "inheritance, ONLY": "UPDATE ONLY animal SET v = 3 WHERE id BETWEEN {k} AND {k} + 9",
    "function": "SELECT bump({k} + 1)",
    "function in FROM": "SELECT * FROM bump({k} + 1)",
    "function in a write": "INSERT INTO item SELECT {k} + 93, bump({k} + 2)",
    "DO": "DO $$ BEGIN UPDATE item SET v = 0 WHERE id = {k} + 1; DELETE FROM tagged WHERE id = {k} + 1; END $$",
    "DO that commits": "DO $$ BEGIN UPDATE item SET v = 0 WHERE id = {k} + 1; COMMIT; DELETE FROM tagged WHERE id = {k} + 1; END $$",
    "CALL that commits": "CALL in_steps({k})",
    "CALL": "CALL bump_all({k})",
    "trigger": "UPDATE audited SET v = 0 WHERE id = {k} + 1",
    "trigger form": "UPDATE triggered SET id = id + 100 WHERE id = {k} + 1",
    "cascade": "DELETE FROM item WHERE id = {k} + 1",
    "EXPLAIN ANALYZE": "EXPLAIN (ANALYZE, COSTS off) UPDATE item SET v = 1000 WHERE id = {k} + 1",
    "unlogged": "UPDATE scratch SET v = 0 WHERE id = {k} + 1",
    "RLS": "UPDATE secret SET v = 0 WHERE id BETWEEN {k} AND {k} + 9",
    "keyless": "INSERT INTO log VALUES ('twice', {k}), ('twice', {k}), (NULL, NULL)",
    "keyless, returned": "INSERT INTO log_part AS l SELECT n, 'x' FROM generate_series(8, 12) n RETURNING l.*, v + 1",
    "keyless, one partition": "INSERT INTO log_high (what, v) VALUES ('high', {k}) ON CONFLICT DO NOTHING",
    "keyless, changed": "UPDATE log SET v = v + 1 WHERE v = {k} + 1",
    "keyless, row movement": "UPDATE log_part SET v = v + 5 WHERE v = 9",
    "keyless, deleted": "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE v = {k} + 1)",
    "keyless, trigger form": "INSERT INTO log_triggered VALUES ('twice', {k}), ('twice', {k})",
    "keyless, changed in trigger form": "UPDATE log_triggered SET v = 0 WHERE v = {k} + 1",
    "no row": "UPDATE item SET v = 0 WHERE id = {k} + 99; INSERT INTO item VALUES ({k} + 98)",
    "several statements": "UPDATE item SET v = 31 WHERE id = {k} + 1; DELETE FROM tagged WHERE id = {k} + 2; INSERT INTO item VALUES ({k} + 94)",
    "several, with BEGIN and COMMIT": "BEGIN; UPDATE item SET v = 32 WHERE id = {k} + 1; COMMIT; UPDATE item SET v = 32 WHERE id = {k} + 2",
    "comment at the end": "UPDATE item SET v = 33 WHERE id = {k} + 1 -- ; RETURNING",
}  # fmt: skip

SCRIPTS = {
    "savepoints": ["BEGIN", "UPDATE item SET v = 1 WHERE id = {k} + 1", "SAVEPOINT a", "UPDATE item SET v = 2 WHERE id = {k} + 2",
                   "ROLLBACK TO a", "DELETE FROM item WHERE id = {k} + 3", "RELEASE a", "COMMIT"],
    "savepoint around an error": ["BEGIN", "UPDATE item SET v = 11 WHERE id = {k} + 1", "SAVEPOINT a", "!INSERT INTO item VALUES ({k} + 1)",
                                  "ROLLBACK TO a", "UPDATE item SET v = 12 WHERE id = {k} + 2", "COMMIT"],
    "WHERE CURRENT OF": ["BEGIN", "DECLARE c CURSOR FOR SELECT * FROM item WHERE id BETWEEN {k} AND {k} + 3 FOR UPDATE", "FETCH 2 FROM c",
                         "UPDATE item SET v = 71 WHERE CURRENT OF c", "FETCH 1 FROM c", "DELETE FROM item WHERE CURRENT OF c", "COMMIT"],
    "two-phase commit": ["BEGIN", "UPDATE item SET v = 61 WHERE id = {k} + 1", "PREPARE TRANSACTION 'ways{k}'", "UPDATE item SET v = 62 WHERE id = {k} + 2",
                         "COMMIT PREPARED 'ways{k}'"],
    "two-phase rollback": ["BEGIN", "UPDATE item SET v = 63 WHERE id = {k} + 1", "PREPARE TRANSACTION 'ways{k}'", "ROLLBACK PREPARED 'ways{k}'",
                           "UPDATE item SET v = 64 WHERE id = {k} + 2"],
    "TRUNCATE": ["TRUNCATE scratch", "INSERT INTO scratch VALUES ({k} + 1, 1)"],
    "TRUNCATE ... CASCADE": ["TRUNCATE item CASCADE", "INSERT INTO item VALUES ({k} + 1, 1)"],
    "TRUNCATE of a partition, rolled back": ["BEGIN", "TRUNCATE part_eu", "ROLLBACK", "TRUNCATE part_us"],
    "TRUNCATE in trigger form": ["TRUNCATE triggered", "INSERT INTO triggered VALUES ({k} + 1, 1)"],
    "detach and attach": ["ALTER TABLE part DETACH PARTITION part_eu", "UPDATE part_eu SET v = 51", "ALTER TABLE part ATTACH PARTITION part_eu FOR VALUES IN ('eu')",
                          "UPDATE part SET v = 52 WHERE id = {k} + 2"],
    "SQL-level PREPARE": ["PREPARE p{k} (int) AS UPDATE item SET v = $1 WHERE id = {k} + 1", "EXECUTE p{k} (41)", "DEALLOCATE p{k}"],
    "temporary table": ["CREATE TEMP TABLE mine (id int)", "INSERT INTO mine VALUES ({k} + 1)", "UPDATE item SET v = 42 FROM mine WHERE mine.id = item.id", "DROP TABLE mine"],
    "temporary table that hides": ["CREATE TEMP TABLE item (id int, v int)", "INSERT INTO item VALUES ({k} + 1, 0)", "UPDATE public.item SET v = 43 WHERE id = {k} + 1", "DROP TABLE pg_temp.item",
                                   "UPDATE item SET v = 44 WHERE id = {k} + 2"],
    "CALL in a transaction": ["BEGIN", "CALL bump_all({k})", "UPDATE item SET v = 45 WHERE id = {k} + 1", "COMMIT"],
    "deferred constraint": ["BEGIN", "INSERT INTO line VALUES ({k} + 95, {k} + 1)", "DELETE FROM line WHERE id = {k} + 95", "UPDATE line SET item = {k} + 9 WHERE id = {k} + 1", "COMMIT"],
    "failed transaction": ["BEGIN", "UPDATE item SET v = 46 WHERE id = {k} + 1", "!SELECT 1 / 0", "!UPDATE item SET v = 47 WHERE id = {k} + 1", "COMMIT", "UPDATE item SET v = 48 WHERE id = {k} + 2"],
    "SET ROLE": ["SET ROLE ways_user", "UPDATE secret SET v = 49 WHERE owner = 'ways_user'", "UPDATE audited SET v = 49", "RESET ROLE"],
}  # fmt: skip


@pytest.fixture(scope="module", params=["pg15", "pg16"])
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    clusters = (request.getfixturevalue(request.param), request.getfixturevalue("pg18"))
    # On one of them the audit looks at everything, and must find nothing.
    audit = "100%" if request.param == "pg15" else "0%"
    with writing(tmp_path_factory.mktemp("ways"), clusters, mirror={"audit": audit}) as made:
        yield made
        assert made.running.status()["capture_misses"] == {}


def _run(client: psycopg.Connection[Any], text: str, *, is_prepared: bool) -> None:
    if text.startswith("!"):
        with pytest.raises(psycopg.Error):
            client.execute(text[1:], prepare=is_prepared)
    else:
        client.execute(text, prepare=is_prepared)


@pytest.mark.parametrize("protocol", ["simple", "prepared"])
@pytest.mark.parametrize("way", [*WAYS, *SCRIPTS])
def test_both_sides_are_equal_afterwards(ways: Writing, way: str, protocol: str) -> None:
    if protocol == "prepared" and ways.version == 15:
        return
    k = ways.block()
    texts = SCRIPTS.get(way) or [WAYS[way]]
    if protocol == "prepared" and ";" in re.sub(r"\$\$.*?\$\$|--.*", "", " ".join(texts)):
        texts = [part for text in texts for part in text.split(";")]
    before = ways.contents(0)
    with ways.connect() as client:
        for text in texts:
            _run(client, text.format(k=k), is_prepared=protocol == "prepared")
    assert ways.contents(0) != before
    ways.assert_equal()


COPIES = {
    "text": ("COPY item FROM STDIN", b"{1}\t1\tone\n{2}\t2\t\\\\N\n"),
    "csv": ("COPY item (note, id) FROM STDIN (FORMAT csv, HEADER)", b'note,id\n"a, ""b""\nc",{1}\n,{2}\n'),
    "without its key": ("COPY numbered (v) FROM STDIN", b"{1}\n{2}\n"),
    "partitioned": ("COPY part FROM STDIN WITH DELIMITER '|'", b"{1}|eu|1\n{2}|us|2\n"),
    "with triggers": ("COPY audited FROM STDIN", b"{1}\t1\n"),
    "in trigger form": ("COPY triggered FROM STDIN", b"{1}\t1\n"),
    "where": ("COPY item (id, v) FROM STDIN WHERE v > 1", b"{1}\t1\n{2}\t2\n"),
    "keyless": ("COPY log FROM STDIN", b"a\t{1}\na\t{1}\n"),
    "keyless in trigger form": ("COPY log_triggered FROM STDIN", b"a\t{1}\na\t{1}\n"),
    "quoted": ("COPY tagged FROM STDIN", b"{1}\ta\\tb\\\\c{1}\t-{1}\n"),
}


@pytest.mark.parametrize("form", COPIES)
def test_copied_rows_arrive(ways: Writing, form: str) -> None:
    k = ways.block()
    statement, data = COPIES[form]
    rows = data.replace(b"{1}", str(k + 31).encode()).replace(b"{2}", str(k + 32).encode())
    before = ways.contents(0)
    with ways.connect() as client, client.cursor() as cursor, cursor.copy(statement) as stream:
        stream.write(rows)
    assert ways.contents(0) != before
    ways.assert_equal()


def test_rows_copied_in_binary_arrive(ways: Writing) -> None:
    k = ways.block()
    copy = "COPY item FROM STDIN (FORMAT binary)"
    with ways.connect() as client, client.cursor() as cursor, cursor.copy(copy) as stream:
        stream.set_types(["int4", "int4", "text"])
        for n in range(1500):  # too many to be entered by key
            stream.write_row((-10 * k - n, n, None))
    ways.assert_equal()


def test_copies_that_end_in_every_way_within_savepoints(ways: Writing) -> None:
    k = ways.block()
    with ways.connect() as client, client.cursor() as cursor, client.transaction():
        with pytest.raises(psycopg.errors.QueryCanceled), client.transaction():
            with cursor.copy("COPY item (id) FROM STDIN") as stream:
                stream.write(f"{k + 40}\n")
            with cursor.copy("COPY item (id) FROM STDIN") as stream:
                stream.write(f"{k + 41}\n")
                raise psycopg.errors.QueryCanceled  # sends CopyFail
        with client.transaction(), cursor.copy("COPY item (id) FROM STDIN") as stream:
            stream.write(f"{k + 42}\n")
        client.execute(f"UPDATE item SET v = 1 WHERE id = {k + 42}")
    ways.assert_equal()


def test_a_copy_that_fails_leaves_nothing(ways: Writing) -> None:
    k = ways.block()
    with ways.connect() as client, client.cursor() as cursor:
        with pytest.raises(psycopg.errors.UniqueViolation), cursor.copy("COPY item FROM STDIN") as stream:
            stream.write(f"{k + 40}\t1\tx\n{k + 1}\t1\tx\n")
        client.execute("UPDATE item SET v = 12 WHERE id = %s", (k + 1,))
    ways.assert_equal()


BLIND = {
    "UPDATE without WHERE": "UPDATE item SET v = 21",
    "UPDATE, returned": "UPDATE item SET v = 22 WHERE v = 1 RETURNING v",
    "INSERT": "INSERT INTO item (id, v) VALUES ({k} + 60, 1)",
    "DELETE": "DELETE FROM item WHERE v = 9",
    "ON CONFLICT": "INSERT INTO tagged VALUES ({k} + 61, 'blind' || {k}, {k} + 61) ON CONFLICT DO NOTHING",
    "TRUNCATE": "TRUNCATE scratch",
    "keyless": "INSERT INTO log VALUES ('blind', {k})",
}


@pytest.mark.parametrize("way", BLIND)
def test_a_role_that_may_not_read_the_key_may_write(ways: Writing, way: str) -> None:
    k = ways.block()
    before = ways.contents(0)
    with ways.connect("ways_user") as client:
        client.execute(BLIND[way].format(k=k))
    assert ways.contents(0) != before
    ways.assert_equal()


@pytest.mark.parametrize(
    "setting", ["SET ROLE ways_user", "SET SESSION AUTHORIZATION ways_user", "SET LOCAL ROLE ways_user"]
)
def test_a_role_taken_on_that_may_not_read_the_key_may_write(ways: Writing, setting: str) -> None:
    k = ways.block()
    with ways.connect() as client:
        client.execute(f"UPDATE item SET v = 20 WHERE id = {k + 1}")
        client.execute("BEGIN")
        client.execute(setting)
        client.execute("UPDATE item SET v = 21")
        client.execute("COMMIT")
        client.execute("RESET ALL; RESET ROLE; RESET SESSION AUTHORIZATION")
        client.execute(f"UPDATE item SET v = 22 WHERE id = {k + 2}")
    ways.assert_equal()


def test_entries_of_a_call_stay_until_it_has_ended(ways: Writing) -> None:
    k = ways.block()
    with ways.direct() as gate, ways.connect() as client, ThreadPoolExecutor(1) as pool:
        gate.execute("SELECT pg_advisory_lock(4711)")
        calling = pool.submit(client.execute, f"CALL waits_between({k})")
        try:
            ways.wait_for("SELECT FROM pg_locks WHERE objid = 4711 AND NOT granted")
            # Passes go by; each sees the first of the two commits.
            for n in (7, 8, 9):
                ways.write_and_wait(k + n)
            assert "c" in {kind for _, kind, _ in ways.entries()}
        finally:
            gate.execute("SELECT pg_advisory_unlock(4711)")
        calling.result(timeout=10)
    ways.assert_equal()
    with ways.direct() as old:
        assert old.execute(f"SELECT v FROM item WHERE id IN ({k + 1}, {k + 2}) ORDER BY id").fetchall() == [
            (-1,),
            (-2,),
        ]


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_call_that_fails_after_it_committed_is_captured_and_reported(
    ways: Writing, is_prepared: bool
) -> None:
    k = ways.block()
    with ways.connect() as client:
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute(f"CALL fails_between({k})", prepare=is_prepared)
        client.execute("UPDATE item SET v = 5 WHERE id = %s", (k + 3,))
    ways.assert_equal()
    with ways.direct(1) as new:
        assert new.execute("SELECT v FROM item WHERE id = %s", (k + 1,)).fetchone() == (-1,)


def test_a_session_that_dies_in_a_call_leaves_both_sides_equal(ways: Writing) -> None:
    k = ways.block()
    with ways.direct() as gate, ThreadPoolExecutor(1) as pool:
        gate.execute("SELECT pg_advisory_lock(4711)")
        client = ways.connect()
        calling = pool.submit(client.execute, f"CALL waits_between({k})")
        (pid,) = ways.wait_for("SELECT pid FROM pg_locks WHERE objid = 4711 AND NOT granted")
        gate.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(psycopg.Error):
            calling.result(timeout=10)
        client.close()
    ways.assert_equal()
