"""The spliced form of a statement, on real servers, against the statement itself.

Every statement of the corpus runs twice in transactions that are rolled back: as written,
and spliced. Rows, results, counts, descriptions and parameter types must be equal, and the
ledger must name exactly the rows that differ afterwards. So the corpus holds statements that
really change every row they touch.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import asyncpg
import psycopg
import pytest
from psycopg.pq import ExecStatus

from proxy.capture.decide import decide
from proxy.capture.splice import splice
from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config.model import Tables
from proxy.ledger.schema import init
from proxy.sql.classify import parse

SCHEMA = r"""
CREATE TABLE plain (id serial PRIMARY KEY, a int, b text UNIQUE);
INSERT INTO plain (a, b) SELECT n, 'b' || n FROM generate_series(1, 9) n;
CREATE TABLE pairs (x int, y uuid, v text, PRIMARY KEY (y, x));
INSERT INTO pairs SELECT n, ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'v' FROM generate_series(1, 5) n;
CREATE TABLE "Mixed Täble" ("Käse ""x"" y" text PRIMARY KEY, "Wert" int);
INSERT INTO "Mixed Täble" VALUES ('it''s', 1), ('a"b', 2), ('{x,y}', 3), ('back\slash', 4), ('', 5), ('NULL', 6);
CREATE TABLE days (d date, t timestamptz, v int, PRIMARY KEY (d, t));
INSERT INTO days SELECT date '2020-02-01' + n, timestamptz '2020-02-01 10:00+00' + n * interval '1 day', n
  FROM generate_series(1, 3) n;
