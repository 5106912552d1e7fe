"""Small tables that are to be compared as a whole join the pass.

A table is walked range by range, each as of a snapshot of its own, so the mirror is of no one
snapshot until the walk is over and what was written meanwhile has come. For a large table that
is how it must be. All keys of a small one are just as many keys as a pass takes anyway: with
them it is converged in the pass's transaction, as of the pass's snapshot.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    whole = {batch.table_id: batch for batch in work.walks if _may_join(links, batch)}
    if not whole:
        return work
    known = {selection.table.id: selection for selection in work.selections}
    selections, left = [], [batch for batch in work.walks if batch.table_id not in whole]
    # In this order all tables are read, also by `fill`: who truncates several has a chance to have the same.
    for table_id, table in links.plans.items():
        own, batch = known.get(table_id), whole.get(table_id)
        keys = await _keys(links, table) if batch is not None else None
        if batch is not None and keys is not None:
            ctids = entries.join((own.ctids, batch.ctids)) if own is not None else batch.ctids
            count = batch.entries_count + (own.entries_count if own is not None else 0)
            selections.append(Selection(table, keys, ctids, count))
            continue
        if own is not None:
            await _source(links, table, f"SELECT FROM {only(table.source)} LIMIT 0")
            selections.append(own)
        if batch is not None:
            left.append(batch)
    return work._replace(selections=selections, walks=left)


def _may_join(links: Links, batch: Batch) -> bool:
    source = links.plans[batch.table_id].source
    return batch.kind == "t" and bool(source.key) and not source.nullable_key


async def _keys(links: Links, table: Plan) -> str | None:
    """Return the query for all keys of both sides; None if they are too many."""
    few = f"SELECT count(*) FROM (SELECT FROM {only(table.source)} LIMIT {ROWS_MAX + 1}) few"
    if await _source(links, table, few) > ROWS_MAX:
        return None
    there = await links.target.fetch(table.target_keys(ROWS_MAX + 1))
    if len(there) > ROWS_MAX:
        return None
    own = table.range_keys(EVERYTHING)
    return f"{own} UNION ALL {keys_of_list([tuple(row['key']) for row in there])}" if there else own


async def _source(links: Links, table: Plan, query: str) -> Any:
    try:
        return await links.source.fetchval(query)
    except asyncpg.PostgresError as error:
        raise SourceRefused(error, table.id) from error
