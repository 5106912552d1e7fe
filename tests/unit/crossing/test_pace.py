"""When the ledger will be empty."""

from __future__ import annotations

import pytest

from proxy.crossing.pace import Pace


def paced(*looks: tuple[float, int]) -> Pace:
    pace = Pace()
    for at_s, entries_count in looks:
        pace.note(at_s, entries_count)
    return pace


def test_nothing_is_known_before_two_looks_some_time_apart() -> None:
    assert (paced().drained_per_s, paced().eta_s) == (None, None)
    assert paced((0.0, 100), (0.5, 90)).eta_s is None


def test_a_ledger_that_shrinks_is_empty_in_the_time_that_is_left() -> None:
    pace = paced((0.0, 1000), (5.0, 800), (10.0, 500))
    assert pace.drained_per_s == pytest.approx(50)
    assert pace.eta_s == pytest.approx(10)


def test_a_ledger_that_grows_has_no_end() -> None:
    pace = paced((0.0, 100), (10.0, 300))
    assert pace.drained_per_s == pytest.approx(-20)
    assert pace.eta_s is None


def test_an_empty_ledger_takes_no_time() -> None:
    assert paced((0.0, 0)).eta_s == 0.0
    assert paced((0.0, 500), (10.0, 0)).eta_s == 0.0


def test_what_was_long_ago_does_not_count() -> None:
    assert paced((0.0, 9_000_000), (100.0, 1000), (110.0, 500)).eta_s == pytest.approx(10)
