"""What is said of statements: kinds, places, effects on the session."""

# ruff: noqa: E501 (tables read better in one line each)

from __future__ import annotations

import pytest

from proxy.sql.classify import PARSED_CHARS_MAX, parse
from proxy.sql.statement import Kind, Operation, Pin, Setting, Statement, Unpin


def one(text: str) -> Statement:
    (statement,) = parse(text)
    return statement


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1", Kind.READ), ("VALUES (1)", Kind.READ), ("TABLE t", Kind.READ), ("FETCH c", Kind.READ),
        ("EXPLAIN DELETE FROM t", Kind.READ), ("EXPLAIN (ANALYZE 0) DELETE FROM t", Kind.READ),
        ("EXPLAIN ANALYZE SELECT 1", Kind.READ), ("EXPLAIN ANALYZE DELETE FROM t", Kind.WRITE),
        ("EXPLAIN (ANALYZE off, ANALYZE) DELETE FROM t", Kind.WRITE),
        ("EXPLAIN ANALYZE EXECUTE p", Kind.WRITE), ("EXPLAIN ANALYZE CREATE TABLE u AS TABLE t", Kind.WRITE),
        ("INSERT INTO t DEFAULT VALUES", Kind.WRITE), ("TRUNCATE t", Kind.WRITE),
        ("WITH x AS (UPDATE t SET a = 1 RETURNING a) TABLE x", Kind.WRITE),
        ("BEGIN", Kind.BEGIN), ("START TRANSACTION", Kind.BEGIN), ("END", Kind.COMMIT), ("ABORT", Kind.ROLLBACK),
        ("SAVEPOINT a", Kind.SAVEPOINT), ("ROLLBACK TO a", Kind.SAVEPOINT), ("RELEASE a", Kind.SAVEPOINT),
        ("SET a.b = 1", Kind.SET), ("RESET a.b", Kind.RESET), ("SHOW ALL", Kind.SHOW), ("DISCARD PLANS", Kind.DISCARD),
        ("PREPARE p AS SELECT 1", Kind.PREPARE), ("EXECUTE p", Kind.EXECUTE), ("DEALLOCATE p", Kind.DEALLOCATE),
        ("COPY t FROM STDIN", Kind.COPY_IN), ("COPY t TO STDOUT", Kind.COPY_OUT),
        ("SELECT * INTO u FROM t", Kind.DDL), ("SELECT 1 INTO u UNION SELECT 2", Kind.DDL),
        ("CREATE TABLE u AS TABLE t", Kind.DDL), ("DROP TABLE t", Kind.DDL), ("GRANT SELECT ON t TO u", Kind.DDL),
        ("LISTEN c", Kind.UTILITY), ("LOCK t", Kind.UTILITY), ("VACUUM", Kind.UTILITY), ("DO 'x'", Kind.UTILITY),
        ("CALL p()", Kind.UTILITY), ("PREPARE TRANSACTION 'x'", Kind.UTILITY), ("NOTIFY c", Kind.UTILITY),
        ("SELEC 1", Kind.UNKNOWN), ("SELECT 'a\0b'", Kind.UNKNOWN), ("SELECT '\ud800'", Kind.UNKNOWN),
    ],
)  # fmt: skip
def test_kind(text: str, kind: Kind) -> None:
    assert one(text).kind is kind


@pytest.mark.parametrize("text", ["", " ; \n; ", "-- nothing", "/* nothing /* at */ all */"])
def test_empty_query_has_no_statement(text: str) -> None:
    assert parse(text) == ()


PADDING = ["", " ", "\n\t", "-- c ' ; \n", "/* a ; /* b */ ' */", " /* é€𝄞 */ "]
BODIES = [
    "SELECT 1",
    "UPDATE tä SET a = 'é;--' WHERE b = $$;$$",
    'DELETE FROM "a;--"',
    "SELECT E'\\';' -- x\n + 1",
]


@pytest.mark.parametrize("before", PADDING)
@pytest.mark.parametrize("after", PADDING)
@pytest.mark.parametrize("body", BODIES)
def test_statement_is_found_between_blanks_comments_and_semicolons(
    before: str, body: str, after: str
) -> None:
    statement = one(f"{before}{body}{after};{after}; ")
    text = f"{before}{body}{after};{after}; "
    assert text[statement.start : statement.end] == body
    lone = one(before + body + after.rstrip(";"))
    assert (before + body + after)[lone.start : lone.end] == body


def test_statements_of_one_string_are_told_apart() -> None:
    text = "SELECT 'é' ; /* x */ UPDATE t SET a = 1 -- y\n;;INSERT INTO t DEFAULT VALUES"
    assert [text[each.start : each.end] for each in parse(text)] == [
        "SELECT 'é'", "UPDATE t SET a = 1", "INSERT INTO t DEFAULT VALUES",
    ]  # fmt: skip


