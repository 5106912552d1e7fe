"""The account at the end: what was counted and compared, and whether all of it is good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.demo.journal import Statistics
from proxy.demo.watch import Verification

_NAMED_MAX = 5


class Findings(NamedTuple):
    """How much is wrong, and some of it by name."""

    total: int
    examples: tuple[str, ...] = ()


class SwitchWait(NamedTuple):
    """What one switch cost."""

    name: str
    longest_wait_s: float
    operation: str  # whose wait it was
    pause_s: float | None  # as the proxy measured it

    def __str__(self) -> str:
        pause = "" if self.pause_s is None else f", writes held for {self.pause_s * 1000:.0f} ms"
        return f"{self.longest_wait_s * 1000:.0f} ms ({self.operation}){pause}"


class Result(NamedTuple):
    """One line of the table; `is_good` is None where nothing is judged."""

    name: str
    value: str
    is_good: bool | None = None


@dataclass(slots=True)
class Account:
    """What is known at the end; None where it did not come to that."""

    switches: list[SwitchWait] = field(default_factory=list)
    verified: Verification | None = None
    compared_rows: int | None = None
    differences: Findings | None = None
    lost: Findings | None = None
    failure: str | None = None

    def is_good(self, load: Statistics) -> bool:
        """Return whether nothing failed, nothing differs and nothing acknowledged is missing."""
        return all(result.is_good is not False for result in self.results(load))

    def results(self, load: Statistics) -> Iterator[Result]:
        """Return the lines of the table."""
        yield Result("statements", f"{load.statements_count:,}")
        yield Result("failures", str(load.failures_count), load.failures_count == 0)
        for reason, count in load.failures:
            yield Result("", f"{count} x {reason}", False)
        for switch in self.switches:
            yield Result(f"longest wait, {switch.name}", str(switch))
        verified = self.verified
        yield Result(
            "rows verified", "never" if verified is None else f"{verified.rows_count:,}", verified is not None
        )
        found = None
        if verified is not None:
            total = len(verified.differences) + verified.pending_count
            found = Findings(total, verified.differences)
        yield from _judged("differences (crossfade verify)", found)
        compared = "never" if self.compared_rows is None else f"{self.compared_rows:,}"
        yield Result("rows compared", compared, self.compared_rows is not None)
        yield from _judged("differences (own comparison)", self.differences)
        yield Result("acknowledged writes", f"{load.writes_count:,}")
        yield from _judged("of these missing", self.lost)
        if self.failure is not None:
            yield Result("stopped early", self.failure.splitlines()[0], False)


def _judged(name: str, found: Findings | None) -> Iterator[Result]:
    """Yield a count that must be zero, and the first few of what was counted."""
    if found is None:
        yield Result(name, "not looked at", False)
        return
    yield Result(name, f"{found.total:,}", found.total == 0)
    for example in found.examples[:_NAMED_MAX]:
        yield Result("", example, False)
