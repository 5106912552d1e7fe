"""What is kept is bounded in bytes, and empties itself rather than grow."""

from __future__ import annotations

from proxy.server.kept import Kept


def test_all_is_dropped_when_the_next_entry_would_be_too_much() -> None:
    kept: Kept[str, int] = Kept(100)
    kept.keep("a", 1, 60)
    kept.keep("b", 2, 40)
    assert kept == {"a": 1, "b": 2} and kept.size_bytes == 100
    kept.keep("c", 3, 1)
    assert kept == {"c": 3} and kept.size_bytes == 1


def test_what_is_larger_than_everything_may_be_is_not_kept() -> None:
    kept: Kept[str, int] = Kept(100)
    kept.keep("a", 1, 101)
    assert not kept and kept.size_bytes == 0


def test_clearing_gives_the_bytes_back() -> None:
    kept: Kept[str, int] = Kept(100)
    kept.keep("a", 1, 60)
    kept.clear()
    assert not kept and kept.size_bytes == 0