def test_names_are_folded_and_scoped() -> None:
    statement = one(
        'WITH v AS (SELECT * FROM v), w AS (SELECT * FROM v) SELECT F(x), s."G"(1) FROM w, S.v, "T" WHERE'
        " EXISTS (SELECT FROM inner_t)"
    )
    assert statement.relations == {(None, "v"), ("s", "v"), (None, "T"), (None, "inner_t")}
    assert statement.functions == {(None, "f"), ("s", "G")}
    assert one("WITH RECURSIVE v AS (SELECT * FROM v) TABLE v").relations == frozenset()
    assert one("WITH t AS (SELECT 1) DELETE FROM t").relations == {(None, "t")}


@pytest.mark.parametrize(
    "link", ["+", "||", "::", " - ", " IS NULL IS ", " UNION SELECT ", " COLLATE ", " JOIN a ON "]
)
@pytest.mark.parametrize("count", [5, 1_000, 30_000, 60_000, 200_000])
def test_no_text_overflows_the_stack(link: str, count: int) -> None:
    kind = one("SELECT " + link.join(["a"] * count)).kind
    assert kind in (Kind.READ, Kind.UNKNOWN)


@pytest.mark.parametrize(
    "opening", ["(", "NOT ", "- ", "f(", "ARRAY[", "CASE WHEN ", "(SELECT ", "EXISTS (SELECT "]
)
def test_nesting_does_not_overflow_the_stack(opening: str) -> None:
    for count in (1_000, 20_000, 100_000):
        assert one("SELECT " + opening * count + "1").kind in (Kind.READ, Kind.UNKNOWN)


def test_long_text_is_judged_without_its_literals() -> None:
    rows = ",".join(f"({n}, 'x{n}')" for n in range(20_000))
    text = f" INSERT INTO t (a, b) VALUES {rows} RETURNING a -- end ;\n; "
    assert len(text) > PARSED_CHARS_MAX
    statement = one(text)
    assert statement.targets[0].relation == (None, "t")
    assert text[statement.start : statement.end].startswith("INSERT")
    assert text[statement.start : statement.end].endswith("RETURNING a")
    assert one("SELECT " + "a, " * PARSED_CHARS_MAX * 2 + "a").kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("text", "pin"),
    [
        ("CREATE TEMP TABLE a (b int)", Pin.TEMP_TABLE), ("CREATE TABLE pg_temp.a (b int)", Pin.TEMP_TABLE),
        ("CREATE TEMP TABLE a (b int) ON COMMIT DROP", None), ("SELECT 1 INTO TEMP a", Pin.TEMP_TABLE),
        ("CREATE TEMP TABLE a AS SELECT 1", Pin.TEMP_TABLE), ("CREATE TEMP VIEW a AS SELECT 1", Pin.TEMP_TABLE),
        ("CREATE TEMP SEQUENCE a", Pin.TEMP_TABLE), ("LISTEN a", Pin.LISTEN), ("LOAD 'x'", Pin.LOAD),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", Pin.TEMP_TABLE),
        ("SELECT pg_advisory_lock(1)", Pin.ADVISORY_LOCK), ("SELECT pg_advisory_xact_lock(1)", None),
        ("SELECT * FROM t WHERE pg_catalog.pg_try_advisory_lock_shared(id)", Pin.ADVISORY_LOCK),
        ("DECLARE c CURSOR FOR SELECT 1", None), ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Pin.HOLD_CURSOR),
        ("PREPARE p AS SELECT 1", None), ("PREPARE p AS SELEC", Pin.PREPARE), ("SELECT set_config($1, 'a', false)", Pin.SETTING),
        ("SELECT set_config($1, $2, true)", None), ("SELECT set_config('a.b', $1, $2)", Pin.SETTING),
        ("SET a.b FROM CURRENT", None), ("SET LOCAL TIME ZONE INTERVAL '1' HOUR", None),
        ("EXPLAIN SELECT pg_advisory_lock(1)", None),
    ],
)  # fmt: skip
def test_what_cannot_move_pins_the_session(text: str, pin: Pin | None) -> None:
    statement = one(text)
    assert statement.pin is pin
    assert pin is None or not statement.is_plain_read_shape


