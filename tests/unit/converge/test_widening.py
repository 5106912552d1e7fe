"""Which tables have ranges at all."""

from __future__ import annotations

import pytest

from proxy.catalog.model import Table, UniqueIndex
from proxy.converge.widening import has_ranges

INDEX = UniqueIndex("t_pkey", ('"a"',), None, is_key=True)


def table(*types: str, has_index: bool = True) -> Table:
    names = tuple("ab"[: len(types)])
    return Table(1, "public", "t", 1, (), names, types, unique_indexes=(INDEX,) if has_index else ())


@pytest.mark.parametrize(
    ("types", "is_sorted_alike"),
    [
        (("bigint",), True), (("uuid", "timestamp with time zone"), True), (("text",), False),
        (("integer", "character varying(10)"), False), (("colour",), False), (("numeric(10,2)",), False),
    ],
)  # fmt: skip
def test_only_keys_that_every_cluster_sorts_alike_have_ranges(
    types: tuple[str, ...], is_sorted_alike: bool
) -> None:
    assert has_ranges(table(*types)) == is_sorted_alike


def test_a_key_without_an_index_has_none() -> None:
    assert not has_ranges(table("bigint", has_index=False))
