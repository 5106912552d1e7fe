"""What sessions did, counted where it was done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.policy import Place, Side
from proxy.server.statistics import BUCKETS_S, Statistics

OLD, REPLICA = Place(Side.OLD, 0), Place(Side.OLD, 2)


@given(st.lists(st.floats(0, 20), max_size=50))
def test_every_request_is_in_the_bucket_whose_bound_it_does_not_exceed(seconds: list[float]) -> None:
    statistics = Statistics()
    for each in seconds:
        statistics.observe("read", OLD, each)
    if not seconds:
        assert statistics.statements() == []
        return
    ((kind, destination, count, sum_s, buckets),) = statistics.statements()
    assert (kind, destination, count, sum_s) == ("read", "old_primary", len(seconds), sum(seconds))
    lower = -1.0
    for bound, found in zip((*BUCKETS_S, float("inf")), buckets, strict=True):
        assert found == sum(lower < each <= bound for each in seconds)
        lower = bound


def test_kinds_and_destinations_are_told_apart() -> None:
    statistics = Statistics()
    for kind, place in (("read", OLD), ("read", REPLICA), ("write", OLD), ("read", REPLICA)):
        statistics.observe(kind, place, 0.001)
    assert {(kind, to): count for kind, to, count, _, _ in statistics.statements()} == {
        ("read", "old_primary"): 1,
        ("read", "old_replica"): 2,
        ("write", "old_primary"): 1,
    }


def test_what_was_told_does_not_change_afterwards() -> None:
    statistics = Statistics()
    statistics.observe("read", OLD, 0.001)
    told = statistics.statements()
    statistics.observe("read", OLD, 0.001)
    assert told[0][2] == sum(told[0][4]) == 1
