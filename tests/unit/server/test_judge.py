"""What every kind of statement is to the proxy: may it leave, must it wait, what follows from it."""

from __future__ import annotations

import pytest

from proxy.server.judge import Judge, is_tracked
from proxy.session.search_path import ESCAPES, UNCERTAIN
from proxy.sql.statement import Kind
from tests.unit.capture.sample import catalog, table
from tests.unit.server.sample import PATH, judged, make_judge

READ, FREE, WRITE = (
    "read",
    "free",
    "write",
)  # may leave; stays, but need not wait; waits while writes are held

TEXTS = [
    # text, kind, what it is
    ("SELECT * FROM a", Kind.READ, READ),
    ("SELECT now()", Kind.READ, READ),
    ("TABLE shown", Kind.READ, READ),
    ("VALUES (1), (2)", Kind.READ, READ),
    ("WITH x AS (SELECT 1) SELECT * FROM x", Kind.READ, READ),
    ("EXPLAIN SELECT 1", Kind.READ, READ),
    ("SELECT random()", Kind.READ, WRITE),
    ("SELECT nextval('s')", Kind.READ, WRITE),
    ("SELECT unheard_of(1)", Kind.READ, WRITE),
    ("SELECT * FROM drawing", Kind.READ, WRITE),
    ("SELECT * FROM a FOR UPDATE", Kind.READ, WRITE),
    ("SELECT * FROM a FOR KEY SHARE", Kind.READ, WRITE),
    ("SELECT set_config('a.b', 'x', false)", Kind.READ, WRITE),
    ("SELECT pg_advisory_lock(1)", Kind.READ, WRITE),
    ("WITH x AS (DELETE FROM a RETURNING id) SELECT * FROM x", Kind.WRITE, WRITE),
    ("INSERT INTO a VALUES (1)", Kind.WRITE, WRITE),
    ("UPDATE a SET x = 1", Kind.WRITE, WRITE),
    ("DELETE FROM aside", Kind.WRITE, WRITE),
    ("SELECT 1 INTO fresh", Kind.DDL, WRITE),
    ("EXPLAIN ANALYZE DELETE FROM a", Kind.WRITE, WRITE),
    ("BEGIN", Kind.BEGIN, WRITE),
    ("START TRANSACTION READ WRITE", Kind.BEGIN, WRITE),
    ("BEGIN READ ONLY", Kind.BEGIN, FREE),
    ("COMMIT", Kind.COMMIT, FREE),
    ("END", Kind.COMMIT, FREE),
    ("ROLLBACK", Kind.ROLLBACK, FREE),
    ("ABORT", Kind.ROLLBACK, FREE),
    ("SAVEPOINT s", Kind.SAVEPOINT, WRITE),
    ("SET a.b TO 1", Kind.SET, FREE),
    ("RESET a.b", Kind.RESET, FREE),
    ("SHOW geqo", Kind.SHOW, FREE),
    ("DISCARD ALL", Kind.DISCARD, FREE),
    ("PREPARE p AS SELECT 1", Kind.PREPARE, FREE),
    ("EXECUTE p", Kind.EXECUTE, WRITE),
    ("DEALLOCATE p", Kind.DEALLOCATE, FREE),
    ("COPY a FROM STDIN", Kind.COPY_IN, WRITE),
    ("COPY a TO STDOUT", Kind.COPY_OUT, READ),
    ("COPY (SELECT * FROM a) TO STDOUT", Kind.COPY_OUT, READ),
    ("COPY a TO '/tmp/x'", Kind.COPY_OUT, WRITE),
    ("CREATE TABLE c (x int)", Kind.DDL, WRITE),
    ("TRUNCATE a", Kind.WRITE, WRITE),
    ("LISTEN x", Kind.UTILITY, FREE),
    ("UNLISTEN *", Kind.UTILITY, FREE),
    ("CLOSE ALL", Kind.UTILITY, FREE),
    ("NOTIFY x", Kind.UTILITY, WRITE),
    ("VACUUM a", Kind.UTILITY, WRITE),
    ("DO $$ BEGIN END $$", Kind.UTILITY, WRITE),
    ("LOCK a", Kind.UTILITY, WRITE),
    ("SELEC 1", Kind.UNKNOWN, WRITE),
    ("SELECT 1; SELECT 2", Kind.READ, READ),
    ("SELECT 1; DELETE FROM a", Kind.READ, WRITE),
    ("SET a.b TO 1; SHOW a.b", Kind.SET, FREE),
    ("BEGIN READ ONLY; DELETE FROM a", Kind.BEGIN, WRITE),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "is_what"), TEXTS, ids=[text for text, _, _ in TEXTS])
def test_every_text_is_judged(text: str, kind: Kind, is_what: str) -> None:
    found = judged(text)
    assert found.kind is kind and found.label == kind.value
    assert (found.is_read, found.is_write) == (is_what == READ, is_what == WRITE)
    assert not (found.is_read and found.is_captured)


def test_every_kind_is_in_the_table() -> None:
    assert {kind for _, kind, _ in TEXTS} == set(Kind)


def test_an_empty_query_is_neither_read_nor_write() -> None:
    for text in ("", " ;", "-- nothing"):
        found = judged(text)
        assert not (found.is_read or found.is_write or found.is_captured or found.is_tracked)
        assert found.label == "other"


