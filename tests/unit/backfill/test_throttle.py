"""The worst signal sets the pace, and is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backfill.throttle import PACE_MIN, WAIT_MAX_S, Limits, Signals, decide

LIMITS = Limits(flag_file="/run/stop")
CALM = Signals()

signals = st.builds(
    Signals,
    replica_lag_s=st.none() | st.floats(0, 1000),
    source_busy_ratio=st.none() | st.floats(0, 1),
    target_latency_s=st.none() | st.floats(0, 100),
    ledger_entries_count=st.integers(0, 10**6),
    is_paused=st.booleans(),
    is_flagged=st.booleans(),
)


@given(st.floats(PACE_MIN, 1), st.floats(0, 60), signals)
def test_pace_and_wait_stay_within_their_limits_and_a_reason_is_given(
    pace: float, run_s: float, seen: Signals
) -> None:
    decision = decide(pace, run_s, seen, LIMITS)
    assert PACE_MIN <= decision.pace <= 1
    assert 0 <= decision.wait_s <= WAIT_MAX_S
    assert decision.reason
    assert decision.may_run or decision.wait_s > 0


def test_nothing_in_the_way_is_full_speed_without_waiting() -> None:
    assert decide(1.0, 0.5, CALM, LIMITS) == (1.0, 0.0, True, "full speed")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Signals(replica_lag_s=12), "slower: replica lag 12.0 s, at most 10 s allowed"),
        (Signals(source_busy_ratio=0.9), "slower: source 90% busy, at most 80% allowed"),
        (Signals(target_latency_s=1.5), "slower: target answers in 1.500 s, at most 1 s allowed"),
        (Signals(ledger_entries_count=150_000), "slower: 150000 ledger entries, at most 100000 allowed"),
        (
            Signals(replica_lag_s=12, target_latency_s=1.9),
            "slower: target answers in 1.900 s, at most 1 s allowed",
        ),
    ],
)
def test_the_worst_signal_halves_the_pace_and_is_named(seen: Signals, reason: str) -> None:
    decision = decide(0.8, 0.5, seen, LIMITS)
    assert (decision.pace, decision.may_run, decision.reason) == (0.4, True, reason)
    assert decision.wait_s == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Signals(is_paused=True), "paused by the configuration"),
        (Signals(is_flagged=True), "paused by the file /run/stop"),
    ],
)
def test_an_operators_pause_stops_and_keeps_the_pace(seen: Signals, reason: str) -> None:
    decision = decide(0.7, 0.5, seen, LIMITS)
    assert (decision.pace, decision.may_run, decision.reason) == (0.7, False, reason)


def test_twice_the_limit_stops() -> None:
    decision = decide(1.0, 0.5, Signals(replica_lag_s=20), LIMITS)
    assert not decision.may_run
    assert decision.reason.startswith("stopped: replica lag")


def test_the_pace_recovers_in_steps() -> None:
    paces = [decide(1.0, 0.5, Signals(replica_lag_s=10), LIMITS).pace]
    while paces[-1] < 1:
        paces.append(decide(paces[-1], 0.5, CALM, LIMITS).pace)
    assert paces == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0])
