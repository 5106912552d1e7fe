"""A comparison leaves no key out, narrows down to what differs, and blames nothing in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.bounds import EVERYTHING, Range
from proxy.verify.ranges import (
    BUCKETS_MAX,
    Difference,
    Kind,
    Row,
    Sighting,
    Verdict,
    batches,
    buckets_count,
    describe,
    differing,
    judge,
    plan,
)

OLD, NEW = Row((1, 2), "100"), Row((1, 3), "101")
THERE_OLD, THERE_NEW = Row((1, 2)), Row((1, 3))

integers = st.integers(-50, 50)


@given(st.lists(integers, unique=True), st.lists(integers))
def test_every_key_is_in_exactly_one_range(numbers: list[int], keys: list[int]) -> None:
    bounds = sorted(numbers)
    ranges = plan([(str(bound),) for bound in bounds], range(len(bounds)))
    for key in keys:
        holding = [
            (lo, hi)
            for lo, hi in ranges
            if (lo is None or int(lo[0]) < key) and (hi is None or key <= int(hi[0]))
        ]
        assert len(holding) == 1


@given(st.permutations(range(6)))
def test_bounds_that_do_not_ascend_on_the_target_are_not_used(order: list[int]) -> None:
    bounds = [(str(number),) for number in range(6)]
    assert (plan(bounds, order) == [EVERYTHING]) == (order != sorted(order))


def test_a_table_without_bounds_is_one_open_range() -> None:
    assert plan([], []) == [Range(None, None)]


@given(st.integers(0, 10**10))
def test_buckets_are_small_and_a_bounded_power_of_two(rows_count: int) -> None:
    count = buckets_count(rows_count)
    assert count & (count - 1) == 0
    assert count <= BUCKETS_MAX
    assert rows_count / count <= 100 or count == BUCKETS_MAX


mappings = st.dictionaries(st.integers(0, 9), st.integers(0, 3))


@given(mappings, mappings)
def test_differing_names_exactly_what_differs(source: dict[int, int], target: dict[int, int]) -> None:
    found = differing(source, target)
    assert len(found) == len(set(found))
    assert set(found) == {
        name for name in source.keys() | target.keys() if source.get(name) != target.get(name)
    }


@given(st.lists(st.integers()), st.integers(1, 5))
def test_batches_keep_everything_in_order(items: list[int], size: int) -> None:
    cut = list(batches(items, size))
    assert [item for batch in cut for item in batch] == items
    assert all(1 <= len(batch) <= size for batch in cut)


@pytest.mark.parametrize(
    ("sighting", "verdict"),
    [
        (Sighting(OLD, THERE_OLD, OLD, False), Verdict.EQUAL),
        (Sighting(None, None, None, False), Verdict.EQUAL),
        (Sighting(OLD, THERE_NEW, OLD, False), Verdict.DIFFERENT),
        (Sighting(OLD, None, OLD, False), Verdict.DIFFERENT),
        (Sighting(None, THERE_OLD, None, False), Verdict.DIFFERENT),
        # An entry says that the mirror is about to be told.
        (Sighting(OLD, THERE_NEW, OLD, True), Verdict.UNSETTLED),
        (Sighting(OLD, None, OLD, True), Verdict.UNSETTLED),
        (Sighting(None, THERE_OLD, None, True), Verdict.UNSETTLED),
        # The source changed while it was looked at.
        (Sighting(OLD, THERE_NEW, NEW, False), Verdict.UNSETTLED),
        (Sighting(None, THERE_NEW, NEW, False), Verdict.UNSETTLED),
        (Sighting(OLD, THERE_NEW, None, False), Verdict.UNSETTLED),
        # It changed and changed back: the values are equal, the version is not.
        (Sighting(OLD, THERE_NEW, OLD._replace(version="102"), False), Verdict.UNSETTLED),
    ],
)
def test_stable_divergence_rule(sighting: Sighting, verdict: Verdict) -> None:
    assert judge(sighting) is verdict


def test_a_difference_names_kind_and_columns() -> None:
    columns = ("a", "b")
    assert describe(("7",), Sighting(OLD, THERE_NEW, OLD, False), columns) == Difference(
        ("7",), Kind.DIFFERING, ("b",)
    )
    assert describe(("7",), Sighting(OLD, None, OLD, False), columns) == Difference(("7",), Kind.MISSING)
    assert describe(("7",), Sighting(None, OLD, None, False), columns) == Difference(("7",), Kind.EXTRA)
