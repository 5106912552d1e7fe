"""What the sessions of one database did: plain numbers, cheap enough for every statement."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from proxy.routing.policy import Place

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Series:
    """Count, sum and buckets of one kind of statement at one destination."""

    __slots__ = ("buckets", "count", "sum_s")

    def __init__(self) -> None:
        self.count = 0
        self.sum_s = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)


class Statistics:
    """Statements by kind and destination, and events worth counting."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, Place], Series] = {}
        self.capture_misses: dict[str, int] = {}
        self.last_misses: dict[str, str] = {}  # by table: the statement, and what to do
        self.reruns_count = 0
        self.fallbacks: Counter[str] = Counter()  # reads that stayed on the authority, by reason

    def observe(self, kind: str, place: Place, seconds: float) -> None:
        """Count one request: from its arrival to its ReadyForQuery."""
        series = self._series.get((kind, place))
        if series is None:
            series = self._series[kind, place] = Series()
        series.count += 1
        series.sum_s += seconds
        series.buckets[bisect_left(BUCKETS_S, seconds)] += 1

    def missed(self, table: str, explanation: str) -> None:
        """Count a change that no entry described."""
        self.capture_misses[table] = self.capture_misses.get(table, 0) + 1
        self.last_misses[table] = explanation

    def statements(self) -> list[tuple[str, str, int, float, list[int]]]:
        """Return kind, destination, count, sum in seconds and bucket counts of each series."""
        return [
            (kind, f"{place.side}_{place.role}", series.count, series.sum_s, list(series.buckets))
            for (kind, place), series in self._series.items()
        ]
