"""Ranges hold every key once, and are written so that the key's index finds them."""

from __future__ import annotations

from proxy.catalog.bounds import EVERYTHING, Range, condition, cut, ranges_between
from proxy.catalog.model import Column, Table

TABLE = Table(
    7,
    "s",
    "T a",
    1,
    (Column("b", "text", 1), Column("A", "integer", 2)),
    ("A", "b"),
    ("integer", "text"),
)


def test_bounds_cut_everything_into_ranges_that_touch() -> None:
    assert ranges_between([]) == [EVERYTHING]
    assert ranges_between([("1",), ("2",)]) == [
        Range(None, ("1",)),
        Range(("1",), ("2",)),
        Range(("2",), None),
    ]


def test_a_range_excludes_its_lower_bound_and_includes_the_upper() -> None:
    text, parameters = condition(TABLE, Range(("1", "x"), ("2", "y")), alias="t", first=3)
    assert text == (
        't."A", t."b"'.join("()") + " > (($3::text[])[1]::integer, ($3::text[])[2]::text) AND "
        '(t."A", t."b") <= (($4::text[])[1]::integer, ($4::text[])[2]::text)'
    )
    assert parameters == [("1", "x"), ("2", "y")]


def test_an_open_bound_is_no_condition() -> None:
    assert condition(TABLE, EVERYTHING) == ("true", [])
    text, parameters = condition(TABLE, Range(hi=("2", "y")))
    assert ">" not in text
    assert parameters == [("2", "y")]


def test_heirs_are_left_to_themselves() -> None:
    assert 'FROM "s"."T a"' in cut(TABLE, has_lo=False)
    assert 'FROM ONLY "s"."T a"' in cut(TABLE._replace(has_children=True), has_lo=True)
