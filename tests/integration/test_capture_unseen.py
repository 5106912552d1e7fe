"""Changes that a statement's text does not show: watched by counts, or captured by triggers.

For each statement the test runs what `decide` asks for and looks at the ledger. A table in
statement form must have a key entry or a table entry for every row that differs; a table in
trigger form must have exactly its keys.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

from proxy.capture.decide import decide
from proxy.capture.splice import splice
from proxy.capture.triggers import install_sql
from proxy.capture.watch import watch_after, watch_before
from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config.model import Tables
from proxy.config.values import CaptureForm
from proxy.ledger.schema import init
from proxy.sql.classify import parse

SCHEMA = """
CREATE TABLE parent (id int PRIMARY KEY, v int);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, v int);
CREATE TABLE grandchild (id int PRIMARY KEY, child int REFERENCES child ON DELETE SET NULL);
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
CREATE TABLE audited (id int PRIMARY KEY, v int);
CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (new.id); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE stamped (id int PRIMARY KEY, v int, at timestamptz);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.at := now(); RETURN new; END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TABLE echoing (id int PRIMARY KEY, v int);
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF pg_trigger_depth() = 1 THEN UPDATE echoing SET v = new.v WHERE id = new.id + 1; END IF; RETURN NULL; END $$;
CREATE TRIGGER echo AFTER UPDATE ON echoing FOR EACH ROW EXECUTE FUNCTION echo();
CREATE TABLE ruled (id int PRIMARY KEY, v int);
CREATE RULE also AS ON UPDATE TO ruled DO ALSO UPDATE parent SET v = new.v WHERE parent.id = new.id;
CREATE VIEW shown AS SELECT * FROM parent;
CREATE TABLE parted (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
CREATE TABLE aside (id int PRIMARY KEY);
CREATE TABLE triggered (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, "Wörd" text);
CREATE TABLE triggered_parts (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE triggered_eu PARTITION OF triggered_parts FOR VALUES IN ('eu');
CREATE TABLE triggered_us PARTITION OF triggered_parts FOR VALUES IN ('us');
CREATE FUNCTION writes(n int) RETURNS int LANGUAGE sql AS 'UPDATE parent SET v = v + 1 WHERE id = n RETURNING id';
CREATE PROCEDURE proceeds() LANGUAGE sql AS 'DELETE FROM grandchild WHERE id = 1';
INSERT INTO parent SELECT n, n FROM generate_series(1, 5) n;
INSERT INTO child SELECT n, (n + 1) / 2, n FROM generate_series(1, 10) n;
INSERT INTO grandchild SELECT n, n FROM generate_series(1, 10) n;
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, NULL);
INSERT INTO audited SELECT n, n FROM generate_series(1, 3) n;
INSERT INTO stamped SELECT n, n FROM generate_series(1, 3) n;
INSERT INTO echoing SELECT n, n FROM generate_series(1, 3) n;
INSERT INTO ruled SELECT n, -n FROM generate_series(1, 3) n;
INSERT INTO parted SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, n FROM generate_series(1, 6) n;
INSERT INTO triggered SELECT n, n, 'w' FROM generate_series(1, 5) n;
INSERT INTO triggered_parts SELECT id, region FROM parted;
"""

# These may change a key, which before PostgreSQL 18 takes a table entry of the table itself.
KEY_CHANGES = {
    "UPDATE parent SET id = 20 WHERE id = 2 AND v = 2": "parent",
    "UPDATE parted SET region = 'us' WHERE id = 2": "parted",
}

# A statement, and the tables that must get a table entry. Others must have exact key entries.
WATCHED = [
    ("DELETE FROM parent WHERE id = 2", {"child", "grandchild"}),
    ("UPDATE parent SET v = 9 WHERE id = 2", set()),
    ("UPDATE parent SET id = 20 WHERE id = 2 AND v = 2", {"child"}),
    ("DELETE FROM child WHERE id = 1", {"grandchild"}),
    ("DELETE FROM tree WHERE id = 4", set()),
    ("DELETE FROM tree WHERE id = 1", {"tree"}),
    ("UPDATE audited SET v = 0", {"audit"}),
    ("UPDATE stamped SET v = 0 WHERE id = 1", set()),
    ("UPDATE stamped SET v = 0 RETURNING at", set()),
    ("UPDATE echoing SET v = 7 WHERE id = 1", {"echoing"}),
    ("UPDATE ruled SET v = 5 WHERE id = 1", {"ruled", "parent"}),
    ("UPDATE shown SET v = 5 WHERE id = 1", {"parent"}),
    ("SELECT writes(3)", {"parent"}),
    ("SELECT writes(300)", set()),
    ("INSERT INTO aside SELECT writes(3)", {"parent"}),
    ("CREATE TABLE fresh AS SELECT writes(3)", {"parent"}),
    ("DO 'BEGIN UPDATE parent SET v = 0; UPDATE parted SET v = 0; END'", {"parent", "parted"}),
    ("CALL proceeds()", {"grandchild"}),
    ("WITH gone AS (DELETE FROM grandchild WHERE id = 1 RETURNING *) UPDATE audited SET v = 8 FROM gone", {"grandchild", "audited", "audit"}),
    ("EXPLAIN ANALYZE UPDATE stamped SET v = 0", {"stamped"}),
    ("UPDATE parted SET region = 'us' WHERE id = 2", set()),
    ("UPDATE parted_eu SET v = 0", set()),
    ("TRUNCATE parent CASCADE", {"parent", "child", "grandchild", "triggered"}),
    ("TRUNCATE parted_eu", {"parted"}),
    ("ALTER TABLE stamped ADD COLUMN extra int DEFAULT 5", {"stamped"}),
    ("ALTER TABLE parted DETACH PARTITION parted_eu", {"parted"}),
    ("DROP TABLE parted_us", {"parted"}),
    ("INSERT INTO triggered VALUES (50, NULL, 'x'), (51, NULL, 'y')", set()),
    ("UPDATE triggered SET id = id + 100 WHERE id < 3", set()),
    ("DELETE FROM triggered WHERE id = 4", set()),
    ("MERGE INTO triggered t USING parent p ON t.id = p.id WHEN MATCHED THEN DELETE", set()),
    ("UPDATE triggered_parts SET region = 'us' WHERE id = 2", set()),
    ("INSERT INTO triggered_eu VALUES (60, 'eu')", set()),
    ("TRUNCATE triggered", {"triggered"}),
]  # fmt: skip


@pytest.fixture(scope="module", params=["pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Catalog]]:
    """URL of a database with the schema above, capture installed, and its catalog."""
    cluster = request.getfixturevalue(request.param)
    names = [f"unseen_{side}_{cluster.version}" for side in ("source", "target")]
    for name in names:
        cluster.psql(f"CREATE DATABASE {name}")
        cluster.psql(SCHEMA, name)
    yield cluster.url(names[0]), asyncio.run(_set_up(*map(cluster.url, names)))
    for name in names:
        cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


async def _set_up(source: str, target: str) -> Catalog:
    tables = Tables(exclude=("public.aside",), capture={"public.triggered*": CaptureForm.TRIGGER})
    old, new = await asyncpg.connect(source), await asyncpg.connect(target)
    await init(old, new, tables)
    catalog = await read_catalog(old, tables)
    for _ in range(2):  # installing twice is as good as once
        await old.execute(install_sql(catalog.tables.values()))
    await asyncio.gather(old.close(), new.close())
    return catalog


def _contents(connection: psycopg.Connection, catalog: Catalog) -> dict[str, set[tuple[str, str]]]:
    """Return every row of every mirrored table: its key, and the whole row."""
    found = {}
    for table in catalog.tables.values():
        key = ", ".join('"' + name + '"::text' for name in table.key)
        query = f"SELECT ARRAY[{key}]::text, whole::text FROM {table.qualified} whole"
        found[table.name] = set(connection.execute(query).fetchall())
    return found


def _run_captured(connection: psycopg.Connection, text: str, catalog: Catalog) -> None:
    """Run a statement the way its plan says."""
    (statement,) = parse(text)
    plan = decide(statement, catalog, ("public",))
    if plan is None:
        connection.execute(text)
        return
    assert plan.reason or not (plan.watches or plan.entries)
    for sql in plan.entries_sql():
        connection.execute(sql)
    if plan.watches:
        connection.execute(watch_before())
    if plan.inline is not None:
        text = splice(text, statement, plan.inline, None, catalog.server_version).text
    connection.execute(text)
    if plan.watches:
        connection.execute(watch_after(plan.watch_except))


@pytest.mark.parametrize(("text", "whole_tables"), WATCHED, ids=[text[:50] for text, _ in WATCHED])
def test_every_changed_row_has_an_entry(
    server: tuple[str, Catalog], text: str, whole_tables: set[str]
) -> None:
    url, catalog = server
    names = {table.id: table.name for table in catalog.tables.values()}
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE parent SET v = v WHERE id = 5; UPDATE audited SET v = v WHERE id = 2")
        before = _contents(connection, catalog)
        _run_captured(connection, text, catalog)
        entries = connection.execute("SELECT tbl, kind, key::text FROM crossfade.ledger").fetchall()
        after = {} if "DROP" in text or "ALTER" in text else _contents(connection, catalog)
        connection.rollback()

    by_key = {(names[table], key) for table, kind, key in entries if kind == "k"}
    by_table = {names[table] for table, kind, _ in entries if kind == "t"}
    if text in KEY_CHANGES and catalog.server_version < 180000:
        whole_tables = whole_tables | {KEY_CHANGES[text]}
    assert by_table == whole_tables
    for name, rows in after.items():
        changed = {(name, key) for key, _ in before[name] ^ rows}
        assert name in by_table or changed == {entry for entry in by_key if entry[0] == name}


def test_watching_a_read_only_transaction_is_harmless(server: tuple[str, Catalog]) -> None:
    url, _ = server
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute(watch_before())
        connection.execute("SELECT count(*) FROM parent")
        assert connection.execute(watch_after((1, 2))).fetchone() == ([],)


def test_watching_needs_no_privilege_and_no_search_path(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    with psycopg.connect(url) as connection:
        connection.execute("CREATE ROLE nobody_particular")
        connection.execute("GRANT SELECT, UPDATE ON parent TO nobody_particular")
        connection.execute("SET ROLE nobody_particular; SET search_path = ''")
        connection.execute(watch_before())
        connection.execute("UPDATE public.parent SET v = 0")
        grown = connection.execute(watch_after()).fetchone()
        connection.rollback()
    assert grown == ([catalog.tables["public", "parent"].id],)


def test_engine_writes_no_entries_through_triggers(server: tuple[str, Catalog]) -> None:
    url, _ = server
    with psycopg.connect(url) as connection:
        for setting in ("crossfade.engine = on", "session_replication_role = replica"):
            connection.execute(f"SET LOCAL {setting}")
            connection.execute("UPDATE triggered SET parent = NULL")
            assert connection.execute("SELECT count(*) FROM crossfade.ledger").fetchone() == (0,)
            connection.rollback()


def test_copy_into_a_watched_table_is_seen(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    (statement,) = parse("COPY audited (id, v) FROM STDIN")
    plan = decide(statement, catalog, ("public",))
    assert plan is not None and plan.watches and plan.inline is None
    with psycopg.connect(url) as connection:
        connection.execute(watch_before())
        with connection.cursor().copy("COPY audited (id, v) FROM STDIN") as stream:
            stream.write_row((70, 1))
        grown = connection.execute(watch_after()).fetchone()
        connection.rollback()
    assert grown == ([catalog.tables["public", "audited"].id],)


def test_changing_the_form_back_removes_the_triggers(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    tables = [table._replace(capture="statement") for table in catalog.tables.values()]
    with psycopg.connect(url) as connection:
        connection.execute(install_sql(tables))
        count = connection.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'crossfade%'"
        ).fetchone()
        connection.rollback()
    assert count == (0,)


@pytest.mark.parametrize("form", ["statement", "trigger"])
def test_a_table_that_was_dropped_since_the_catalog_was_read_gets_no_triggers(
    server: tuple[str, Catalog], form: CaptureForm
) -> None:
    url, catalog = server
    names = [("public", "triggered"), ("public", "triggered_parts")]
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE triggered, triggered_parts")
        connection.execute(install_sql(catalog.tables[name]._replace(capture=form) for name in names))
        connection.rollback()
