"""The list of guards names tests that exist."""

from __future__ import annotations

from tests.chaos import guards


def test_every_guard_has_the_test_that_is_listed_for_it() -> None:
    assert guards.missing() == []
