"""Finding what is poisonous in a refused pass, and putting only that aside.

Tables are tried one by one, parents first. A table that cannot be written at all is paused.
One that refuses some row is split in halves until a key stands alone: that key goes to
quarantine in the source's ledger, with the reason. (Without a key no row can stand alone: the
table's entries give way to one for all of it.) Every half is an attempt with its
own snapshot, later than the one that read the entries, so it contains them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from proxy.converge import failure
from proxy.converge.apply import Attempt, Selection, attempt
from proxy.converge.failure import Meaning
from proxy.converge.links import Links
from proxy.converge.plan import Plan, keys_of_entries, keys_of_list
from proxy.ledger import entries
from proxy.ledger.entries import Key
from proxy.ledger.lease import Lease

QUARANTINED_KEYS_MAX = 100
"""Per pass and table: where everything fails, finding out key by key must end."""


@dataclass(slots=True)
class Outcome:
    """What splitting achieved. `left_count` counts entries that were not converged."""

    rows: Counter[str] = field(default_factory=Counter)  # by table
    entries_count: int = 0
    left_count: int = 0
    quarantined_count: int = 0
    paused: dict[int, str] = field(default_factory=dict)
    last_error: str | None = None

    @property
    def rows_count(self) -> int:
        """Rows of all tables."""
        return self.rows.total()

    def add_attempt(self, done: Attempt, entries_count: int) -> None:
        """Count an attempt, if it was not refused."""
        if done.refusal is None:
            self.rows += done.rows
            self.entries_count += entries_count

    def add(self, other: Outcome) -> None:
        """Count what a later step achieved."""
        self.rows += other.rows
        self.entries_count += other.entries_count
        self.left_count += other.left_count
        self.quarantined_count += other.quarantined_count
        self.paused |= other.paused
        self.last_error = other.last_error or self.last_error


async def isolate(
    links: Links, lease: Lease, selections: Sequence[Selection], deleter: asyncpg.Connection | None
) -> Outcome:
    """Converge what can be converged of a pass that was refused as a whole."""
    outcome = Outcome()
    for selection in selections:
        async with links.snapshot():
            done = await attempt(links, lease, [selection], deleter=deleter)
        outcome.add_attempt(done, selection.entries_count)
        if done.refusal is None:
            continue
        outcome.last_error = failure.sentence(done.refusal)
        match failure.meaning(done.refusal):
            case Meaning.ROW if not selection.table.source.key:
                await entries.widen(deleter or links.writer, lease, selection.table.id)
                outcome.left_count += selection.entries_count
            case Meaning.ROW:
                keys = await entries.read_keys(deleter or links.writer, selection.ctids)
                await bisect(links, lease, selection.table, keys, outcome, deleter)
            case Meaning.TABLE:
                outcome.paused[selection.table.id] = outcome.last_error
                outcome.left_count += selection.entries_count
            case _:
                outcome.left_count += selection.entries_count
    return outcome


async def bisect(
    links: Links,
    lease: Lease,
    table: Plan,
    keys: list[Key],
    outcome: Outcome,
    deleter: asyncpg.Connection | None = None,
) -> None:
    """Converge all keys but the poisonous ones, which are quarantined; count into `outcome`.

    The keys were refused as a whole before.
    """
    parts = [keys]
    limit = outcome.quarantined_count + QUARANTINED_KEYS_MAX
    while parts:
        part = parts.pop()
        if outcome.quarantined_count >= limit:
            outcome.left_count += len(part)
            continue
        async with links.snapshot():
            done = await attempt(links, lease, [_selection(table, part)], deleter=deleter)
        outcome.add_attempt(done, len(part))
        if done.refusal is None:
            continue
        if failure.meaning(done.refusal) is not Meaning.ROW:
            outcome.left_count += len(part)
        elif len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
        else:
            outcome.last_error = failure.sentence(done.refusal)
            outcome.quarantined_count += 1
            outcome.left_count += 1
            await _quarantine(links, lease, table, part[0], outcome.last_error, deleter)


def _selection(table: Plan, keys: Sequence[Key]) -> Selection:
    """Return the selection of keys that have entries, or of keys that only we hold."""
    ctids = entries.join(key.ctids for key in keys)
    query = keys_of_entries(ctids) if ctids != "{}" else keys_of_list([key.key for key in keys])
    return Selection(table, query, ctids, len(keys))


async def _quarantine(
    links: Links, lease: Lease, table: Plan, key: Key, error: str, deleter: asyncpg.Connection | None
) -> None:
    writer = deleter or links.writer
    if key.ctids != "{}":
        await entries.quarantine(writer, lease, key.ctids, error)
    else:
        await entries.add_quarantined(writer, lease, table.id, [key.key], error)
