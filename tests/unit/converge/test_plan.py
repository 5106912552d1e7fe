"""The texts that stage rows, and which tables may travel at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.bounds import Range
from proxy.catalog.model import Catalog, ForeignKey, Table, UniqueIndex
from proxy.converge.plan import Plan, in_order, keys_of_list, mismatch, plans
from tests.unit.converge.sample import ID, column, table


def referencing(name: str, *others: str) -> Table:
    keys = tuple(ForeignKey("fk", ("public", name), ("x",), ("public", other), ("id",)) for other in others)
    return table(name, references=keys)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefx"), max_size=3)))
def test_every_table_comes_once_and_after_its_parents_unless_they_form_a_cycle(
    graph: dict[str, list[str]],
) -> None:
    ordered = [found.name for found in in_order(referencing(name, *to) for name, to in graph.items())]
    assert sorted(ordered) == sorted(graph)

    def ancestors(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        for parent in graph.get(name, []):
            if parent not in seen:
                seen = ancestors(parent, seen | {parent})
        return seen

    for name, parents in graph.items():
        for parent in parents:
            if parent in graph and name not in ancestors(parent):
                assert ordered.index(parent) < ordered.index(name)


def test_binary_only_where_types_are_equal_and_free_of_oids() -> None:
    assert Plan(table("t"), table("t")).format == "binary"
    wider = table("t", column("id", "bigint"))
    assert Plan(table("t"), wider).format == "text"
    enums = table("t", ID, column("moods", "public.mood[]", is_portable=False))
    assert Plan(enums, enums).format == "text"


def test_what_the_target_computes_does_not_travel() -> None:
    both = table("t", ID, column("twice", "int", is_generated=True))
    assert Plan(both, both).names == ("id",)
    assert Plan(both, table("t", ID, column("twice", "int"))).names == ("id", "twice")


def test_names_and_values_are_quoted() -> None:
    odd = table(
        'o"dd',
        column('i"d'),
        key=('i"d',),
        key_types=("text",),
        unique_indexes=(UniqueIndex("u", ('"i""d"',), None, True),),
    )
    plan = Plan(odd, odd)
    assert plan.has_arbiter
    assert plan.select_range(Range(("it's",), None), is_marked=False) == (
        'SELECT t."i""d" FROM "public"."o""dd" AS t WHERE (t."i""d") > (\'it\'\'s\'::text)'
    )
    assert "O''Neil" in keys_of_list([("O'Neil",)])


def test_a_table_whose_sides_differ_is_refused_with_the_columns() -> None:
    here, there = table("t", ID, column("nick")), table("t", ID, column("name"))
    assert mismatch(table("t"), None) == "public.t does not exist on the target"
    assert mismatch(here, table("t", ID)) == "public.t: the target lacks the columns nick"
    assert mismatch(table("t", ID), there) == "public.t: the source lacks the columns name"
    assert mismatch(table("t", key=(), key_types=()), table("t")) is None
    assert mismatch(here, here) is None
    usable, refused = plans(Catalog({here.names: here}), Catalog({there.names: there}))
    assert (usable, list(refused)) == ({}, [1])


def test_a_child_that_would_be_cascaded_away_is_no_reason_to_delete() -> None:
    def with_child(on_delete: str) -> Plan:
        key = ForeignKey("fk", ("public", "c"), ("t",), ("public", "t"), ("id",), on_delete=on_delete)
        return Plan(table("t", referenced_by=(key,)), table("t", referenced_by=(key,)))

    assert [with_child(action).is_deletable for action in "arcnd"] == [True, True, False, False, False]
