"""How fast the ledger shrinks, and when it will be empty, by the last looks at it. Pure."""

from __future__ import annotations

from collections import deque

_WINDOW_S = 30.0
_SPAN_MIN_S = 2.0


class Pace:
    """The depths of the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # when, entries

    def note(self, at_s: float, entries_count: int) -> None:
        """Take in one look at the ledger."""
        self._seen.append((at_s, entries_count))
        while self._seen[0][0] < at_s - _WINDOW_S:
            self._seen.popleft()

    @property
    def drained_per_s(self) -> float | None:
        """Entries that go per second, less those that come: negative while it grows, None at first."""
        if not self._seen:
            return None
        (from_s, before), (to_s, now) = self._seen[0], self._seen[-1]
        return (before - now) / (to_s - from_s) if to_s - from_s >= _SPAN_MIN_S else None

    @property
    def eta_s(self) -> float | None:
        """When it is empty if this goes on: 0 if it is, None if it does not shrink, or nobody knows."""
        if not self._seen or self._seen[-1][1] == 0:
            return 0.0 if self._seen else None
        per_s = self.drained_per_s
        return self._seen[-1][1] / per_s if per_s is not None and per_s > 0 else None
