"""Writes move only when every gate holds, and a refusal says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.config.model import GATE_NAMES
from proxy.crossing.gates import GATES, Limits, Snapshot, Trial, judge, refusals

FINE = Snapshot(
    mirror_success_ratio=1.0,
    ledger_entries_count=3,
    lag_s=0.2,
    quarantined_keys_count=0,
    backfill_chunks_left=0,
    verified_age_s=60.0,
    differences_count=0,
    unverified_tables=(),
    read_parity_ratio=1.0,
    schema_differences=(),
    trial=Trial(),
)
LIMITS = Limits()


def test_every_gate_passes_when_all_is_well() -> None:
    verdicts = judge(FINE, LIMITS)
    assert set(verdicts) == set(GATES)
    assert refusals(verdicts) == {}


@pytest.mark.parametrize(
    ("gate", "change", "reason"),
    [
        ("mirror_success", {"mirror_success_ratio": 0.94999}, "94.99% mirrored, at least 95% required"),
        ("ledger_drained", {"ledger_entries_count": 10_001}, "10001 entries wait, at most 10000 allowed"),
        ("lag", {"lag_s": 1.5}, "lag 1.500 s, at most 1 s allowed"),
        (
            "sequences_settable",
            {"trial": Trial(sequences=("new has no sequence a.b",))},
            "new has no sequence a.b",
        ),
        ("users_ready", {"trial": Trial(users=("new has no role app",))}, "new has no role app"),
        ("way_back", {"trial": Trial(way_back=("a", "b", "c", "d"))}, "a; b; c"),
        ("no_quarantine", {"quarantined_keys_count": 2}, "2 keys in quarantine"),
        ("backfill_complete", {"backfill_chunks_left": 9}, "9 chunks left to copy"),
        ("backfill_complete", {"backfill_chunks_left": None}, "backfill is not planned yet"),
        ("verified", {"verified_age_s": None}, "never verified"),
        ("verified", {"verified_age_s": 3601.0}, "verified 3601 s ago, limit 3600 s"),
        ("verified", {"differences_count": 1}, "1 rows differ"),
        ("verified", {"unverified_tables": tuple("abcde")}, "could not compare a, b, c and 2 more"),
        ("read_parity", {"read_parity_ratio": 0.99}, "99% of reads agree, at least 99.9% required"),
        (
            "files_agree",
            {"dissenting_proxies": ("host-1-a",)},
            "the file of host-1-a wants writes elsewhere",
        ),
        (
            "schema_equal",
            {"schema_differences": ("t.a is text, then int",)},
            "schemas differ: t.a is text, then int",
        ),
    ],
)
def test_one_thing_wrong_is_refused_by_its_gate_alone(gate: str, change: dict[str, Any], reason: str) -> None:
    refused = refusals(judge(replace(FINE, **change), LIMITS))
    assert {name: verdict.reason for name, verdict in refused.items()} == {gate: reason}


@pytest.mark.parametrize(
    ("gate", "change", "reason"),
    [
        ("mirror_success", {"mirror_success_ratio": None}, "no writes to mirror lately"),
        ("read_parity", {"read_parity_ratio": None}, "no shadow reads"),
    ],
)
def test_what_was_never_tried_does_not_stand_in_the_way(
    gate: str, change: dict[str, Any], reason: str
) -> None:
    assert judge(replace(FINE, **change), LIMITS)[gate] == (True, reason)


def test_a_forced_gate_is_overruled_by_name_and_still_shows_its_verdict() -> None:
    verdicts = judge(replace(FINE, verified_age_s=None, quarantined_keys_count=1), LIMITS)
    assert not verdicts["verified"].passed
    assert set(refusals(verdicts, forced=("verified",))) == {"no_quarantine"}


def test_what_was_not_tried_yet_opens_no_gate() -> None:
    refused = refusals(judge(replace(FINE, trial=None), LIMITS))
    assert {name: verdict.reason for name, verdict in refused.items()} == dict.fromkeys(
        ("sequences_settable", "users_ready", "way_back"), "not tried yet"
    )


def test_the_configuration_knows_the_gates_by_name() -> None:
    assert set(GATE_NAMES) == set(GATES)