@pytest.mark.parametrize(
    ("text", "unpin"),
    [
        ("DISCARD ALL", Unpin.ALL), ("DISCARD TEMP", Unpin.TEMP_TABLE), ("DISCARD PLANS", None),
        ("UNLISTEN *", Unpin.LISTEN), ("UNLISTEN a", None), ("CLOSE ALL", Unpin.HOLD_CURSOR), ("CLOSE a", Unpin.HOLD_CURSOR),
        ("DEALLOCATE ALL", Unpin.PREPARE), ("SELECT pg_advisory_unlock_all()", Unpin.ADVISORY_LOCK),
    ],
)  # fmt: skip
def test_what_ends_a_pin(text: str, unpin: Unpin | None) -> None:
    assert one(text).unpin is unpin


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("SET search_path TO a, \"B c\", 'd''e'", [Setting("search_path", "'a', 'B c', 'd''e'", False, ("a", "B c", "d'e"))]),
        ("SET LOCAL work_mem = '4MB'", [Setting("work_mem", "'4MB'", True, ("4MB",))]),
        ("SET TIME ZONE -5", [Setting("timezone", "-5", False, ("-5",))]),
        ("SET a.B = on, 1.5", [Setting("a.b", "'on', 1.5", False, ("on", "1.5"))]),
        ("SET a.b TO DEFAULT", [Setting("a.b", None, False)]), ("RESET a.b", [Setting("a.b", None, False)]),
        ("RESET ALL", [Setting("all", None, False)]), ("SET ROLE NONE", [Setting("role", "'none'", False, ("none",))]),
        ("SET NAMES 'latin1'", [Setting("client_encoding", "'latin1'", False, ("latin1",))]),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
         [Setting("default_transaction_read_only", "'on'", False, ("on",))]),
        ("SELECT set_config('search_path', 'a, \"B\"', false)", [Setting("search_path", "'a', 'B'", False, ("a", "B"))]),
        ("SELECT set_config('search_path', '', false)", [Setting("search_path", "''", False, ("",))]),
        ("SELECT pg_catalog.set_config('A.b', 'x, y', false)", [Setting("a.b", "'x, y'", False, ("x, y",))]),
        ("SET TRANSACTION READ ONLY", []), ("SET TRANSACTION SNAPSHOT 'x'", []),
    ],
)  # fmt: skip
def test_settings_can_be_sent_again(text: str, settings: list[Setting]) -> None:
    statement = one(text)
    assert list(statement.settings) == settings
    assert statement.depends_on_literals


@pytest.mark.parametrize(
    "text",
    ["SELECT set_config('a.b', $1, false)", "SELECT set_config('A.b', 'c', false) FROM t"]
    + [f"SELECT set_config('a.b', 'c', false), set_config('search_path', '{value}', false)" for value in
       ('"a', "a b", "a,", ",a")],
)  # fmt: skip
def test_setting_whose_value_is_not_in_the_text_must_be_asked_for(text: str) -> None:
    statement = one(text)
    assert statement.asked_settings in (("a.b",), ("search_path",))
    assert not statement.is_plain_read_shape


def test_transaction_modes() -> None:
    assert one("BEGIN").read_only is None
    assert one("BEGIN READ ONLY").read_only is True
    assert one("START TRANSACTION READ WRITE, ISOLATION LEVEL SERIALIZABLE").read_only is False
    assert one("BEGIN ISOLATION LEVEL REPEATABLE READ").isolation == "repeatable read"
    assert one("SET TRANSACTION READ ONLY").read_only is True
    assert one("COMMIT AND CHAIN").is_chain
    assert one("ROLLBACK TO SAVEPOINT a").savepoint == "a"
    assert one("COMMIT PREPARED 'x'").is_two_phase


def test_prepared_statement_is_judged_by_what_is_inside() -> None:
    text = " PREPARE p (int, varchar(3)) AS /* AS */ UPDATE t SET a = $1; "
    statement = one(text)
    assert statement.prepared is not None
    assert text[statement.prepared.start : statement.prepared.end] == "UPDATE t SET a = $1"
    assert statement.prepared.kind is Kind.WRITE
    assert (statement.prepared_name, statement.targets) == ("p", ())
    assert one("EXECUTE p (1)").prepared_name == "p"
    assert one("DEALLOCATE ALL").prepared_name is None
    assert not one("EXPLAIN EXECUTE p").is_plain_read_shape


def test_copy() -> None:
    statement = one("COPY s.t (a, b) FROM STDIN (FORMAT 'BINARY')")
    assert statement.copy is not None
    assert statement.copy.relation == ("s", "t")
    assert (statement.copy.columns, statement.copy.format) == (("a", "b"), "binary")
    assert statement.targets[0].operation is Operation.COPY
    assert one("COPY (SELECT 1) TO STDOUT").is_plain_read_shape
    assert not one("COPY t TO '/file'").is_plain_read_shape
    assert not one("COPY (DELETE FROM t RETURNING a) TO STDOUT").is_plain_read_shape


def test_locks_are_seen_at_any_depth() -> None:
    assert one("SELECT * FROM (SELECT * FROM t FOR SHARE) q").locks_rows
    assert one("SELECT * FROM t x FOR UPDATE OF x").relations == {(None, "t")}
    assert not one("EXPLAIN SELECT * FROM t FOR UPDATE").locks_rows


def test_what_needs_no_transaction() -> None:
    for text in ("VACUUM", "CREATE DATABASE a", "CREATE INDEX CONCURRENTLY ON t (a)", "DISCARD ALL",
                 "ALTER SYSTEM SET a = 1", "ROLLBACK PREPARED 'x'"):  # fmt: skip
        assert one(text).needs_no_transaction
    for text in ("ANALYZE", "CREATE INDEX ON t (a)", "DROP TABLE t", "PREPARE TRANSACTION 'x'"):
        assert not one(text).needs_no_transaction
