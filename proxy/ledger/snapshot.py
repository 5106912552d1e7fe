"""Comparing snapshots, as `pg_current_snapshot()` prints them: `xmin:xmax:xip,xip,...`.

A transaction is visible in a snapshot when it committed before the snapshot was taken:
its id is below xmax and not in the list of those in progress. (PostgreSQL manual,
"Transaction ID and Snapshot Information Functions".)

The mirror's progress is the source snapshot of its last complete pass. A session that
remembers a snapshot taken after its own commit may read the mirror as soon as the
progress dominates it.
"""

from __future__ import annotations

from typing import NamedTuple


class Snapshot(NamedTuple):
    """A parsed snapshot; ids are 64 bits wide and never wrap."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    def sees(self, xid: int) -> bool:
        """Return whether a transaction that committed counts as visible."""
        return xid < self.xmax and xid not in self.in_progress


def parse(text: str) -> Snapshot:
    """Return the parts of a snapshot.

    Raises:
        ValueError: The text is no snapshot.
    """
    xmin, xmax, in_progress = text.split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(map(int, filter(None, in_progress.split(",")))))


def dominates(later: str, earlier: str) -> bool:
    """Return whether every transaction visible in `earlier` is visible in `later`.

    Both must come from the same cluster. PostgreSQL's xmax is one above the newest
    completed transaction, so a smaller xmax always misses something.
    """
    if later == earlier:
        return True
    newer, older = parse(later), parse(earlier)
    if newer.xmax < older.xmax:
        return False
    return all(xid >= older.xmax or xid in older.in_progress for xid in newer.in_progress)
