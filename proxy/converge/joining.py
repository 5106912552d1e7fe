"""Small tables that are to be compared as a whole join the pass.

A table is walked range by range, each as of a snapshot of its own, so the mirror is of no one
snapshot until the walk is over and what was written meanwhile has come. For a large table that
is how it must be. All keys of a small one are just as many keys as a pass takes anyway: with
them it is converged in the pass's transaction, as of the pass's snapshot.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from proxy.catalog.bounds import EVERYTHING
from proxy.converge.apply import Selection
from proxy.converge.links import Links
from proxy.converge.plan import Plan, keys_of_list, only
from proxy.converge.rows import SourceRefused
from proxy.ledger import entries
from proxy.ledger.reading import Batch

ROWS_MAX = 5_000


class Work(NamedTuple):
    """What a pass is going to do with the entries that it read."""

    selections: list[Selection]
    walks: list[Batch]
    paused: dict[int, str]
    left_count: int
    has_rest: bool  # the snapshot's ledger holds more, or may

    @property
    def entries_count(self) -> int:
        """How many entries it is about."""
        return sum(each.entries_count for each in self.selections) + sum(
            each.entries_count for each in self.walks
        )

    @property
    def is_all(self) -> bool:
        """Whether the selections are everything that the snapshot's ledger holds."""
        return not (self.has_rest or self.walks)


async def join(links: Links, work: Work) -> Work:
    """Return the work with the small tables among the selections, and not among the walks.

    To be called within the pass's snapshot.

    Raises:
        SourceRefused, asyncpg.PostgresError: A table could not be read; see `failure.meaning`.
    """
    joined = {selection.table.id: selection for selection in work.selections}
    left = []
    for batch in work.walks:
        table = links.plans[batch.table_id]
        can_join = batch.kind == "t" and table.source.key and not table.source.nullable_key
        keys = await _keys(links, table) if can_join else None
        if keys is None:
            left.append(batch)
            continue
        ctids, count = batch.ctids, batch.entries_count
        if (known := joined.get(table.id)) is not None:  # its keys are among them
            ctids, count = entries.join((known.ctids, ctids)), count + known.entries_count
        joined[table.id] = Selection(table, keys, ctids, count)
    selections = [joined[table_id] for table_id in links.plans if table_id in joined]
    return work._replace(selections=selections, walks=left)


async def _keys(links: Links, table: Plan) -> str | None:
    """Return the query for all keys of both sides; None if they are too many."""
    few = f"SELECT count(*) FROM (SELECT FROM {only(table.source)} LIMIT {ROWS_MAX + 1}) few"
    try:
        if await links.source.fetchval(few) > ROWS_MAX:
            return None
    except asyncpg.PostgresError as error:
        raise SourceRefused(error, table.id) from error
    there = await links.target.fetch(table.target_keys(ROWS_MAX + 1))
    if len(there) > ROWS_MAX:
        return None
    own = table.range_keys(EVERYTHING)
    return f"{own} UNION ALL {keys_of_list([tuple(row['key']) for row in there])}" if there else own
