"""The conditions that must hold before writes may move. Pure.

A gate is a pure function of one `Snapshot`, so all gates judge the same instant and
a refusal can be reproduced from the log line that reported it. Add a gate by writing the
function and adding it to `GATES`: the console, the dashboard and the metrics list
whatever is there.

An operator may overrule a gate by name (`rollout.force`). The verdict stays what it is, and
is still shown; only `refusals` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Trial(NamedTuple):
    """What `crossing.trial` found wrong: clauses for people."""

    sequences: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    way_back: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gates may look at, read once."""

    mirror_success_ratio: float | None  # None: nothing was converged lately
    ledger_entries_count: int
    lag_s: float  # age of the oldest ledger entry
    quarantined_keys_count: int
    backfill_chunks_left: int | None  # None: not planned yet
    verified_age_s: float | None  # None: no verification of all tables has finished
    differences_count: int
    unverified_tables: tuple[str, ...]  # that the verification could not compare
    read_parity_ratio: float | None  # None: no shadow read was compared
    schema_differences: tuple[str, ...]
    trial: Trial | None = None  # None: not tried yet
    dissenting_proxies: tuple[str, ...] = ()  # whose files want writes elsewhere


@dataclass(frozen=True, slots=True)
class Limits:
    """How strict the gates are; the `rollout.gates` section of the config."""

    mirror_success_ratio_min: float = 0.95
    read_parity_ratio_min: float = 0.999
    verified_age_s_max: float = 3600.0
    lag_s_max: float = 1.0
    ledger_entries_max: int = 10_000


class Verdict(NamedTuple):
    """Whether a gate lets writes move, and why, in one clause."""

    passed: bool
    reason: str


Gate = Callable[[Snapshot, Limits], Verdict]

_NAMES_SHOWN_MAX = 3


def mirror_success(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Nearly everything that was tried lately arrived on the mirror."""
    ratio, ratio_min = snapshot.mirror_success_ratio, limits.mirror_success_ratio_min
    if ratio is None:
        # Without writes there is nothing to fail; the ledger's gate says if any wait.
        return Verdict(True, "no writes to mirror lately")
    return Verdict(ratio >= ratio_min, f"{_percent(ratio)} mirrored, at least {_percent(ratio_min)} required")


def ledger_drained(snapshot: Snapshot, limits: Limits) -> Verdict:
    """So few entries wait that draining them fits in the pause."""
    count, count_max = snapshot.ledger_entries_count, limits.ledger_entries_max
    return Verdict(count <= count_max, f"{count} entries wait, at most {count_max} allowed")


def lag(snapshot: Snapshot, limits: Limits) -> Verdict:
    """The oldest entry is young: the ledger is drained faster than it grows."""
    lag_s, lag_s_max = snapshot.lag_s, limits.lag_s_max
    return Verdict(lag_s <= lag_s_max, f"lag {lag_s:.3f} s, at most {lag_s_max:g} s allowed")


def no_quarantine(snapshot: Snapshot, limits: Limits) -> Verdict:
    """No key is set aside because the target refuses its row."""
    count = snapshot.quarantined_keys_count
    return Verdict(count == 0, f"{count} keys in quarantine" if count else "no key in quarantine")


def backfill_complete(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Every chunk was copied once."""
    left = snapshot.backfill_chunks_left
    if left is None:
        return Verdict(False, "backfill is not planned yet")
    return Verdict(left == 0, f"{left} chunks left to copy" if left else "every chunk is copied")


def verified(snapshot: Snapshot, limits: Limits) -> Verdict:
    """A recent verification compared every table and found no difference."""
    if snapshot.verified_age_s is None:
        return Verdict(False, "never verified")
    if snapshot.unverified_tables:
        return Verdict(False, f"could not compare {_some(snapshot.unverified_tables)}")
    if snapshot.differences_count > 0:
        return Verdict(False, f"{snapshot.differences_count} rows differ")
    age_s, age_s_max = snapshot.verified_age_s, limits.verified_age_s_max
    return Verdict(age_s <= age_s_max, f"verified {age_s:.0f} s ago, limit {age_s_max:.0f} s")


def read_parity(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Shadow reads get the same answers from both clusters."""
    ratio, ratio_min = snapshot.read_parity_ratio, limits.read_parity_ratio_min
    if ratio is None:
        return Verdict(True, "no shadow reads")
    return Verdict(
        ratio >= ratio_min, f"{_percent(ratio)} of reads agree, at least {_percent(ratio_min)} required"
    )


def schema_equal(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Both clusters have the mirrored tables with the same columns."""
    if snapshot.schema_differences:
        return Verdict(False, f"schemas differ: {_some(snapshot.schema_differences)}")
    return Verdict(True, "schemas are equal")


def sequences_settable(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Every sequence can be set beyond what was given out, on either side."""
    return _tried(snapshot, lambda trial: trial.sequences, "every sequence can be set")


def users_ready(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Whoever may write here may write there, and is captured."""
    return _tried(snapshot, lambda trial: trial.users, "every user has the same rights there")


def way_back(snapshot: Snapshot, limits: Limits) -> Verdict:
    """The reverse path works: rights, capture, and a row that went there and back."""
    return _tried(snapshot, lambda trial: trial.way_back, "the way back was tried")


def files_agree(snapshot: Snapshot, limits: Limits) -> Verdict:
    """Every proxy has a file that wants writes on the same cluster."""
    others = snapshot.dissenting_proxies
    if others:
        return Verdict(False, f"the file of {_some(others)} wants writes elsewhere")
    return Verdict(True, "the files of all proxies agree")


def _tried(snapshot: Snapshot, of: Callable[[Trial], tuple[str, ...]], good: str) -> Verdict:
    if snapshot.trial is None:
        return Verdict(False, "not tried yet")
    found = of(snapshot.trial)
    return Verdict(not found, "; ".join(found[:_NAMES_SHOWN_MAX]) if found else good)


GATES: dict[str, Gate] = {
    gate.__name__: gate
    for gate in (
        mirror_success,
        ledger_drained,
        lag,
        no_quarantine,
        backfill_complete,
        verified,
        read_parity,
        schema_equal,
        sequences_settable,
        users_ready,
        way_back,
        files_agree,
    )
}


def judge(snapshot: Snapshot, limits: Limits) -> dict[str, Verdict]:
    """Return the verdict of every gate, by name, passed or not."""
    return {name: gate(snapshot, limits) for name, gate in GATES.items()}


def refusals(verdicts: Mapping[str, Verdict], forced: Collection[str] = ()) -> dict[str, Verdict]:
    """Return the verdicts that stand in the way, without those of the gates overruled by name."""
    return {name: verdict for name, verdict in verdicts.items() if not verdict.passed and name not in forced}


def _percent(ratio: float) -> str:
    """Return a ratio as it may be compared by eye: 99.95%, and never rounded up to 100%."""
    return f"{int(ratio * 10_000) / 100:g}%"


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMES_SHOWN_MAX])
    more = len(names) - _NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown
