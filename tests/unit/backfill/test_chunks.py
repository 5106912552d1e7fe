"""Chunks are taken best first, joined where they touch, in runs that take half a second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backfill.chunks import (
    RUN_CHUNKS_MAX,
    Chunk,
    Order,
    Progress,
    joined,
    next_run,
    next_size,
    parse_order,
)
from proxy.catalog.bounds import Range


def chunk(number: int) -> Chunk:
    return Chunk(number, Range((str(number),), (str(number + 1),)))


@given(st.lists(st.integers(0, 30), unique=True, min_size=1))
def test_a_run_holds_the_best_chunk_and_is_one_range(numbers: list[int]) -> None:
    run = next_run([chunk(number) for number in numbers])
    taken = [each.number for each in run]
    assert numbers[0] in taken
    assert set(taken) <= set(numbers)
    assert taken == list(range(taken[0], taken[-1] + 1))
    assert taken[0] - 1 not in numbers
    assert taken[-1] + 1 not in numbers
    assert joined(run) == Range((str(taken[0]),), (str(taken[-1] + 1),))


def test_the_outermost_bounds_stay_open() -> None:
    run = [Chunk(0, Range(None, ("1",))), Chunk(1, Range(("1",), None))]
    assert joined(run) == Range(None, None)


@given(st.integers(1, RUN_CHUNKS_MAX), st.floats(0, 1000))
def test_the_size_of_runs_moves_within_limits(count: int, seconds: float) -> None:
    size = next_size(count, seconds)
    assert 1 <= size <= RUN_CHUNKS_MAX
    assert count // 2 <= size <= count * 2


@pytest.mark.parametrize(
    ("count", "seconds", "size"), [(10, 0.5, 10), (10, 0.1, 20), (10, 5, 5), (10, 0.4, 12), (1, 9, 1)]
)
def test_runs_are_sized_to_half_a_second(count: int, seconds: float, size: int) -> None:
    assert next_size(count, seconds) == size


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("last_login DESC", Order("last_login", "DESC", "LAST")),
        ("last_login desc nulls first", Order("last_login", "DESC", "FIRST")),
        ("id", Order("id", "ASC", "LAST")),
        ("coalesce(a, b) DESC, id", Order("coalesce(a, b)", "DESC", "LAST")),
        ('"a,b" ASC, c', Order('"a,b"', "ASC", "LAST")),
        ("tags[1] + (1) NULLS FIRST", Order("tags[1] + (1)", "ASC", "FIRST")),
        ("position(',' in x) DESC", Order("position(',' in x)", "DESC", "LAST")),
    ],
)
def test_order_by_is_read_as_postgresql_writes_it(text: str, order: Order) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize("text", ["", "  ", ", id"])
def test_an_order_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nothing to sort by"):
        parse_order(text)


def test_a_table_is_complete_only_when_its_planning_is() -> None:
    assert not Progress(3, 3, 10, is_planned=False).is_complete
    assert not Progress(3, 2, 10, is_planned=True).is_complete
    assert Progress(3, 3, 10, is_planned=True).is_complete
    assert Progress().ratio == 0
