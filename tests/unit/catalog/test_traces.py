"""What may change the session that runs it is found; what cannot is left alone."""

# ruff: noqa: E501 (a list of statements reads better in pairs)

from __future__ import annotations

import pytest

from proxy.catalog.definitions import Definition, Sort
from proxy.catalog.traces import Traces, find_traces, is_opaque
from proxy.sql.classify import parse

SETS = Definition(Sort.FUNCTION, 1, "sets", True, "BEGIN SET app.tenant = 'a'; END", frozenset(), "plpgsql")


def function(source: str, language: str = "plpgsql", **more: object) -> Definition:
    return Definition(Sort.FUNCTION, 2, "f", True, source, frozenset(), language)._replace(**more)


def made(sort: Sort, name: str, source: str = "", *, uses: int = 0) -> Definition:
    return Definition(sort, 3, name, False, source, frozenset({uses} if uses else ()))


@pytest.mark.parametrize(
    "source",
    [
        "BEGIN SET search_path = a; END", "BEGIN -- a note\nSET LOCAL role = a; END", "SET x.y TO 1",
        "FOR r IN SELECT * FROM t FOR UPDATE LOOP SET x.y TO 1; END LOOP", "RESET ALL", "EXECUTE something",
        "SELECT 1 INTO TEMP t", "CREATE TEMPORARY TABLE t ()", "LISTEN a", "UPDATE t SET a = 1; SET b.c = 2",
        "UPDATE t -- where is it\nSET a = 1",
    ],
)  # fmt: skip
def test_body_that_may_change_the_session_is_opaque(source: str) -> None:
    assert is_opaque(function(source))


@pytest.mark.parametrize(
    "source",
    [
        "BEGIN UPDATE t SET a = 1; END", 'UPDATE ONLY "s"."t" AS x SET a = 1', "UPDATE t * SET a = 1",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2", "UPDATE t x SET a = 1", "SELECT 1",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET a = 1", "SELECT offset, settings FROM t",
    ],
)  # fmt: skip
def test_body_that_only_writes_rows_is_not(source: str) -> None:
    assert not is_opaque(function(source))


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (function("", "plpython3u"), True),
        (function("", "c", is_declared_volatile=True), True),
        (function("", "c", is_declared_volatile=True, extension="pgcrypto"), False),
        (function("", "c"), False),
        (function("", "c", name="set_limit", extension="pg_trgm"), True),
        (function("", "internal", name="set_config"), True),
        (made(Sort.WRITTEN, "t", "set"), False),
    ],
)
def test_what_nobody_can_read_is_opaque_unless_it_is_known(definition: Definition, expected: bool) -> None:
    assert is_opaque(definition) is expected


def traces(*definitions: Definition) -> Traces:
    return find_traces([*definitions, SETS])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT sets()", True), ("SELECT public.sets()", True), ("SELECT 1", False), ("SELECT sets FROM t", False),
        ("INSERT INTO audited VALUES (1)", True), ("COPY audited FROM STDIN", True), ("SELECT * FROM audited", False),
        ("INSERT INTO above VALUES (1)", True), ("DELETE FROM parent", True), ("SELECT * FROM above", False),
        ("SELECT * FROM shown", True), ("SELECT 1 ### 2", True), ("SELECT 'a'::checked", True),
        ("INSERT INTO typed VALUES ('a')", True), ("WITH w AS (DELETE FROM audited RETURNING 1) SELECT 1", True),
        ("DO $$ BEGIN END $$", True), ("SELEC", True), ("CREATE EXTENSION x", True),
        ("CREATE TABLE x ()", False), ("CREATE TABLE x AS SELECT sets()", True), ("ALTER TABLE audited ADD a int", True),
        ("SELECT set_config('a.b', 'c', false)", False), ("SELECT pg_advisory_lock(1)", False),
        ("EXPLAIN DELETE FROM audited", False), ("EXPLAIN ANALYZE DELETE FROM audited", True),
    ],
)  # fmt: skip
def test_statement_that_leads_to_an_opaque_function_leaves_traces(text: str, expected: bool) -> None:
    found = traces(
        made(Sort.WRITTEN, "audited", uses=1),
        made(Sort.WRITTEN, "above", "audited"),
        made(Sort.RELATION, "above", "audited"),
        made(Sort.WRITTEN, "parent", "child audited"),
        made(Sort.RELATION, "shown", uses=1),
        made(Sort.OPERATOR, "###", uses=1),
        made(Sort.TYPE, "checked", uses=1),
        made(Sort.WRITTEN, "typed", "checked"),
    )
    (statement,) = parse(text)
    assert found.are_left_by(statement) is expected


def test_after_an_event_trigger_every_ddl_does() -> None:
    (statement,) = parse("CREATE TABLE x ()")
    assert traces(made(Sort.EVENT, "e", uses=1)).are_left_by(statement)


def test_names_of_custom_settings_are_collected() -> None:
    found = traces(function("SELECT current_setting('App.user', true), t.a FROM t"))
    assert found.settings == {"app.tenant", "app.user"}
