"""Targets of data-changing statements, and which columns may change."""

from __future__ import annotations

import pytest

from proxy.sql.classify import parse
from proxy.sql.statement import Operation, Target


def target(text: str) -> Target:
    return parse(text)[0].targets[0]


@pytest.mark.parametrize(
    ("text", "assigned"),
    [
        ("UPDATE t SET a = 1, (b, c) = (2, 3), d[1] = 4, e.f = 5", set("abcde")),
        ("UPDATE t SET id = id, a = 1", {"a"}),
        ("UPDATE t SET id = id + 1", {"id"}),
        ("UPDATE t SET id = $1, a = $2 WHERE id = $1", {"a"}),
        ("UPDATE t SET id = $1 WHERE id = $2", {"id"}),
        ("UPDATE t SET id = $1 WHERE id = $1 OR a = 1", {"id"}),
        ("UPDATE t SET id = $1 WHERE id <> $1", {"id"}),
        ("UPDATE t SET id = 5 WHERE id = 5", {"id"}),  # texts that differ in literals share a judgement
        ("UPDATE t SET a = $1 FROM u WHERE u.a = $1", {"a"}),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT DO NOTHING", set()),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = excluded.id, a = 2", {"a"}),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT (email) DO UPDATE SET id = excluded.id", {"id"}),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT ON CONSTRAINT c DO UPDATE SET id = excluded.id", {"id"}),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = 1", {"a"}),
        ("DELETE FROM t", set()),
    ],
)
def test_assigned_columns(text: str, assigned: set[str]) -> None:
    assert target(text).assigned == assigned


def test_name_and_alias() -> None:
    found = target('UPDATE ONLY S."T" AS x SET a = 1 FROM u')
    assert (found.relation, found.alias, found.is_only) == (("s", "T"), "x", True)
    assert found.has_other_relations
    assert target("INSERT INTO db.s.t AS i DEFAULT VALUES").relation == ("s", "t")


@pytest.mark.parametrize(
    ("returning", "has", "count", "literals"),
    [
        ("", False, 0, False), ("RETURNING id, a + 1", True, 2, False), ("RETURNING *", True, None, False),
        ("RETURNING id, t.*", True, None, False), ("RETURNING (f(a)).*", True, None, False),
        ("RETURNING 1, 'x', id", True, 3, True), ("RETURNING count(*) OVER ()", True, 1, False),
    ],
)  # fmt: skip
def test_returning(returning: str, has: bool, count: int | None, literals: bool) -> None:
    found = target(f"DELETE FROM t {returning}")
    assert (found.has_returning, found.returning_count, found.returning_has_literals) == (
        has,
        count,
        literals,
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("UPDATE t SET a = 1", "old"),
        ("UPDATE t SET a = 1 RETURNING WITH (OLD AS o) a", "o"),
        ("UPDATE old SET a = 1", None),
        ("UPDATE t old SET a = 1", None),
        ("UPDATE t SET a = 1 FROM u JOIN (SELECT 1) old ON true", None),
    ],
)
def test_name_of_the_old_row(text: str, name: str | None) -> None:
    assert target(text).old_alias == name


def test_nested_writes_follow_the_top_level_target() -> None:
    (statement,) = parse("WITH x AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM x")
    assert [each.operation for each in statement.targets] == [Operation.INSERT, Operation.DELETE]
    assert statement.has_nested_writes


def test_truncate_and_ddl_have_targets() -> None:
    assert [each.is_cascade for each in parse("TRUNCATE a, b CASCADE")[0].targets] == [True, True]
    assert target("ALTER TABLE a ATTACH PARTITION b DEFAULT").operation is Operation.ALTER
    assert target("ALTER TABLE s.a RENAME TO b").relation == ("s", "a")
    assert target("ALTER TABLE a SET SCHEMA s").operation is Operation.ALTER
    assert parse("ALTER TABLE a RENAME b TO c")[0].targets == ()
    assert parse("ALTER TABLE a SET (fillfactor = 50)")[0].targets == ()
    assert target("DROP TABLE s.a CASCADE").relation == ("s", "a")
