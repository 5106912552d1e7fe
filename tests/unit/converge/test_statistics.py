"""Counters of the engine."""

from __future__ import annotations

import pytest

from proxy.converge.statistics import Tally, Walked


class Hand:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def test_success_ratio_is_of_the_last_five_minutes() -> None:
    hand = Hand()
    tally = Tally(hand)
    assert tally.statistics().success_ratio == 1.0
    tally.tried(converged_count=1, failed_count=3)
    hand.at_s = 100
    tally.tried(converged_count=4, failed_count=0)
    assert tally.statistics().success_ratio == pytest.approx(5 / 8)
    hand.at_s = 350
    assert tally.statistics().success_ratio == 1.0


def test_window_stays_small_however_often_it_is_written() -> None:
    hand = Hand()
    tally = Tally(hand)
    for _ in range(10_000):
        hand.at_s += 0.5
        tally.tried(converged_count=1, failed_count=0)
    assert len(tally._window) <= 62


def test_rows_are_counted_by_table_and_origin() -> None:
    tally = Tally(Hand())
    tally.converged("public.t", "live", 2)
    tally.converged("public.t", "live", 3)
    tally.converged("public.t", "backfill", 1)
    assert tally.statistics().converged_rows == {("public.t", "live"): 5, ("public.t", "backfill"): 1}


@pytest.mark.parametrize(
    ("done", "total", "walked"),
    [
        (0, 100, Walked(0.0, None)),
        (25, 100, Walked(0.25, 30.0)),
        (120, 100, Walked(1.0, 0.0)),
        (5, -1, Walked(0.0, None)),
    ],
)
def test_how_far_a_table_is_tells_how_long_it_will_take(done: int, total: int, walked: Walked) -> None:
    assert Walked.of(done, total, took_s=10.0) == walked
