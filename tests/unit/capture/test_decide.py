"""Which form captures which statement, and that every dearer form has a reason."""

# ruff: noqa: E501 (tables read better in one line each)

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.capture.decide import Plan, changes_names, decide, decide_before, decide_execute, decide_uncertain
from proxy.catalog.model import Table
from proxy.sql.classify import parse
from tests.unit.capture.sample import catalog, foreign_key, table

A, B = table(1, "a"), table(2, "b")


def plan(text: str, *tables: Table, version: int = 160000, temporary: tuple[str, ...] = ()) -> Plan | None:
    (statement,) = parse(text)
    found = decide(statement, catalog(*(tables or (A, B)), version=version), ("public",), temporary)
    if found is not None and (found.watches or found.entries):
        assert found.reason
    return found


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO a VALUES (1)", "UPDATE public.a SET v = 1 RETURNING *", "DELETE FROM a USING b",
        "INSERT INTO a SELECT * FROM b ON CONFLICT DO NOTHING", "UPDATE a_part SET v = 1",
        "INSERT INTO a VALUES (nextval('s'), now(), uuid_generate_v4())", "UPDATE a SET v = reads()",
        "WITH x AS (TABLE b) UPDATE a SET v = 1 FROM x",
    ],
)  # fmt: skip
def test_plain_changes_carry_their_own_entries(text: str) -> None:
    assert plan(text) == Plan(inline=A)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM a FOR UPDATE", "SELECT random(), nextval('s')", "TABLE shown", "BEGIN", "SET a.b = 1",
        "INSERT INTO aside VALUES (1)", "INSERT INTO far VALUES (1)", "CREATE TABLE new (a int)", "LISTEN x",
        "LOCK a", "VACUUM a", "COPY a TO STDOUT", "PREPARE p AS DELETE FROM a", "EXPLAIN DELETE FROM a",
        "DROP TABLE a", "ALTER TABLE a SET (fillfactor = 50)", "TRUNCATE aside", "FETCH c",
        "INSERT INTO pg_temp.a VALUES (1)",
    ],
)  # fmt: skip
def test_what_changes_no_mirrored_row_is_left_alone(text: str) -> None:
    assert plan(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("UPDATE a SET id = 2", "key of a may change"),
        ("INSERT INTO a VALUES (1) ON CONFLICT (v) DO UPDATE SET id = 2", "key of a may change"),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", "MERGE has no RETURNING"),
        ("WITH x AS (DELETE FROM b RETURNING *) INSERT INTO a SELECT * FROM x", "writable CTE"),
        ("WITH x AS (DELETE FROM b RETURNING *) SELECT * FROM x", "writable CTE|SELECT returns no keys"),
        ("EXPLAIN ANALYZE DELETE FROM a", "writable CTE|EXPLAIN"),
        ("UPDATE shown SET v = 1", "view shown"), ("DO 'x'", "DO may run"), ("CALL p()", "CALL may run"),
        ("SELECT writes()", "function writes"), ("SELECT unheard_of()", "function unheard_of"),
        ("SELECT query_to_xml('', true, true, '')", "query_to_xml"), ("TABLE drawing", "view drawing"),
        ("EXECUTE p", "EXECUTE runs"), ("EXPLAIN ANALYZE EXECUTE p", "EXECUTE runs"), ("no sql", "cannot be parsed"),
        ("INSERT INTO unheard_of VALUES (1)", "unheard_of is not known"), ("INSERT INTO aside_noisy VALUES (1)", "triggers"),
        ("DECLARE c CURSOR FOR SELECT writes()", "while the cursor is read"),
    ],
)  # fmt: skip
def test_what_its_text_does_not_show_is_watched(text: str, reason: str) -> None:
    found = plan(text)
    assert found is not None
    assert (found.inline, found.watches, found.watch_except) == (None, True, ())
    assert any(part in found.reason for part in reason.split("|"))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("UPDATE a SET id = 2", 180000),
        ("UPDATE a SET id = 2 RETURNING *", 180000),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", 170000),
    ],
)
def test_newer_servers_return_more(text: str, version: int) -> None:
    assert plan(text, version=version) == Plan(inline=A)


