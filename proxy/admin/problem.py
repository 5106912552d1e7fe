"""What `crossfade check` says: one thing that stands in the way, and what removes it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """Whether a crossing can begin all the same."""

    ERROR = "error"  # it cannot: something would fail or be lost
    WARNING = "warning"  # it can; something will be slower, or needs a look later


class Problem(NamedTuple):
    """One problem; `table` is None where it concerns a whole server or user."""

    database: str
    table: str | None
    reason: str
    remedy: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = self.database if self.table is None else f"{self.database}, table {self.table}"
        return f"{self.severity}: {where}: {self.reason}; remedy: {self.remedy}"
