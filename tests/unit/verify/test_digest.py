"""Both sides are asked the same question, in texts that mean the same."""

from __future__ import annotations

import pytest

from proxy.catalog.bounds import EVERYTHING, Range
from proxy.catalog.model import Column, Table
from proxy.verify import digest
from proxy.verify.digest import Incomparable, shapes


def table(
    *columns: tuple[str, str], key: tuple[str, ...] = ("id",), generated: tuple[str, ...] = ()
) -> Table:
    listed = tuple(
        Column(name, kind, number, is_generated=name in generated)
        for number, (name, kind) in enumerate(columns, 1)
    )
    types = dict(columns)
    return Table(7, "public", "t", 1, listed, key, tuple(types[name] for name in key))


def values(source_type: str, target_type: str) -> tuple[str, str]:
    """Return how a column of these types is read on both sides."""
    here, there = shapes(
        table(("id", "integer"), ("a", source_type)), table(("id", "integer"), ("a", target_type))
    )
    return here.values[1], there.values[1]


def test_columns_are_taken_by_name_in_the_order_of_the_source() -> None:
    here, there = shapes(
        table(("id", "integer"), ("a", "text"), ("b", "text")),
        table(("b", "text"), ("more", "text"), ("id", "integer"), ("a", "text")),
    )
    assert here.columns == there.columns == ("id", "a", "b")
    assert here.values == there.values == ('"id"', '"a"', '"b"')


@pytest.mark.parametrize(
    ("source_type", "target_type", "expected"),
    [
        ("integer", "bigint", ('"a"', '"a"')),
        ("text", "text", ('"a"', '"a"')),
        ("numeric", "numeric(10,2)", ('"a"::text::numeric(10,2)', '"a"')),
        ("json", "jsonb", ('"a"::text::jsonb', '"a"')),
        ("real", "double precision", ('"a"::text::double precision', '"a"')),
        ("timestamp without time zone", "timestamp with time zone",
         ('"a"::text::timestamp with time zone', '"a"')),
        ("character(5)", "text", ('rtrim("a"::text)', 'rtrim("a"::text)')),
        # A length would be cut to by a cast, and hide what differs behind it.
        ("text", "character varying(3)", ('"a"::text', '"a"::text')),
        ("public.mood", "text", ('"a"::text', '"a"::text')),
        ("text", "public.mood", ('"a"::text', '"a"::text')),
    ],
)  # fmt: skip
def test_where_types_differ_both_sides_print_what_the_target_would_hold(
    source_type: str, target_type: str, expected: tuple[str, str]
) -> None:
    assert values(source_type, target_type) == expected


def test_columns_that_a_side_computes_are_left_out() -> None:
    plain, computing = (table(("id", "integer"), ("a", "text"), generated=names) for names in ((), ("a",)))
    for source, target in ((plain, computing), (computing, plain)):
        here, there = shapes(source, target)
        assert here.columns == there.columns == ("id",)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (table(("id", "integer"), ("a", "text")), table(("id", "integer")), "no column a"),
        (table(("id", "integer"), generated=("id",)), table(("id", "integer")), "key is generated"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    source: Table, target: Table, reason: str
) -> None:
    with pytest.raises(Incomparable, match=reason):
        shapes(source, target)


def test_the_key_is_a_parameter_of_the_keys_type() -> None:
    here, _ = shapes(table(("id", "integer")), table(("id", "integer")))
    text, parameters = digest.digest(here, Range(("1",), ("2",)))
    assert '("id") > (($1::text[])[1]::integer) AND ("id") <= (($2::text[])[1]::integer)' in text
    assert parameters == [("1",), ("2",)]


def test_an_open_range_has_no_condition() -> None:
    here, _ = shapes(table(("id", "integer")), table(("id", "integer")))
    text, parameters = digest.digest(here, EVERYTHING)
    assert text.endswith("WHERE true")
    assert parameters == []


def test_databases_of_two_encodings_are_compared_in_utf8() -> None:
    here, there = shapes(table(("id", "text")), table(("id", "text")), is_encoded=True)
    for shape in (here, there):
        assert "convert_to" in digest.digest(shape, EVERYTHING)[0]
