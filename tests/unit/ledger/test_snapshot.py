"""Which snapshot holds all that another one shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.snapshot import dominates, parse

XIDS = range(1, 13)


@st.composite
def snapshots(draw: st.DrawFn) -> str:
    """Snapshots as PostgreSQL takes them: the newest transaction below xmax has ended."""
    xmax = draw(st.integers(2, 12))
    running = sorted(draw(st.sets(st.integers(1, xmax - 1))) - {xmax - 1})
    return f"{running[0] if running else xmax}:{xmax}:{','.join(map(str, running))}"


def visible(text: str) -> set[int]:
    return {xid for xid in XIDS if parse(text).sees(xid)}


@given(snapshots(), snapshots())
def test_dominates_means_that_every_visible_transaction_is_visible(later: str, earlier: str) -> None:
    assert dominates(later, earlier) == (visible(later) >= visible(earlier))


@given(snapshots(), snapshots(), snapshots())
def test_dominance_is_transitive_and_reflexive(a: str, b: str, c: str) -> None:
    assert dominates(a, a)
    if dominates(a, b) and dominates(b, c):
        assert dominates(a, c)


@pytest.mark.parametrize(
    ("later", "earlier", "expected"),
    [
        ("10:20:10,14", "10:12:10", True),
        ("10:20:10,11", "10:12:10", False),
        ("12:12:", "12:13:", False),
        ("4294967290:4294967300:4294967295", "4294967290:4294967296:4294967295", True),
    ],
)
def test_examples(later: str, earlier: str, expected: bool) -> None:
    assert dominates(later, earlier) is expected


@pytest.mark.parametrize("text", ["", "1:2", "1:2:x", "a:b:"])
def test_what_is_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