def test_old_row_that_cannot_be_named_is_watched() -> None:
    found = plan("UPDATE a AS old SET id = 2 RETURNING *", version=180000)
    assert found is not None and found.watches
    assert plan("UPDATE a AS old SET id = 2", version=180000) == Plan(inline=A)


def test_function_beside_a_plain_change_is_watched_too() -> None:
    found = plan("UPDATE a SET v = writes()")
    assert found is not None
    assert (found.inline, found.watches, found.watch_except) == (A, True, (1,))


@pytest.mark.parametrize("obstacle", ["has_rules", "has_row_security", "has_children"])
def test_tables_that_forbid_returning_are_watched(obstacle: str) -> None:
    found = plan("UPDATE a SET v = 1", table(1, "a", **{obstacle: True}))
    assert found is not None
    assert found.watches and found.inline is None


def test_table_without_a_key_is_watched() -> None:
    found = plan("UPDATE a SET v = 1", table(1, "a", ()))
    assert found is not None
    assert found.watches and found.inline is None


def test_only_spares_inheritance_children() -> None:
    parent = table(1, "a", has_children=True)
    assert plan("UPDATE ONLY a SET v = 1", parent) == Plan(inline=parent)


def test_cascade_to_a_table_in_statement_form_is_watched() -> None:
    keys = (foreign_key("b", "a", on_delete="c", on_update="c"),)
    (delete,), (update,), (key,) = (
        parse(f"{sql}") for sql in ("DELETE FROM a", "UPDATE a SET v = 1", "UPDATE a SET id = 1")
    )
    judged = catalog(A, B, keys=keys, version=180000)
    assert [decide(each, judged, ("public",)).watches for each in (delete, update, key)] == [
        True,
        False,
        True,
    ]
    seen = catalog(A, B._replace(capture="trigger"), keys=keys, version=180000)
    assert [decide(each, seen, ("public",)).watches for each in (delete, update, key)] == [
        False,
        False,
        False,
    ]


def test_table_in_trigger_form_captures_itself() -> None:
    assert plan("UPDATE a SET v = 1", table(1, "a", capture="trigger"), B) is None
    assert plan("TRUNCATE a", table(1, "a", capture="trigger"), B) is None
    assert plan("DO 'x'", table(1, "a", capture="trigger")) is None


def test_temporary_table_hides_a_mirrored_one() -> None:
    hidden = plan("UPDATE a SET v = 1", temporary=("a",))
    assert hidden is not None
    assert hidden.watches and hidden.inline is None
    assert plan("UPDATE public.a SET v = 1", temporary=("a",)) == Plan(inline=A)


def test_table_wide_changes_write_their_entries_first() -> None:
    found = plan("TRUNCATE a, b")
    assert found is not None
    assert found.entries_sql() == ("INSERT INTO crossfade.ledger (tbl, kind) VALUES (1, 't'), (2, 't')",)
    assert plan("TRUNCATE a_part").entries == (1,)
    assert plan("DROP TABLE a_part").entries == (1,)
    assert plan("ALTER TABLE a ADD COLUMN x int").entries == (1,)
    assert plan("ALTER TABLE a ADD COLUMN x int", table(1, "a", capture="trigger")).entries == (1,)


def test_truncate_cascade_follows_every_foreign_key() -> None:
    keys = (foreign_key("b", "a"), foreign_key("c", "b"))
    (statement,) = parse("TRUNCATE a CASCADE")
    found = decide(statement, catalog(A, B, table(3, "c"), table(4, "d"), keys=keys), ("public",))
    assert found is not None
    assert found.entries == (1, 2, 3)


def test_search_path_decides_which_table_is_meant() -> None:
    (statement,) = parse("UPDATE a SET v = 1")
    assert decide(statement, catalog(A), ("public",)) == Plan(inline=A)
    found = decide(statement, catalog(A), ("elsewhere",))
    assert found is not None and "not known" in found.reason


