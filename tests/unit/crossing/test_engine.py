"""When an engine tries again."""

from __future__ import annotations

from proxy.crossing.engine import retry_s


def test_each_switch_that_is_undone_makes_the_next_one_wait_longer() -> None:
    assert [retry_s(count) for count in range(6)] == [3, 6, 12, 24, 48, 60]
    assert retry_s(1000) == 60
