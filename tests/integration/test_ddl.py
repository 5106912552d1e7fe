"""DDL through a real proxy: the mirror gets it, at its place in the order, and rows go on."""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from proxy.capture.ddl import ddl_apart
from tests.integration.writing import Writing, writing

# Statements, then a query that must say the same on both sides.
_SHAPE = "SELECT string_agg(concat_ws(' ', relname, relkind, attname, atttypid::regtype, attnotnull), ', ' ORDER BY relname, attname) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped"
DDL = {
    "a new table": ["CREATE TABLE fresh (id int PRIMARY KEY, v int)", "INSERT INTO fresh VALUES (1, 1)", "UPDATE fresh SET v = 2"],
    "a new table, filled in its transaction": ["BEGIN", "CREATE TABLE fresh2 (id int PRIMARY KEY)", "INSERT INTO fresh2 SELECT generate_series(1, 9)", "COMMIT"],
    "another column": ["ALTER TABLE item ADD COLUMN extra text DEFAULT 'x' NOT NULL", "UPDATE item SET extra = 'y' WHERE id = {k} + 1"],
    "another column, and rows, in one transaction": ["BEGIN", "UPDATE tagged SET v = -{k} WHERE id = {k} + 1", "ALTER TABLE tagged ADD COLUMN more int", "UPDATE tagged SET more = 5 WHERE id = {k} + 2", "COMMIT"],
    "a column less": ["ALTER TABLE animal DROP COLUMN v", "INSERT INTO animal VALUES ({k} + 50)"],
    "a wider type": ["ALTER TABLE scratch ALTER COLUMN v TYPE bigint", "UPDATE scratch SET v = 5000000000 WHERE id = {k} + 1"],
    "another name": ["ALTER TABLE ruled RENAME COLUMN v TO w", "INSERT INTO ruled VALUES ({k} + 70, 1)"],
    "an index": ["CREATE INDEX item_v ON item (v)"],
    "an index, concurrently": ["CREATE INDEX CONCURRENTLY item_note ON item (note)", "DROP INDEX CONCURRENTLY item_note"],
    "a partition": ["CREATE TABLE part_de PARTITION OF part FOR VALUES IN ('de')", "INSERT INTO part VALUES ({k} + 1, 'de', 1)"],
    "a view and a function": ["CREATE VIEW shown AS SELECT 1 AS one", "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2'"],
    "CREATE TABLE AS": ["CREATE TABLE copied AS SELECT id, v FROM item", "ALTER TABLE copied ADD PRIMARY KEY (id)", "UPDATE copied SET v = 1"],
    "SELECT INTO": ["SELECT id INTO chosen FROM item", "ALTER TABLE chosen ADD PRIMARY KEY (id)"],
    "a materialized view": ["CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM line", "REFRESH MATERIALIZED VIEW counted"],
    "in another schema": ["CREATE SCHEMA other", "SET search_path = other, public", "CREATE TABLE there (id int)", "RESET search_path"],
    "rolled back": ["BEGIN", "CREATE TABLE never (id int)", "ROLLBACK"],
    "an error": ["!CREATE TABLE item (id int)"],
    "temporary": ["CREATE TEMP TABLE mine (id int)", "ALTER TABLE mine ADD COLUMN x int", "CREATE INDEX ON mine (id)", "DROP TABLE mine"],
    "dropped": ["DROP TABLE audit CASCADE"],
    "several": ["CREATE TABLE first (id int PRIMARY KEY); CREATE TABLE second (id int PRIMARY KEY REFERENCES first); INSERT INTO first VALUES (1)"],
}  # fmt: skip
TABLES = (
    "fresh",
    "fresh2",
    "item",
    "tagged",
    "animal",
    "scratch",
    "ruled",
    "part",
    "copied",
    "chosen",
    "first",
)


@pytest.fixture(scope="module")
def ddl(pg16: object, pg18: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    with writing(tmp_path_factory.mktemp("ddl"), (pg16, pg18)) as made:  # type: ignore[arg-type]
        yield made


@pytest.mark.parametrize("what", DDL)
def test_ddl_is_mirrored_in_its_place(ddl: Writing, what: str) -> None:
    k = 1000 * (100 + list(DDL).index(what))
    with ddl.connect() as client:
        client.execute(f"INSERT INTO item SELECT {k} + n, n FROM generate_series(1, 5) n")
        client.execute(
            f"INSERT INTO tagged SELECT {k} + n, 'n{k}' || n, {k} + n FROM generate_series(1, 5) n"
        )
        client.execute(f"INSERT INTO scratch SELECT {k} + n, n FROM generate_series(1, 5) n")
        for text in DDL[what]:
            if text.startswith("!"):
                with pytest.raises(psycopg.Error):
                    client.execute(text[1:].format(k=k))
            else:
                client.execute(text.format(k=k), prepare="; " not in text)
    with ddl.direct(0) as old, ddl.direct(1) as new:
        names = [
            name for name in TABLES if old.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,)
        ]
        ddl.assert_equal(names)
        assert new.execute(_SHAPE).fetchone() == old.execute(_SHAPE).fetchone()


