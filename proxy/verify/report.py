"""What a verification found: values that the command, the gate and the report read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.verify.ranges import Difference


class TableReport(NamedTuple):
    """One table. `problem` says why it could not be compared; then nothing else counts."""

    name: str
    rows_count: int = 0  # on the source
    differing: tuple[Difference, ...] = ()
    pending_count: int = 0  # rows that differ, rightly: the ledger names them, or they kept changing
    is_cut_short: bool = False  # more rows differ than are worth listing
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole verification.

    `is_whole` is False when only some of the mirrored tables were asked for: then it
    proves nothing to the gate.
    """

    tables: tuple[TableReport, ...]
    is_whole: bool
    seconds: float

    @property
    def rows_count(self) -> int:
        """Rows compared, counted on the source."""
        return sum(table.rows_count for table in self.tables)

    @property
    def differences_count(self) -> int:
        """Rows that differ and should not; a lower limit where a table was cut short."""
        return sum(len(table.differing) for table in self.tables)

    @property
    def pending_count(self) -> int:
        """Rows whose difference the ledger explains."""
        return sum(table.pending_count for table in self.tables)

    @property
    def problems(self) -> tuple[str, ...]:
        """Tables that could not be compared, each with the reason."""
        return tuple(f"{table.name}: {table.problem}" for table in self.tables if table.problem)

    @property
    def exit_status(self) -> int:
        """0 equal, 1 differences, 2 could not compare."""
        if self.problems:
            return 2
        return 1 if self.differences_count else 0
