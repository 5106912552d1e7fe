"""The demo succeeds only when every single account says so."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.demo.account import Account, Findings, SwitchWait
from proxy.demo.journal import Statistics
from proxy.demo.watch import Verification

LOAD = Statistics(
    statements_count=9000,
    failures_count=0,
    writes_count=3000,
    longest_wait_s=0.02,
    p50_s=0.001,
    p99_s=0.01,
    failures=(),
)


def good() -> Account:
    return Account(
        switches=[SwitchWait("switch to new", 0.0312, "update stock", 0.0174)],
        verified=Verification(850_000, ()),
        compared_rows=850_000,
        differences=Findings(0),
        lost=Findings(0),
    )


def test_nothing_wrong_is_good() -> None:
    assert good().is_good(LOAD)
    shown = {result.name: result.value for result in good().results(LOAD)}
    assert shown["longest wait, switch to new"] == "31 ms (update stock), writes held for 17 ms"


@pytest.mark.parametrize(
    "wrong",
    [
        {"verified": None},
        {"verified": Verification(850_000, ("users 7",))},
        {"verified": Verification(850_000, (), pending_count=1)},
        {"compared_rows": None},
        {"differences": None},
        {"differences": Findings(1, ("users 7 differs",))},
        {"lost": None},
        {"lost": Findings(1, ("old: orders(7): acknowledged 'written', found 'missing'",))},
        {"failure": "the switch to new was refused"},
    ],
    ids=str,
)
def test_anything_wrong_or_not_looked_at_is_not_good(wrong: dict[str, object]) -> None:
    assert not dataclasses.replace(good(), **wrong).is_good(LOAD)


def test_a_failed_statement_is_not_good() -> None:
    load = dataclasses.replace(LOAD, failures_count=1, failures=(("read user: 08006 lost", 1),))
    assert not good().is_good(load)
    assert "1 x read user: 08006 lost" in [result.value for result in good().results(load)]