@pytest.mark.parametrize(
    ("text", "is_certain_after"),
    [
        ("SET search_path = other", False), ("SET ROLE someone", False), ("RESET ALL", False), ("DISCARD ALL", False),
        ("SELECT set_config('search_path', 'x', false)", False), ("SELECT set_config('search_path', $1, false)", False),
        ("CREATE TEMP TABLE a (x int)", False), ("ALTER TABLE a RENAME TO c", False), ("DO 'x'", False), ("CALL p()", False),
        ("EXECUTE p", False), ("ROLLBACK", False), ("COMMIT", False), ("ROLLBACK TO s", False), ("no SQL at all", False),
        ("SET work_mem = '1MB'", True), ("SELECT 1", True), ("UPDATE a SET v = 1", True), ("BEGIN", True), ("SAVEPOINT s", True),
        ("LISTEN x", True), ("SHOW search_path", True), ("COPY a FROM STDIN", True),
    ],
)  # fmt: skip
def test_after_which_statements_names_may_mean_something_else(text: str, is_certain_after: bool) -> None:
    (statement,) = parse(text)
    assert changes_names(statement) is not is_certain_after


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("INSERT INTO a VALUES (1) RETURNING *", ()), ("DELETE FROM elsewhere", ()), ("COPY x FROM STDIN", ()), ("EXECUTE p", ()),
        ("DO 'x'", ()), ("SELECT f()", ()), ("SELECT * FROM shown", ()), ("no SQL at all", ()),
        ("TRUNCATE other.a", (1,)), ("TRUNCATE x CASCADE", (1, 2)), ("ALTER TABLE b ADD COLUMN x int", (2,)),
    ],
)  # fmt: skip
def test_where_names_are_uncertain_changes_are_counted(text: str, entries: tuple[int, ...]) -> None:
    (statement,) = parse(text)
    found = decide_uncertain(statement, catalog(A, B))
    assert found is not None
    assert found.entries == entries
    assert found.watches is not bool(entries)
    assert found.inline is None and found.reason


@pytest.mark.parametrize(
    "text", ["BEGIN", "COMMIT", "SET a.b = 1", "SELECT 1", "CREATE TABLE c (x int)", "TRUNCATE c"]
)
def test_where_names_are_uncertain_some_statements_still_change_no_row(text: str) -> None:
    (statement,) = parse(text)
    assert decide_uncertain(statement, catalog(A, B)) is None


def test_copy_that_nothing_can_follow_writes_its_entry_first() -> None:
    (copy,) = parse("COPY a FROM STDIN")
    assert decide_before(copy, catalog(A, B), ("public",)) == Plan(copied=A)
    keyless = A._replace(key=(), key_types=())
    assert decide_before(copy, catalog(keyless, B), ("public",)).entries == (1,)
    (unknown,) = parse("COPY shown FROM STDIN")
    assert decide_before(unknown, catalog(A, B), ("public",)).entries == (1, 2)
    with_triggers = A._replace(has_user_triggers=True)
    assert decide_before(copy, catalog(with_triggers, B), ("public",)).entries == (1, 2)
    (elsewhere,) = parse("COPY aside FROM STDIN")
    assert decide_before(elsewhere, catalog(A, B), ("public",)) is None


def test_execute_is_judged_by_what_was_prepared() -> None:
    judged = catalog(A, B)
    prepared = {text: parse(f"PREPARE p AS {text}")[0].prepared for text in ("SELECT 1", "DELETE FROM a")}
    assert decide_execute(prepared["SELECT 1"], judged, ("public",)) is None
    for unknown in (prepared["DELETE FROM a"], None):
        found = decide_execute(unknown, judged, ("public",))
        assert found is not None and found.watches


def test_a_role_that_may_not_read_the_key_is_watched() -> None:
    (statement,) = parse("UPDATE a SET v = 1")
    made = replace(catalog(table(1, "a")), blind={("public", "a"): frozenset({"teller"})})
    watched = decide(statement, made, ("public",), role="teller")
    assert watched is not None and watched.watches and watched.inline is None
    assert "teller may not read the key" in watched.reason
    seeing = decide(statement, made, ("public",), role="auditor")
    assert seeing is not None and seeing.is_inline_only
