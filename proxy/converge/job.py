"""What one pass does about the entries of one table that may take several passes.

`walks` converges what they name range by range, `stamps` searches the table's files for it.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from proxy.catalog.bounds import Range
from proxy.converge import ranges
from proxy.converge.links import Links
from proxy.converge.plan import Plan
from proxy.converge.ranges import RangeResult
from proxy.converge.split import Outcome
from proxy.ledger import entries
from proxy.ledger.lease import Lease
from proxy.ledger.reading import Batch


class Job(NamedTuple):
    """The entries, what to work with, and the outcome of the pass that it adds to.

    `ledger_file` is the file that the batch's ctids are of; `until_s` is when the pass should end.
    """

    links: Links
    lease: Lease
    table: Plan
    batch: Batch
    ledger_file: int
    outcome: Outcome
    deleter: asyncpg.Connection | None
    until_s: float

    @property
    def writer(self) -> asyncpg.Connection:
        """Where entries are read again and deleted."""
        return self.deleter or self.links.writer

    async def converge(self, bounds: Range) -> RangeResult:
        """Converge a range of the table's keys."""
        done = await ranges.converge(
            self.links, self.lease, self.table, bounds, deletes_max=None, deleter=self.deleter
        )
        self.add(done)
        return done

    def add(self, done: RangeResult) -> None:
        """Count what was converged, and what was put aside."""
        self.outcome.rows[self.table.name] += done.rows_count
        self.outcome.quarantined_count += done.quarantined_count
        self.outcome.left_count += done.quarantined_count

    async def clear(self, ctids: str, *, ledger_file: int) -> int:
        """Delete entries that are converged; return how many there were."""
        cleared = await entries.delete(self.writer, self.lease, ctids, ledger_file=ledger_file)
        self.outcome.entries_count += cleared
        return cleared

    def leave(self, cleared_count: int = 0) -> None:
        """Leave the batch, but for what was cleared, to the next pass."""
        self.outcome.left_count += self.batch.entries_count - cleared_count
