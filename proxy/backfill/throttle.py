"""How fast backfill may go: the worst of all signals decides, and is always named. Pure.

The pace is the share of time that backfill works, from `PACE_MIN` to 1. After every run it
grows by a fixed step while all is well, and is halved while anything is above its limit:
additive increase, multiplicative decrease, so that it settles just below what the clusters
can bear and gives way at once (Chiu and Jain, 1989).

An operator's pause stops everything and keeps the pace. So does a signal at twice its limit:
slower is then not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PACE_MIN = 0.02
PACE_STEP = 0.125
STOP_SEVERITY = 2.0
# While stopped, how long until the signals are read again.
STOPPED_WAIT_S = 1.0
# However slow the pace, signals are read at least this often.
WAIT_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known about the clusters before a run; None is unknown, and holds nothing back."""

    replica_lag_s: float | None = None
    source_busy_ratio: float | None = None  # active clients, per connection that the source allows
    target_latency_s: float | None = None
    ledger_entries_count: int = 0
    is_paused: bool = False
    is_flagged: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a signal makes backfill give way."""

    replica_lag_max_s: float = 10.0
    source_busy_max_ratio: float = 0.8
    target_latency_max_s: float = 1.0
    ledger_entries_max: int = 100_000
    flag_file: str = ""


class Decision(NamedTuple):
    """What to do before the next run."""

    pace: float
    wait_s: float
    may_run: bool
    reason: str


class _Cause(NamedTuple):
    """One signal against its limit: at severity 1 it has reached it."""

    severity: float
    reason: str


def decide(pace: float, run_s: float, signals: Signals, limits: Limits) -> Decision:
    """Return the pace to go on with, and how long to wait first.

    Args:
        pace: The last decision's, 1 at the start.
        run_s: How long the last run took; 0 when there was none.
    """
    if signals.is_paused:
        return Decision(pace, STOPPED_WAIT_S, False, "paused by the configuration")
    if signals.is_flagged:
        return Decision(pace, STOPPED_WAIT_S, False, f"paused by the file {limits.flag_file}")
    worst = max(_causes(signals, limits), default=_Cause(0.0, ""))
    if worst.severity >= STOP_SEVERITY:
        return Decision(max(pace / 2, PACE_MIN), STOPPED_WAIT_S, False, f"stopped: {worst.reason}")
    if worst.severity >= 1:
        pace, reason = max(pace / 2, PACE_MIN), f"slower: {worst.reason}"
    elif pace < 1:
        pace = min(pace + PACE_STEP, 1.0)
        reason = "full speed" if pace == 1 else "faster: everything is below its limit"
    else:
        reason = "full speed"
    return Decision(pace, min(run_s * (1 / pace - 1), WAIT_MAX_S), True, reason)


def _causes(signals: Signals, limits: Limits) -> list[_Cause]:
    causes = []
    if (lag_s := signals.replica_lag_s) is not None:
        limit_s = limits.replica_lag_max_s
        causes.append(_Cause(lag_s / limit_s, f"replica lag {lag_s:.1f} s, at most {limit_s:g} s allowed"))
    if (busy := signals.source_busy_ratio) is not None:
        limit = limits.source_busy_max_ratio
        causes.append(_Cause(busy / limit, f"source {busy:.0%} busy, at most {limit:.0%} allowed"))
    if (latency_s := signals.target_latency_s) is not None:
        limit_s = limits.target_latency_max_s
        reason = f"target answers in {latency_s:.3f} s, at most {limit_s:g} s allowed"
        causes.append(_Cause(latency_s / limit_s, reason))
    count, count_max = signals.ledger_entries_count, limits.ledger_entries_max
    causes.append(_Cause(count / count_max, f"{count} ledger entries, at most {count_max} allowed"))
    return causes