@pytest.mark.parametrize(
    ("text", "is_captured"),
    [
        ("INSERT INTO a VALUES (1)", True),
        ("SELECT 1; DELETE FROM b", True),
        ("INSERT INTO aside VALUES (1)", False),
        ("SELECT random()", False),
        ("SELECT writes()", True),
        ("TRUNCATE a", True),
    ],
)
def test_what_changes_a_mirrored_table_is_captured_while_there_is_a_mirror(
    text: str, is_captured: bool
) -> None:
    assert judged(text).is_captured == is_captured
    assert not judged(text, make_judge(captures=False)).is_captured


@pytest.mark.parametrize(
    "text",
    [
        "SET a.b TO 1", "RESET ALL", "SELECT set_config('a.b', 'x', false)", "LISTEN x", "UNLISTEN *",
        "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "COMMIT", "ROLLBACK", "DISCARD ALL", "DEALLOCATE p",
        "PREPARE p AS SELECT 1", "CREATE TABLE c (x int)", "SELECT 1; SET a.b TO 1",
    ],
)  # fmt: skip
def test_what_changes_the_session_is_tracked(text: str) -> None:
    assert judged(text).is_tracked


@pytest.mark.parametrize("text", ["SELECT 1", "INSERT INTO a VALUES (1)", "BEGIN", "SHOW geqo", "VACUUM a"])
def test_nothing_else_is_tracked(text: str) -> None:
    assert not judged(text).is_tracked
    assert not any(map(is_tracked, judged(text).statements))


@pytest.mark.parametrize(
    ("text", "begins", "ends_only"),
    [
        ("BEGIN", True, False),
        ("SELECT 1; BEGIN", True, False),
        ("COMMIT", False, True),
        ("ROLLBACK AND CHAIN", False, True),
        ("COMMIT; COMMIT", False, False),
        ("ROLLBACK TO s", False, False),
        ("", False, False),
    ],
)
def test_where_transactions_begin_and_end(text: str, begins: bool, ends_only: bool) -> None:
    assert (judged(text).begins, judged(text).ends_only) == (begins, ends_only and text != "")


# What a judgement depends on.


def test_a_judgement_is_kept_for_all_texts_of_a_shape() -> None:
    judge = make_judge()
    first = judge.judge("SELECT * FROM a WHERE id = 1", PATH)
    assert judge.judge("SELECT * FROM a WHERE id = 1", PATH) is first
    assert judge.judge("SELECT * FROM a WHERE id = 22", PATH).is_read


def test_a_judgement_depends_on_the_search_path() -> None:
    """Where the name is not known, neither is the key of what it deletes: it is watched."""
    judge = make_judge()
    for path, is_certain in ((PATH, True), (("elsewhere",), False), (PATH, True)):
        (plan,) = judge.judge("DELETE FROM a", path).plans
        assert plan is not None and plan.is_inline_only == is_certain and plan.watches != is_certain


def test_where_the_search_path_is_uncertain_nothing_is_a_read_and_any_table_may_change() -> None:
    judge = make_judge()
    path = (*PATH, UNCERTAIN)
    assert not judge.judge("SELECT * FROM a", path).is_read
    (plan,) = judge.judge("DELETE FROM a", path).plans
    assert plan is not None and plan.watches and plan.inline is None


def test_a_backslash_is_not_understood_where_strings_have_escapes() -> None:
    r"""With standard_conforming_strings off, the first string is `\', `, and the text goes on to delete."""
    text = r"SELECT '\', '; DELETE FROM a --'"
    assert judged(text).is_read
    found = make_judge().judge(text, (*PATH, ESCAPES))
    assert found.kind is Kind.UNKNOWN and found.is_write and found.is_captured


def test_another_catalog_is_another_judgement() -> None:
    judge = make_judge()
    assert judge.judge("DELETE FROM aside", PATH).is_captured is False
    judge.use(catalog(table(1, "aside")), captures=True)
    assert judge.judge("DELETE FROM aside", PATH).is_captured is True
    judge.use(judge.catalog, captures=False)
    assert judge.judge("DELETE FROM aside", PATH).is_captured is False


def test_a_read_that_a_server_refused_as_a_write_is_one_from_then_on() -> None:
    """Whatever its literals are; and since something in it is not as the catalog says, it is watched."""
    judge = make_judge()
    assert judge.judge("SELECT * FROM shown WHERE id = 1", PATH).is_read
    judge.learn_write("SELECT * FROM shown WHERE id = 1")
    found = judge.judge("SELECT * FROM shown WHERE id = 2", PATH)
    assert not found.is_read and found.is_write and found.is_captured
    assert judge.judge("SELECT * FROM shown", PATH).is_read
    judge.learn_write(r"SELECT E'\n'")  # one that the normaliser does not understand
    assert not judge.judge(r"SELECT E'\n'", PATH).is_read
    assert judge.judge(r"SELECT E'\t'", PATH).is_read


@pytest.mark.parametrize("is_installed", [True, False])
def test_first_table_of_an_empty_database_goes_to_the_mirror(is_installed: bool) -> None:
    judge = Judge(catalog(), captures=True)
    judge.is_installed = lambda: is_installed
    assert judged("CREATE TABLE first (id int)", judge).is_captured == is_installed