CREATE TABLE parted (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
INSERT INTO parted SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, n FROM generate_series(1, 6) n;
CREATE SCHEMA other;
CREATE TABLE other.plain (id int PRIMARY KEY, a int);
INSERT INTO other.plain VALUES (1, 100), (2, 200);
CREATE TABLE lookup (id int PRIMARY KEY, name text);
INSERT INTO lookup VALUES (1, 'one'), (2, 'two'), (30, 'thirty');
"""


class Case(NamedTuple):
    """A statement with its parameters, as texts."""

    text: str
    parameters: tuple[str, ...] = ()
    version_min: int = 0


CORPUS = [
    Case("UPDATE plain SET a = a + 1 WHERE id = 3"),
    Case("UPDATE plain SET a = a + 1"),
    Case("UPDATE plain SET a = 1 WHERE id = 300"),
    Case("UPDATE plain SET a = $1 WHERE id = $2", ("77", "2")),
    Case("update only public.plain as p set b = 'x' || p.id where p.a > 5 -- trailing comment"),
    Case("  /* before /* nested */ */ UPDATE plain SET a = 0 /* after */ ; "),
    Case("UPDATE plain SET a = -1 WHERE b = 'b2' -- ; RETURNING *\n  ;;  -- the end"),
    Case("UPDATE plain SET a = lookup.id * 1000 FROM lookup WHERE lookup.id = plain.id"),
    Case("UPDATE plain SET a = o.a FROM other.plain o WHERE o.id = plain.id RETURNING *"),
    Case("UPDATE public.plain SET a = other.plain.a FROM other.plain WHERE other.plain.id = public.plain.id"),
    Case("UPDATE plain SET a = other.plain.a FROM other.plain WHERE other.plain.id = public.plain.id"),
    Case("UPDATE plain SET (a, b) = (SELECT id, name FROM lookup WHERE lookup.id = plain.id) WHERE id <= 2"),
    Case("UPDATE plain SET a = 5 - a * 10 WHERE id < 4 RETURNING id, id, a AS id, a + 1, 'text', NULL, now() IS NULL"),
    Case("UPDATE plain SET a = a + $1 RETURNING $2, a, *", ("1", "x")),
    Case("UPDATE plain SET id = id WHERE id = -1"),
    Case("WITH small AS (SELECT id FROM plain WHERE id < 3) UPDATE plain SET a = 0 FROM small WHERE small.id = plain.id"),
    Case("WITH k1 AS (SELECT 1 AS c1), crossfade AS (SELECT 2) DELETE FROM plain USING k1 WHERE id = c1 RETURNING c1, *"),
    Case("INSERT INTO plain (a, b) VALUES (1, 'new'), (2, $1)", ("newer",)),
    Case("INSERT INTO plain DEFAULT VALUES"),
    Case("INSERT INTO plain DEFAULT VALUES RETURNING id"),
    Case("INSERT INTO plain AS p (a) VALUES (5) RETURNING p.id AS key, p.*"),
    Case("INSERT INTO plain (id, a) SELECT id + 100, a FROM plain WHERE a % 2 = 0"),
    Case("INSERT INTO plain (id, a) TABLE other.plain ON CONFLICT DO NOTHING"),
    Case("INSERT INTO plain (id, a) VALUES (1, -5), (50, -6) ON CONFLICT (id) DO UPDATE SET a = excluded.a"),
    Case(
        "INSERT INTO plain AS p (id, a, b) VALUES (1, -5, 'b1') ON CONFLICT (id) DO UPDATE"
        " SET id = excluded.id, a = excluded.a WHERE p.a <> -5 RETURNING p.a, p.id"
    ),
    Case("INSERT INTO plain (id, a) VALUES (1, 1) ON CONFLICT DO NOTHING RETURNING *"),
    Case("DELETE FROM plain WHERE id IN (1, 2) RETURNING a"),
    Case("DELETE FROM plain p USING lookup l WHERE l.id = p.id"),
    Case("DELETE FROM plain"),
    Case("UPDATE pairs SET v = $1 WHERE x = $2 RETURNING v", ("it's", "2")),
    Case("INSERT INTO pairs VALUES (9, gen_random_uuid(), 'random') RETURNING x"),
    Case("""UPDATE "Mixed Täble" SET "Wert" = 0"""),
    Case("""UPDATE "Mixed Täble" AS "Ä ""q" SET "Wert" = 0 WHERE "Ä ""q"."Käse ""x"" y" = 'it''s' RETURNING *"""),
    Case("""DELETE FROM "Mixed Täble" WHERE "Käse ""x"" y" = '{x,y}' OR "Wert" > 3"""),
    Case(r"""INSERT INTO "Mixed Täble" VALUES (E'new\n''line', 8), (U&'d\0061t\+000061', 9), ($$dollar 'q'$$, 10)"""),
    Case("UPDATE days SET v = v + 10"),
    Case("DELETE FROM days WHERE v = 2 RETURNING d, t"),
    Case("UPDATE parted SET v = v * 10"),
    Case("INSERT INTO parted VALUES (10, 'eu', 1), (11, 'us', 2) RETURNING *"),
    Case("DELETE FROM parted_eu WHERE id > 2"),
    Case("UPDATE public.parted_us AS p SET v = 0 WHERE p.id > 1 RETURNING p.region"),
    Case("INSERT INTO parted_eu VALUES (12, 'eu', 1)"),
    Case("UPDATE plain SET id = id + 100 WHERE id < 4", version_min=180000),
    Case("UPDATE plain SET id = id + 100, a = 0 WHERE id < 4 RETURNING id, a", version_min=180000),
    Case("UPDATE plain SET id = -id", version_min=180000),
    Case("UPDATE plain AS old SET id = old.id + 100 WHERE old.id = 2", version_min=180000),
    Case("UPDATE plain SET id = id + 50 RETURNING WITH (OLD AS before, NEW AS n) before.id, n.id", version_min=180000),
    Case(
        "INSERT INTO plain (id, b) VALUES (70, 'b3'), (71, 'fresh') ON CONFLICT (b) DO UPDATE SET id = excluded.id",
        version_min=180000,
    ),
    Case("UPDATE parted SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id < 3", version_min=180000),
    Case(
        "MERGE INTO plain p USING lookup l ON p.id = l.id WHEN MATCHED AND l.id = 1 THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET b = l.name WHEN NOT MATCHED THEN INSERT (id, b) VALUES (l.id, l.name)",
        version_min=170000,
    ),
    Case(
        "MERGE INTO plain p USING lookup l ON p.id = l.id WHEN MATCHED THEN UPDATE SET id = p.id + 100"
        " WHEN NOT MATCHED THEN INSERT (id, b) VALUES (l.id, l.name) RETURNING merge_action(), p.id, l.*",
        version_min=180000,
    ),
]  # fmt: skip


SERVERS = {"pg15": 150000, "pg16": 160000, "pg18": 180000}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Catalog]]:
    """URL of a database with the schema above on each version, and its catalog."""
    cluster = request.getfixturevalue(request.param)
    names = [f"splice_{side}_{cluster.version}" for side in ("source", "target")]
    for name in names:
        cluster.psql(f"CREATE DATABASE {name}")
        cluster.psql(SCHEMA, name)
    yield cluster.url(names[0]), asyncio.run(_set_up(*map(cluster.url, names)))
    for name in names:
        cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


async def _set_up(source: str, target: str) -> Catalog:
    tables = Tables(include=("public.*",), exclude=("public.lookup",))
    old, new = await asyncpg.connect(source), await asyncpg.connect(target)
    await init(old, new, tables)
    catalog = await read_catalog(old, tables)
    await asyncio.gather(old.close(), new.close())
    return catalog


class Outcome(NamedTuple):
    """Everything that a client, or the next statement, can see of a statement."""

    columns: list[tuple[bytes | None, int, int, int, int]]
    rows: list[list[bytes | None]]
    count: int | None
    contents: dict[str, set[tuple[str, str]]]
    parameter_types: list[int]


def _contents(connection: psycopg.Connection, catalog: Catalog) -> dict[str, set[tuple[str, str]]]:
    """Return every row of every mirrored table: its key as PostgreSQL casts it, and the whole row."""
    found = {}
    for table in catalog.tables.values():
        key = ", ".join('"' + name.replace('"', '""') + '"::text' for name in table.key)
        rows = connection.execute(
            f"SELECT ARRAY[{key}]::text, whole::text FROM {table.qualified} whole"
        ).fetchall()
        found[table.qualified] = set(rows)
    return found


def _run(
    connection: psycopg.Connection, text: str, case: Case, catalog: Catalog
) -> tuple[Outcome, list[tuple[str, str]]]:
    """Run a statement in a transaction that is rolled back; return what it did, and its entries."""
    connection.execute("SELECT setval('plain_id_seq', 1000)")
    parameters = [value.encode() for value in case.parameters]
    prepared = connection.pgconn.prepare(b"p", text.encode())
    assert prepared.status == ExecStatus.COMMAND_OK, prepared.error_message
    described = connection.pgconn.describe_prepared(b"p")
    types = [described.param_type(number) for number in range(described.nparams)]
    result = connection.pgconn.exec_params(text.encode(), parameters)
    assert result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK), result.error_message.decode()
    columns = [
        (result.fname(n), result.ftype(n), result.fmod(n), result.ftable(n), result.ftablecol(n))
        for n in range(result.nfields)
    ]
    rows = [[result.get_value(row, n) for n in range(result.nfields)] for row in range(result.ntuples)]
    outcome = Outcome(columns, rows, result.command_tuples, _contents(connection, catalog), types)
    entries = _entries(connection, catalog)
    connection.execute("DEALLOCATE ALL")
    connection.rollback()
    return outcome, entries


@pytest.mark.parametrize(
    ("server", "case"),
    [(server, case) for server, version in SERVERS.items() for case in CORPUS if case.version_min <= version],
    indirect=["server"],
    ids=lambda value: value if isinstance(value, str) else value.text[:60],
)
def test_spliced_statement_does_the_same_and_names_every_changed_row(
    server: tuple[str, Catalog], case: Case
) -> None:
    url, catalog = server
    (statement,) = parse(case.text)
    plan = decide(statement, catalog, ("public",))
    assert plan is not None and plan.inline is not None and not plan.watches, plan
    with psycopg.connect(url, autocommit=False) as connection:
        before = _contents(connection, catalog)
        original, _ = _run(connection, case.text, case, catalog)
        own = case.text[statement.start : statement.end]
        spliced = splice(own, statement, plan.inline, len(original.columns) or None, catalog.server_version)
        captured, entries = _run(connection, spliced.text, case, catalog)

    names = [name for name, *_ in original.columns]
    assert [(*column[1:],) for column in captured.columns] == [(*column[1:],) for column in original.columns]
    assert len(captured.columns) == len(names)
    if "random" not in case.text:
        assert captured.contents == original.contents
        assert captured.rows == original.rows
    assert captured.count == original.count
    assert captured.parameter_types == original.parameter_types
    assert spliced.text[spliced.prefix_chars :].startswith(own)

    expected = {(name, key) for name in before for key, _ in before[name] ^ captured.contents[name]}
    assert set(entries) == expected
    assert len(entries) == len(expected)


def test_keys_do_not_follow_the_date_style_of_the_session(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    text = "UPDATE days SET v = 0 WHERE v = 1"
    (statement,) = parse(text)
    with psycopg.connect(url) as connection:
        table = catalog.tables["public", "days"]
        connection.execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'")
        connection.execute(splice(text, statement, table, None, catalog.server_version).text)
        connection.execute("SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'")
        assert _entries(connection, catalog) == [(table.qualified, '{2020-02-02,"2020-02-02 10:00:00+00"}')]
        connection.rollback()


def test_row_under_a_cursor_is_captured(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    text = "UPDATE plain SET a = 0 WHERE CURRENT OF c"
    (statement,) = parse(text)
    with psycopg.connect(url) as connection:
        table = catalog.tables["public", "plain"]
        connection.execute("DECLARE c CURSOR FOR SELECT * FROM plain WHERE id = 4 FOR UPDATE")
        connection.execute("MOVE c")
        connection.execute(splice(text, statement, table, None, catalog.server_version).text)
        assert _entries(connection, catalog) == [(table.qualified, "{4}")]
        connection.rollback()


def test_position_of_an_error_is_found_back_in_the_original(server: tuple[str, Catalog]) -> None:
    url, catalog = server
    text = "UPDATE plain SET b = 'Käse', nothing = 1"
    (statement,) = parse(text)
    spliced = splice(text, statement, catalog.tables["public", "plain"], None, catalog.server_version)
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.UndefinedColumn) as caught:
        connection.execute(spliced.text)
    assert int(caught.value.diag.statement_position or 0) - spliced.prefix_chars == text.index("nothing") + 1


def test_column_added_since_the_statement_was_described_is_not_taken_for_the_key(
    server: tuple[str, Catalog],
) -> None:
    url, catalog = server
    text = "UPDATE plain SET a = 0 WHERE id = 4 RETURNING *"
    (statement,) = parse(text)
    spliced = splice(text, statement, catalog.tables["public", "plain"], 3, catalog.server_version)
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE plain ADD COLUMN c text DEFAULT 'not a key'")
        assert connection.execute(spliced.text).fetchall() == [(4, 0, "b4")]
        assert _entries(connection, catalog) == [(catalog.tables["public", "plain"].qualified, "{4}")]
        connection.rollback()


def _entries(connection: psycopg.Connection, catalog: Catalog) -> list[tuple[str, str]]:
    """Return the key entries as table and key, cast to the key's types and back."""
    found = []
    for table in catalog.tables.values():
        key = ", ".join(f"key[{n}]::{type_}::text" for n, type_ in enumerate(table.key_types, 1))
        query = f"SELECT ARRAY[{key}]::text FROM crossfade.ledger WHERE tbl = {table.id} AND kind = 'k'"
        found += [(table.qualified, row[0]) for row in connection.execute(query)]
    return found
