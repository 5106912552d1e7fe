"""Passes that met other transactions: tried again as they are, for splitting them would show halves.

A table that was rewritten, truncated or dropped while its rows were read is left out for once, so
that all others go on together. But nothing is tried for ever: a lock on one table must not hold
up the others, nor a table that changes all the time its own rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from proxy.converge import failure
from proxy.converge.failure import Meaning

COUNT_MAX = 3


class Meetings:
    """What became of the last passes."""

    def __init__(self) -> None:
        self.left_out: set[int] = set()  # of the next pass: table ids
        self._count = 0  # in a row
        self._moved: Counter[int] = Counter()  # the same, by table

    def passed(self, table_ids: Iterable[int]) -> None:
        """Note that a pass was not refused."""
        self._count = 0
        self.left_out = set()
        for table_id in table_ids:
            self._moved.pop(table_id, None)

    def refused(self, refusal: Exception) -> bool:
        """Note a refusal; return whether the pass is to be tried again as it is."""
        moved = failure.moved_table(refusal)
        if moved is not None:
            self._moved[moved] += 1
            self.left_out.add(moved)
            is_to_wait = self._moved[moved] <= COUNT_MAX
        else:
            has_met = failure.meaning(refusal) is Meaning.RETRY
            self._count = self._count + 1 if has_met else 0
            is_to_wait = 0 < self._count <= COUNT_MAX
        if not is_to_wait:
            self.left_out = set()
        return is_to_wait
