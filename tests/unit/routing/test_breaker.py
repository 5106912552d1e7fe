"""The breaker trips on what is wrong with the new cluster alone, and gives reads back by steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.breaker import STEPS, Breaker, BreakerLimits

LIMITS = BreakerLimits(bad_ratio_max=0.05, latency_s_max=1.0, window_s=10, rest_s=10)


def feed(breaker: Breaker, reads: int, bad: int, *, is_on_new: bool = True, seconds: float = 0.01) -> None:
    for number in range(reads):
        is_bad = number < bad
        breaker.observe(is_on_new=is_on_new, seconds=seconds, has_failed=is_bad)


def tripped(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(LIMITS)
    feed(breaker, 100, 50)
    assert breaker.tend(at_s) is not None
    return breaker


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 30)), max_size=200))
def test_reads_come_back_one_step_at_a_time_whatever_happens(events: list[tuple[bool, bool, float]]) -> None:
    breaker, now_s, before = Breaker(LIMITS), 0.0, 1.0
    for is_on_new, has_failed, wait_s in events:
        for _ in range(20):
            breaker.observe(is_on_new=is_on_new, seconds=0, has_failed=has_failed)
        now_s += wait_s
        breaker.tend(now_s)
        assert breaker.share == 0 or STEPS.index(breaker.share) <= STEPS.index(before) + 1
        before = breaker.share


def test_errors_take_the_reads_back_and_say_why() -> None:
    breaker = Breaker(LIMITS)
    feed(breaker, 94, 0)
    feed(breaker, 6, 6)
    assert breaker.tend(0) == (
        "reads are taken off new for 10 s: 6 of 100 reads on new failed or took more than 1 s (0.0% on old)"
    )
    assert breaker.statistics().share == 0
    assert breaker.statistics().trips_count == 1


def test_slowness_counts_like_errors() -> None:
    breaker = Breaker(LIMITS)
    feed(breaker, 20, 0, seconds=1.5)
    assert breaker.tend(0) is not None


def test_what_the_old_cluster_does_as_well_is_not_the_new_ones_fault() -> None:
    breaker = Breaker(LIMITS)
    feed(breaker, 100, 30, is_on_new=False)
    feed(breaker, 100, 34)
    assert breaker.tend(0) is None
    feed(breaker, 100, 50)
    assert breaker.tend(0) is not None


def test_few_reads_prove_nothing() -> None:
    breaker = Breaker(LIMITS)
    feed(breaker, 19, 19)
    assert breaker.tend(0) is None


def test_failures_of_long_ago_are_forgotten() -> None:
    breaker = Breaker(LIMITS)
    assert breaker.tend(0) is None  # a window begins
    feed(breaker, 19, 19)
    assert breaker.tend(10) is None
    feed(breaker, 19, 19)
    assert breaker.tend(10.1) is None


def test_recovery_by_steps() -> None:
    breaker = tripped(at_s=100)
    shares = []
    for now_s in range(100, 160, 5):
        breaker.tend(now_s)
        shares.append(breaker.share)
    assert shares == [0, 0, 0.1, 0.1, 0.25, 0.25, 0.5, 0.5, 1, 1, 1, 1]
    assert breaker.statistics().reason is None


def test_each_failure_on_the_way_back_doubles_the_rest() -> None:
    breaker = tripped(at_s=0)
    assert breaker.tend(10) == "10% of the reads are back on new"
    feed(breaker, 20, 20)
    assert (breaker.tend(11) or "").startswith("reads are taken off new for 20 s")
    assert breaker.tend(30) is None
    assert breaker.tend(31) == "10% of the reads are back on new"


def test_switched_off_it_lets_all_through() -> None:
    breaker = tripped()
    breaker.limits = LIMITS._replace(is_enabled=False)
    assert (breaker.share, breaker.tend(99)) == (1.0, None)
