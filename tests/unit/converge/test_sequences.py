"""How far a sequence is set."""

from __future__ import annotations

import pytest

from proxy.converge.sequences import Sequence, beyond


def sequence(
    last: int | None, increment: int = 1, low: int = 1, high: int = 1000, cyclic: bool = False
) -> Sequence:
    return Sequence(last, increment, low, high, cyclic)


@pytest.mark.parametrize(
    ("source", "target", "used", "expected"),
    [
        (sequence(None), sequence(None), [None], None),
        (sequence(7), sequence(None), [], 17),
        (sequence(7), sequence(50), [20], 60),
        (sequence(None), sequence(None), [90], 100),
        (sequence(995), sequence(1), [], 1000),
        (sequence(5, increment=3), sequence(1), [], 35),
        (sequence(-7, -1, -1000, -1), sequence(-9, -1, -1000, -1), [-8], -19),
        (sequence(-999, -1, -1000, -1), sequence(None, -1, -1000, -1), [], -1000),
        (sequence(7, cyclic=True), sequence(900, cyclic=True), [950], 7),
    ],
)
def test_beyond(source: Sequence, target: Sequence, used: list[int | None], expected: int | None) -> None:
    assert beyond(source, target, used, 10) == expected