def test_what_the_mirror_refuses_waits_with_its_remedy_and_rows_go_on(ddl: Writing) -> None:
    with ddl.direct(1) as new, ddl.connect() as client:
        client.execute("CREATE VIEW item_count AS SELECT count(*) AS rows FROM item")
        ddl.wait_for("SELECT to_regclass('item_count') WHERE to_regclass('item_count') IS NOT NULL", side=1)
        new.execute("CREATE VIEW above AS SELECT * FROM item_count")  # which forbids what comes
        client.execute("DROP VIEW item_count")
        client.execute("CREATE TABLE behind (id int PRIMARY KEY)")
        client.execute("INSERT INTO line VALUES (4711, NULL)")
        ddl.wait_for("SELECT FROM line WHERE id = 4711", side=1)
        (error,) = ddl.wait_for("SELECT error FROM crossfade.ledger WHERE kind = 'd' AND attempts > 0")
        assert "DROP VIEW item_count" in error and "run it on the mirror" in error
        assert new.execute("SELECT to_regclass('behind')").fetchone() == (None,)
        new.execute("DROP VIEW item_count CASCADE")
    ddl.assert_equal(["behind"])


CREATE = "CREATE INDEX CONCURRENTLY passing_v ON passing (v)"
DROP = "DROP INDEX CONCURRENTLY passing_v"


@pytest.mark.parametrize(
    ("ran", "meanwhile"),
    [
        (CREATE, ["DROP TABLE passing"]),
        (CREATE, ["DROP INDEX passing_v"]),
        (DROP, ["CREATE INDEX passing_v ON passing (v)"]),
        ("CREATE INDEX CONCURRENTLY ON passing (v)", ["DROP TABLE passing"]),
        ("ALTER TABLE whole DETACH PARTITION passing CONCURRENTLY", ["DROP TABLE passing"]),
    ],
    ids=["its table is dropped", "it is dropped", "it is made again", "nameless", "detached and dropped"],
)
def test_what_ran_concurrently_is_entered_only_if_its_traces_are_left(
    ddl: Writing, ran: str, meanwhile: list[str]
) -> None:
    """Between the statement and its entry somebody changes the same thing, and enters that first.

    The entry waits for a change that is not committed yet, where it is known which table it is of.
    """
    entered = "SELECT count(*) FROM crossfade.ledger WHERE key[4] LIKE '%passing%'"
    with ddl.connect() as client, ddl.direct(0) as past, ddl.direct(0) as other:
        client.execute("DROP TABLE IF EXISTS passing, whole")
        if "DETACH" in ran:
            client.execute("CREATE TABLE whole (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)")
            client.execute("CREATE TABLE passing PARTITION OF whole DEFAULT")
        else:
            client.execute("CREATE TABLE passing (id int PRIMARY KEY, v int)")
        if ran == DROP:
            client.execute("CREATE INDEX passing_v ON passing (v)")
        ddl.assert_equal(["passing"])
        past.execute(ran.replace(" CONCURRENTLY", "") if "DETACH" in ran else ran)
        client.execute("BEGIN")
        for text in meanwhile:
            client.execute(text)
        call = ddl_apart(ran)
        assert call is not None
        if ran != DROP:
            with ThreadPoolExecutor(1) as pool:
                entering = pool.submit(past.execute, call)
                blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
                while other.execute(blocked, (past.info.backend_pid,)).fetchone() != (True,):
                    assert not entering.done()
                client.execute("COMMIT")
                entering.result()
        else:
            client.execute("COMMIT")
            past.execute(call)
        client.execute("CREATE TABLE IF NOT EXISTS last_of_all (id int PRIMARY KEY)")
        ddl.assert_equal(["last_of_all"])
        assert other.execute(entered).fetchone() == (0,)
    with ddl.direct(0) as old, ddl.direct(1) as new:
        assert new.execute(_SHAPE).fetchone() == old.execute(_SHAPE).fetchone()


def test_what_ran_concurrently_on_a_temporary_table_is_nobody_elses(ddl: Writing) -> None:
    with ddl.connect() as client:
        client.execute("CREATE TEMP TABLE own (id int, v int)")
        client.execute("CREATE INDEX CONCURRENTLY own_v ON own (v)")
        client.execute("INSERT INTO line VALUES (4712, NULL)")
    ddl.assert_equal(["line"])
    with ddl.direct(0) as old:
        assert old.execute("SELECT count(*) FROM crossfade.ledger WHERE kind = 'd'").fetchone() == (0,)


def test_policies_refuse_or_leave_alone(pg16: object, pg18: object, tmp_path: object) -> None:
    policy = {"index": "refuse", "view": "warn"}
    with writing(tmp_path, (pg16, pg18), mirror={"ddl": policy}) as made:  # type: ignore[arg-type]
        with made.connect() as client:
            for is_prepared in (False, True):
                with pytest.raises(psycopg.errors.FeatureNotSupported, match="is refused"):
                    client.execute("CREATE INDEX x ON item (v)", prepare=is_prepared)
            client.execute("CREATE VIEW alone AS SELECT 1")
            client.execute("CREATE TABLE shared (id int PRIMARY KEY)")
        made.assert_equal(["shared"])
        with made.direct(1) as new:
            assert new.execute("SELECT to_regclass('alone'), to_regclass('x')").fetchone() == (None, None)
        assert "DDL is not mirrored" in made.running.log.read_text()
