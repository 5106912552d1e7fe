"""Quantities carry their unit, and what is shown can be read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import units


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_survive_being_shown(count: int, unit: str) -> None:
    value_s = units.seconds(f"{count}{unit}")
    assert units.seconds(units.show_seconds(value_s)) == pytest.approx(value_s, rel=1e-5)


@given(st.integers(0, 1000))
def test_percentages_survive_being_shown(tenths: int) -> None:
    value = units.ratio(f"{tenths / 10}%")
    assert units.ratio(units.show_ratio(value)) == value


@pytest.mark.parametrize(
    ("text", "value_s"),
    [
        ("10s", 10),
        ("500ms", 0.5),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1.5 s", 1.5),
        ("2min", 120),
        ("1d", 86400),
    ],
)
def test_durations(text: str, value_s: float) -> None:
    assert units.seconds(text) == pytest.approx(value_s)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "10 parsecs", "10s x", "x10s", "1h30", "5%", "1e3s"])
def test_what_is_no_duration_says_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 10s, 5m, 1h"):
        units.seconds(text)


@pytest.mark.parametrize(("text", "value"), [("0%", 0), ("5%", 0.05), ("99.9%", 0.999), ("100 %", 1)])
def test_percentages(text: str, value: float) -> None:
    assert units.ratio(text) == value


@pytest.mark.parametrize("text", ["", "5", "%", "-5%", "101%", "5s"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        units.ratio(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1B", 1), ("2kB", 2048), ("64MB", 64 << 20), ("1.5GiB", 3 << 29)]
)
def test_sizes(text: str, value: int) -> None:
    assert units.size_bytes(text) == value


@pytest.mark.parametrize("text", ["64", "64Mb", "MB", "-1MB", "5%"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64MB"):
        units.size_bytes(text)
