"""What DDL is about, and its text for the mirror."""

from __future__ import annotations

import pytest

from proxy.sql.classify import parse
from proxy.sql.ddl import KINDS, Traces, for_mirror, traces_of
from proxy.sql.statement import Kind

ABOUT = {
    "CREATE TABLE a (b int)": "table",
    "ALTER TABLE a RENAME b TO c": "table",
    "COMMENT ON COLUMN a.b IS 'x'": "table",
    "SELECT 1 AS b INTO a": "table",
    "CREATE INDEX ON a (b)": "index",
    "ALTER INDEX a RENAME TO b": "index",
    "DROP VIEW a": "view",
    "REFRESH MATERIALIZED VIEW a": "view",
    "DROP FUNCTION a(int)": "function",
    "ALTER TYPE a ADD VALUE 'b'": "type",
    "CREATE SEQUENCE a": "sequence",
    "CREATE SCHEMA a": "schema",
    "GRANT SELECT ON a TO b": "grant",
    "CREATE ROLE a": "global",
    "CREATE EXTENSION hstore": "other",
}


@pytest.mark.parametrize("text", ABOUT)
def test_ddl_is_of_a_kind(text: str) -> None:
    (statement,) = parse(text)
    assert statement.kind is Kind.DDL and statement.ddl == ABOUT[text] and statement.ddl in KINDS
    assert statement.depends_on_literals


@pytest.mark.parametrize("text", ["UPDATE a SET b = 1", "VACUUM a", "TRUNCATE a", "SELECT 1"])
def test_what_is_no_ddl_is_of_none(text: str) -> None:
    assert [statement.ddl for statement in parse(text)] == [""]


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("CREATE TABLE a (b int) -- c", "CREATE TABLE a (b int) -- c"),
        ("CREATE INDEX CONCURRENTLY a ON b (c)", "CREATE INDEX a ON b (c)"),
        ("DROP INDEX CONCURRENTLY IF EXISTS a", "DROP INDEX IF EXISTS a"),
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", "ALTER TABLE a DETACH PARTITION b"),
        ("CREATE TABLE a AS SELECT 1 AS b", "CREATE TABLE a AS SELECT 1 AS b WITH NO DATA"),
        ("SELECT b INTO a FROM c", "CREATE TABLE a AS SELECT b FROM c WITH NO DATA"),
        ("CREATE TABLE a AS EXECUTE b", None),
    ],
)
def test_the_mirror_gets_what_a_transaction_can_hold_and_no_rows(text: str, mirrored: str | None) -> None:
    assert for_mirror(text) == mirrored


@pytest.mark.parametrize(
    ("text", "traces"),
    [
        ("CREATE INDEX CONCURRENTLY a ON s.b (c)", Traces((("s", "b"),), ("s", "a"))),
        ("CREATE INDEX CONCURRENTLY ON b (c)", Traces(((None, "b"),))),
        ("DROP INDEX CONCURRENTLY s.a, b", Traces(gone=(("s", "a"), (None, "b")))),
        ("ALTER TABLE a DETACH PARTITION s.b CONCURRENTLY", Traces(((None, "a"), ("s", "b")))),
        ("REINDEX TABLE CONCURRENTLY a", Traces()),
    ],
)
def test_what_ran_concurrently_leaves_traces(text: str, traces: Traces) -> None:
    assert traces_of(text) == traces
