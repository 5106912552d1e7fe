"""PostgreSQL as the judge of the classification.

What it refuses in a READ ONLY transaction (25006), and what it refuses on a replica, must
never be taken for a read. The other way round, ordinary reads must be, or nothing would
ever leave the authority.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

from proxy.catalog.model import Catalog, Relation
from proxy.catalog.reader import read_catalog
from proxy.config.model import Tables
from proxy.sql.classify import parse

SCHEMA = """
CREATE TABLE t (id serial PRIMARY KEY, a int, b text);
INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y');
CREATE VIEW quiet AS SELECT id, a FROM t;
CREATE VIEW drawing AS SELECT nextval('t_id_seq') AS n, id FROM t;
CREATE VIEW over_drawing AS SELECT * FROM drawing;
CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9) RETURNING id';
CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
CREATE FUNCTION overloaded(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION overloaded(text) RETURNS int LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9) RETURNING id';
CREATE PROCEDURE proceeds() LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9)';
CREATE SCHEMA s; CREATE FUNCTION s.writes() RETURNS int LANGUAGE sql AS 'DELETE FROM public.t RETURNING id';
"""

CHANGES = [
    "INSERT INTO t (a) VALUES (1)",
    "UPDATE t SET a = 1",
    "DELETE FROM t",
    "MERGE INTO t USING (VALUES (1)) s(n) ON t.id = s.n WHEN MATCHED THEN DELETE",
    "TRUNCATE t",
    "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
    "WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b), c AS (UPDATE t SET a = 1 RETURNING id) SELECT * FROM a, c",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR NO KEY UPDATE",
    "SELECT * FROM t FOR SHARE",
    "SELECT * FROM t FOR KEY SHARE OF t SKIP LOCKED",
    "SELECT * FROM (SELECT * FROM t FOR UPDATE) q",
    "SELECT (SELECT id FROM t LIMIT 1 FOR UPDATE)",
    "SELECT nextval('t_id_seq')",
    "SELECT setval('t_id_seq', 5)",
    "SELECT * FROM t WHERE id = nextval('t_id_seq')",
    "SELECT * FROM t ORDER BY (SELECT nextval('t_id_seq'))",
    "SELECT max(pg_catalog.nextval('public.t_id_seq'::regclass)) FROM t",
    "VALUES (nextval('t_id_seq'))",
    "SELECT * FROM drawing",
    "SELECT * FROM over_drawing o JOIN t ON true",
    "TABLE over_drawing",
    "WITH drawing AS (SELECT * FROM drawing) SELECT * FROM drawing",
    "SELECT writes()",
    "SELECT * FROM writes()",
    "SELECT s.writes()",
    "SELECT overloaded('x'::text)",
    "SELECT CASE WHEN true THEN writes() END",
    "CALL proceeds()",
    "DO 'BEGIN INSERT INTO t (a) VALUES (1); END'",
    "COPY t FROM '/nowhere'",
    "COPY (DELETE FROM t RETURNING *) TO STDOUT",
    "EXPLAIN ANALYZE UPDATE t SET a = 1",
    "EXPLAIN (ANALYZE true) DELETE FROM t",
    "EXPLAIN (ANALYZE 1) SELECT writes()",
    "SELECT * INTO fresh FROM t",
    "SELECT 1 AS a INTO TEMP fresh UNION SELECT 2",
    "CREATE TABLE fresh AS SELECT 1",
    "CREATE TABLE fresh (a int)",
    "CREATE INDEX ON t (a)",
    "ALTER TABLE t ADD COLUMN c int",
    "DROP TABLE t",
    "GRANT SELECT ON t TO PUBLIC",
    "COMMENT ON TABLE t IS 'x'",
    "REFRESH MATERIALIZED VIEW m",
    "NOTIFY channel",
    "LISTEN channel",
    "SELECT pg_notify('channel', 'x')",
    "LOCK t IN EXCLUSIVE MODE",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "ANALYZE t",
    "VACUUM t",
    "REINDEX TABLE t",
    "CLUSTER t",
    "SELECT pg_current_xact_id()",
    "SELECT 1; DELETE FROM t",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
]

READS = [
    "SELECT 1",
    "SELECT * FROM t WHERE id = 1 AND b = 'x' ORDER BY a LIMIT 5",
    "SELECT count(*), max(a), string_agg(b, ',' ORDER BY b) FROM t GROUP BY a HAVING count(*) > 0",
    "SELECT now(), current_date, lower(b), coalesce(a, 0), extract(year FROM now()) FROM t",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n, quiet",
    "SELECT row_number() OVER w FROM t WINDOW w AS (PARTITION BY a ORDER BY id)",
    "SELECT reads(), overloaded.n FROM (SELECT 1 AS n) overloaded",
    "SELECT * FROM t, LATERAL generate_series(1, a) g, unnest(ARRAY[1, 2]) u",
    "SELECT jsonb_build_object('a', a)->>'a', to_char(now(), 'YYYY'), b ILIKE '%x%' FROM t",
    "TABLE quiet",
    "VALUES (1), (2)",
    "EXPLAIN UPDATE t SET a = 1",
    "EXPLAIN (ANALYZE, COSTS off) SELECT * FROM t",
    "EXPLAIN (ANALYZE off) DELETE FROM t",
    "COPY (SELECT * FROM t) TO STDOUT",
    "COPY t TO STDOUT",
    "SELECT id FROM t EXCEPT SELECT a FROM quiet",
]


@pytest.fixture(scope="module", params=["pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, Catalog]]:
    cluster = request.getfixturevalue(request.param)
    name = f"classification_{cluster.version}"
    cluster.psql(f"CREATE DATABASE {name}")
    cluster.psql(SCHEMA, name)
    yield cluster.url(name), asyncio.run(_catalog(cluster.url(name)))
    cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


async def _catalog(url: str) -> Catalog:
    connection = await asyncpg.connect(url)
    try:
        return await read_catalog(connection, Tables())
    finally:
        await connection.close()


def _is_read(text: str, catalog: Catalog) -> bool:
    """Return what the proxy makes of a text: the question it asks of every statement."""
    path = ("public",)
    statements = parse(text)
    views = [catalog.find(name, path) for each in statements for name in each.relations]
    return (
        all(each.is_plain_read_shape for each in statements)
        and not any(catalog.is_volatile(name, path) for each in statements for name in each.functions)
        and not any(isinstance(view, Relation) and view.is_volatile for view in views)
    )


@pytest.mark.parametrize("text", CHANGES)
def test_change_is_never_taken_for_a_read(server: tuple[str, Catalog], text: str) -> None:
    _, catalog = server
    assert not _is_read(text, catalog)


@pytest.mark.parametrize("text", CHANGES + READS)
def test_what_a_read_only_transaction_refuses_is_no_read(server: tuple[str, Catalog], text: str) -> None:
    url, catalog = server
    sqlstate = None
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        try:
            if text.startswith("COPY") and "STDOUT" in text:
                with connection.cursor().copy(text) as stream:
                    list(stream)
            else:
                connection.execute(text)
        except psycopg.Error as error:
            sqlstate = error.sqlstate
        connection.rollback()
    if sqlstate == "25006":
        assert not _is_read(text, catalog)
    if text in READS:
        assert sqlstate is None


@pytest.mark.parametrize("text", READS)
def test_ordinary_read_may_leave_the_authority(server: tuple[str, Catalog], text: str) -> None:
    _, catalog = server
    assert _is_read(text, catalog)
