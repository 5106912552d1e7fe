"""What the engine did: counters for metrics, gates, the console and tests."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from proxy.clock import Clock, now_s

_WINDOW_S = 300.0
_BUCKET_S = 5.0


class Walked(NamedTuple):
    """How far a table is that takes several passes; `eta_s` is None before it can be told."""

    ratio: float
    eta_s: float | None

    @classmethod
    def of(cls, done: float, total: float, took_s: float) -> Walked:
        """Return it from what is done of a total that is only estimated."""
        ratio = min(done / total, 1.0) if total > 0 else 0.0
        return cls(ratio, took_s / ratio - took_s if ratio > 0 else None)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A reading of the engine.

    `converged_rows` is by table and origin: live, backfill or repair. `quarantined_keys` and
    `paused` (table to reason) are as of the last pass, and so is `walked` by table. `success_ratio`
    is the share of entries of the last five minutes that needed no quarantine; 1 when there were
    none. `lag_s` is the age of the oldest entry that the last pass found.
    """

    converged_rows: Mapping[tuple[str, str], int]
    quarantined_keys: Mapping[str, int]
    paused: Mapping[str, str]
    walked: Mapping[str, Walked]
    success_ratio: float
    passes_count: int
    lag_s: float
    last_error: str | None
    is_replica: bool


class Tally:
    """The counters behind `Statistics`; the converger is the only writer."""

    def __init__(self, clock: Clock = now_s) -> None:
        self.quarantined_keys: dict[str, int] = {}
        self.paused: dict[str, str] = {}
        self.walked: dict[str, Walked] = {}
        self.last_error: str | None = None
        self.passes_count = 0
        self.lag_s = 0.0
        self.is_replica = False
        self._clock = clock
        self._converged: Counter[tuple[str, str]] = Counter()
        self._window: deque[tuple[float, int, int]] = deque()  # when, converged, failed

    def converged(self, table: str, origin: str, rows_count: int) -> None:
        """Count rows that are on the target now."""
        self._converged[table, origin] += rows_count

    def tried(self, *, converged_count: int, failed_count: int) -> None:
        """Count entries that a pass converged, and keys that it quarantined."""
        if converged_count or failed_count:
            self._forget()
            at_s = self._clock() // _BUCKET_S * _BUCKET_S
            if self._window and self._window[-1][0] == at_s:
                _, converged, failed = self._window.pop()
                converged_count, failed_count = converged_count + converged, failed_count + failed
            self._window.append((at_s, converged_count, failed_count))

    def statistics(self) -> Statistics:
        """Return the present reading."""
        self._forget()
        converged = sum(bucket[1] for bucket in self._window)
        failed = sum(bucket[2] for bucket in self._window)
        return Statistics(
            converged_rows=MappingProxyType(dict(self._converged)),
            quarantined_keys=MappingProxyType(dict(self.quarantined_keys)),
            paused=MappingProxyType(dict(self.paused)),
            walked=MappingProxyType(dict(self.walked)),
            success_ratio=converged / (converged + failed) if converged + failed else 1.0,
            passes_count=self.passes_count,
            lag_s=self.lag_s,
            last_error=self.last_error,
            is_replica=self.is_replica,
        )

    def _forget(self) -> None:
        while self._window and self._window[0][0] < self._clock() - _WINDOW_S:
            self._window.popleft()
