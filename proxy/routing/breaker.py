"""The circuit breaker of reads on the new cluster: take them back while it fails. Pure.

    full     all reads that the percentage sends there; fails too often   -> resting
    resting  none, for `rest_s`, doubled with each failure in a row       -> first step
    steps    a tenth of them, a quarter, half, each for `rest_s`          -> full
             fails too often                                              -> resting

A read is *bad* when it failed or took longer than `latency_s_max`. What counts is by how
much the share of bad reads on the new cluster exceeds that of the old one over the same
time: an application whose statements are wrong, or slow by nature, does not trip it.

The breaker scales the percentage, so it takes sessions off the new cluster in the order in
which the percentage would, and gives them back in the reverse: nobody goes to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

STEPS = (0.0, 0.1, 0.25, 0.5, 1.0)
_READS_MIN = 20  # fewer prove nothing
_REST_FACTOR_MAX = 32


class BreakerLimits(NamedTuple):
    """The `rollout.breaker` section of the configuration."""

    bad_ratio_max: float = 0.05
    latency_s_max: float = 5.0
    window_s: float = 10.0
    rest_s: float = 10.0
    is_enabled: bool = True


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """How much of the percentage is let through, and why not all of it."""

    share: float
    trips_count: int
    reason: str | None  # of the last trip; None once all reads are back


class Breaker:
    """One database's, in one worker; it sees that worker's reads."""

    def __init__(self, limits: BreakerLimits) -> None:
        self.limits = limits
        self._step = len(STEPS) - 1
        self._trips_count = 0
        self._reason: str | None = None
        self._rest_factor = 1
        self._next_s = 0.0  # when the next step is due
        self._window_until_s = 0.0
        self._forget_reads()

    @property
    def share(self) -> float:
        """How much of the percentage is let through now."""
        return STEPS[self._step] if self.limits.is_enabled else 1.0

    def observe(self, *, is_on_new: bool, seconds: float, has_failed: bool) -> None:
        """Count a read that was answered, or failed."""
        self._reads[is_on_new] += 1
        self._bad[is_on_new] += has_failed or seconds > self.limits.latency_s_max

    def tend(self, now_s: float) -> str | None:
        """Take the step that is due, if any; return what changed, for the log."""
        if not self.limits.is_enabled:
            return None
        if self._step and (reason := self._objection()) is not None:
            return self._trip(reason, now_s)
        if self._step < len(STEPS) - 1 and now_s >= self._next_s:
            return self._step_up(now_s)
        if now_s >= self._window_until_s:
            self._window_until_s = now_s + self.limits.window_s
            self._forget_reads()
        return None

    def statistics(self) -> BreakerStatistics:
        """Return the state."""
        return BreakerStatistics(self.share, self._trips_count, self._reason)

    def _objection(self) -> str | None:
        """Return what is wrong with the new cluster; None: nothing is known to be."""
        reads_count, bad_count = self._reads[True], self._bad[True]
        if reads_count < _READS_MIN:
            return None
        bad_ratio = bad_count / reads_count
        usual_ratio = self._bad[False] / self._reads[False] if self._reads[False] else 0.0
        if bad_ratio - usual_ratio <= self.limits.bad_ratio_max:
            return None
        return (
            f"{bad_count} of {reads_count} reads on new failed or took more than "
            f"{self.limits.latency_s_max:g} s ({usual_ratio:.1%} on old)"
        )

    def _trip(self, reason: str, now_s: float) -> str:
        self._step, self._reason = 0, reason
        self._trips_count += 1
        rest_s = self.limits.rest_s * self._rest_factor
        self._rest_factor = min(self._rest_factor * 2, _REST_FACTOR_MAX)
        self._next_s = now_s + rest_s
        self._forget_reads()
        return f"reads are taken off new for {rest_s:g} s: {reason}"

    def _step_up(self, now_s: float) -> str:
        self._step += 1
        self._next_s = now_s + self.limits.rest_s
        self._forget_reads()
        if self._step == len(STEPS) - 1:
            self._reason, self._rest_factor = None, 1
            return "all reads are back on new"
        return f"{self.share:.0%} of the reads are back on new"

    def _forget_reads(self) -> None:
        self._reads = {True: 0, False: 0}
        self._bad = {True: 0, False: 0}
