"""The statements of the three forms."""

from __future__ import annotations

import pytest

from proxy.catalog.model import ForeignKey, UniqueIndex
from proxy.converge.plan import Plan
from proxy.converge.writing import Form, Writing, candidates
from tests.unit.converge.sample import ID, column, table


def writing(*columns: object, form: Form = Form.CONFLICT, **changes: object) -> Writing:
    both = table("t", *columns, **changes)  # type: ignore[arg-type]
    return Writing(Plan(both, both), form)


def test_identity_that_accepts_no_update_is_replaced_by_delete_and_insert() -> None:
    made = writing(ID, column("number", "bigint", identity="a"), column("name"))
    assert 'OR ROW(t."number")::record *<> ROW(s."number")::record' in made.delete
    (upsert,) = made.upserts
    assert '"number" = excluded' not in upsert
    assert '"name" = excluded."name"' in upsert


@pytest.mark.parametrize("form", Form)
def test_a_table_that_is_all_identity_key_is_inserted_or_left(form: Form) -> None:
    (insert,) = writing(column("id", "int", identity="a"), form=form).upserts
    assert insert.startswith("INSERT INTO")
    ends = {Form.CONFLICT: 'ON CONFLICT ("id") DO NOTHING', Form.APPEND: "s.crossfade_mark <> 'n'"}
    assert insert.endswith(ends.get(form, '"id" = s."id")'))


def test_rows_of_a_table_without_key_are_only_inserted() -> None:
    (made,) = candidates(Plan(table("t", ID, key=(), key_types=()), table("t", ID)), is_replica=False)
    assert made.form is Form.APPEND and made.delete == ""
    assert [statement.split()[0] for statement in made.statements] == ["INSERT"]


def test_where_rows_cannot_be_updated_those_that_differ_are_deleted_first() -> None:
    made = writing(ID, column("name"), form=Form.REPLACE)
    assert 'OR ROW(t."id", t."name")::record *<> ROW(s."id", s."name")::record' in made.delete
    assert [statement.split()[0] for statement in made.statements] == ["DELETE", "INSERT"]
    assert "NOT EXISTS" in made.upserts[0]


@pytest.mark.parametrize(
    "index",
    [
        UniqueIndex("late", ("id",), None, True, is_immediate=False),
        UniqueIndex("some", ("id",), "id > 0", False),
        UniqueIndex("more", ("id", "name"), None, False),
    ],
    ids=lambda index: index.name,
)
def test_without_an_index_that_decides_conflicts_rows_are_updated_and_inserted(index: UniqueIndex) -> None:
    both = table("t", ID, column("name"), unique_indexes=(index,))
    first = candidates(Plan(both, both), is_replica=True)[0]
    assert first.form is Form.UPDATE
    assert [statement.split()[0] for statement in first.upserts] == ["UPDATE", "INSERT"]
    assert not any("ON CONFLICT" in statement for statement in first.upserts)


def test_rows_are_replaced_only_where_a_delete_has_no_side_effects() -> None:
    cascade = ForeignKey("fk", ("public", "c"), ("x",), ("public", "t"), ("id",), on_delete="c")
    both = table("t", ID, column("name"), referenced_by=(cascade,))
    plan = Plan(both, both)
    assert Form.REPLACE not in [found.form for found in candidates(plan, is_replica=False)]
    assert Form.REPLACE in [found.form for found in candidates(plan, is_replica=True)]
