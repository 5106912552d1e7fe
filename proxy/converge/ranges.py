"""Converging a key range: backfill, repair, and the whole tables that TRUNCATE leaves behind.

Where the target has no row in the range, rows stream straight into the table. Otherwise they
are staged, and rows that only the target has are looked up by equality in the source's
snapshot before they are deleted: the two sides may sort text differently, so a range says
nothing about absence. Deletes have a budget: an empty or wrong source must not empty the
target.

A table without a key is one range: as many copies of each row as the source has (`keyless`).

A range that is refused is split by keys like any pass; poisonous keys become quarantined
ledger entries, so that the range counts as done and nothing is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import asyncpg

from proxy.catalog.bounds import EVERYTHING, Range, nameless_rows
from proxy.converge import failure, keyless, split
from proxy.converge.apply import RETRIES_MAX, apply, require_steady
from proxy.converge.failure import Meaning
from proxy.converge.links import Links
from proxy.converge.plan import Plan, keys_of_list
from proxy.converge.rows import Into, SourceRefused, pipe
from proxy.errors import DeletesRefused, TablePaused
from proxy.ledger.entries import Key
from proxy.ledger.lease import Lease, raise_if_lost

EXTRAS_MAX = 10_000
_EVERY = 2**31 - 1

Mark = Callable[[int], str]
"""From the number of rows to the SQL that records the range as done."""


class RangeResult(NamedTuple):
    """What converging a range did."""

    rows_count: int
    deleted_count: int = 0
    quarantined_count: int = 0
    is_straight: bool = False


def plan_of(links: Links, table_id: int) -> Plan:
    """Return the plan of a table.

    Raises:
        TablePaused: It has none; the message says why.
    """
    if table_id not in links.plans:
        unknown = f"no mirrored table has the id {table_id} in crossfade.tables"
        raise TablePaused(links.refused.get(table_id, unknown), hint="see `crossfade check`")
    return links.plans[table_id]


async def converge(
    links: Links,
    lease: Lease,
    table: Plan,
    bounds: Range,
    *,
    mark: Mark | None = None,
    deletes_max: int | None,
    deleter: asyncpg.Connection | None = None,
) -> RangeResult:
    """Make a range of the target equal to the source's; see `Converger.converge_range`.

    Args:
        deletes_max: None is without limit.
        deleter: The connection that may write to the ledger while the ledger is locked.
    """
    note = mark or (lambda rows_count: "")
    for _ in range(RETRIES_MAX):
        try:
            async with links.snapshot():
                if not table.source.key:
                    note = await _remembering(links, table, note)
                await _require_names(links, table)
                try:
                    if await links.target.fetchval(table.is_empty(bounds)):
                        straight = await _straight(links, lease, table, bounds, note)
                        if straight is not None:
                            return straight
                    if not table.source.key:
                        return await _compared(links, lease, table, note, deletes_max)
                    return await _staged(links, lease, table, bounds, note, deletes_max)
                except SourceRefused as error:
                    raise_unless_row(table, error)
                    keys = await _keys_unstaged(links, table, bounds, deletes_max)
                except failure.REFUSALS as error:
                    raise_unless_row(table, error)
                    keys = await _keys(links, table, bounds)
        except Again:
            continue
        return await split_up(links, lease, table, keys, deleter=deleter, note=note)
    raise TablePaused(f"{table.name} changes faster than a range of it can be read", hint="it is tried again")


async def _keys(links: Links, table: Plan, bounds: Range) -> list[Key]:
    """Return every key that a refused range is about: the source's, and those only the target has.

    The staging table alone would not do: what the target refused to stage is not in it.
    """
    here = await links.source.fetch(table.range_keys(bounds))
    there = await links.target.fetch(table.staged_keys)
    return [Key(key, "{}") for key in dict.fromkeys(tuple(row["key"]) for row in [*here, *there])]


async def _keys_unstaged(links: Links, table: Plan, bounds: Range, deletes_max: int | None) -> list[Key]:
    """Return the same where the source could not tell some row: nothing, or not all, is staged then."""
    await links.read_on()
    here = [tuple(row["key"]) for row in await links.source.fetch(table.range_keys(bounds))]
    await links.empty(table)
    count_max = _EVERY if deletes_max is None else len(here) + deletes_max + 1
    there = [tuple(row["key"]) for row in await links.target.fetch(table.extras(bounds, count_max))]
    _require_budget(table, len(set(there) - set(here)), deletes_max)
    return [Key(key, "{}") for key in dict.fromkeys([*here, *there])]


async def _remembering(links: Links, table: Plan, note: Mark) -> Mark:
    """Return a mark that also remembers how far a keyless table is."""
    now = await keyless.moment(links)
    return lambda rows_count: now.remember(table) + _statement(note(rows_count))


async def _require_names(links: Links, table: Plan) -> None:
    """Make sure that the key names every row of the source.

    Raises:
        TablePaused: It holds NULL somewhere.
    """
    query = nameless_rows(table.source)
    if query and await links.source.fetchval(query):
        columns = ", ".join(table.source.nullable_key)
        raise TablePaused(
            f"{table.name} has rows whose key ({columns}) is NULL",
            hint="name other columns under tables.key, or give these rows a value",
        )


class Again(Exception):
    """Two transactions met, or the table was rewritten: the same with a new snapshot."""


def raise_unless_row(table: Plan, error: Exception) -> None:
    """Return for an error that splitting by keys will isolate.

    Raises:
        TablePaused: No row of this table can be converged.
    """
    match failure.meaning(error):
        case Meaning.ROW:
            return
        case Meaning.RETRY:
            raise Again from error
        case Meaning.TABLE:
            raise TablePaused(failure.sentence(error), hint="see `crossfade check`") from error
        case Meaning.LINK:
            raise error


@contextmanager
def pausing(table: Plan) -> Iterator[None]:
    """Let what no row of this table gets over pause it, and nothing else: it was dropped, for example.

    Raises:
        TablePaused: Instead of such an error.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if failure.meaning(error) is not Meaning.TABLE:
            raise
        raise TablePaused(failure.sentence(error), hint="see `crossfade check`") from error


async def _straight(links: Links, lease: Lease, table: Plan, bounds: Range, note: Mark) -> RangeResult | None:
    """Stream the range into the table; None: the target refused a row, so it must be staged."""
    into = Into(table.target.schema, table.target.name, list(table.names))
    query = table.select_range(bounds, is_marked=False)
    try:
        await links.target.execute(f"BEGIN; {lease.guard(is_target=True)}")
        rows_count = await pipe(links.source, query, links.target, into, format=table.format)
        await require_steady(links, [table])
        await links.target.execute(f"{note(rows_count)}; COMMIT")
    except failure.REFUSALS as error:
        if links.target.is_closed():
            raise
        await links.target.execute("ROLLBACK")
        if isinstance(error, SourceRefused):
            raise
        if isinstance(error, asyncpg.PostgresError):
            raise_if_lost(error)
        # What cannot be copied into may still be written: a table with row security, say.
        if failure.meaning(error) is not Meaning.TABLE:
            raise_unless_row(table, error)
        return None
    return RangeResult(rows_count, is_straight=True)


async def _staged(
    links: Links, lease: Lease, table: Plan, bounds: Range, note: Mark, deletes_max: int | None
) -> RangeResult:
    await links.empty(table)
    rows_count = await links.fill(table, table.select_range(bounds, is_marked=True))
    if rows_count == 0 and deletes_max is None and bounds == EVERYTHING:
        # The source is empty, as after TRUNCATE: no need to look up every key of the target.
        await require_steady(links, [table])
        await apply(links, lease, [table], also=f"{table.delete_all};{_statement(note(0))}")
        return RangeResult(0)
    await _stage_extras(links, table, bounds, deletes_max)
    deleted_count = int(await links.target.fetchval(table.absent))
    _require_budget(table, deleted_count, deletes_max)
    await require_steady(links, [table])
    await apply(links, lease, [table], also=_statement(note(rows_count)))
    return RangeResult(rows_count, deleted_count)


async def _compared(
    links: Links, lease: Lease, table: Plan, note: Mark, deletes_max: int | None
) -> RangeResult:
    try:
        await links.empty(table)
        rows_count = await links.fill(table, table.select_range(EVERYTHING, is_marked=True))
        deleted_count = int(await links.target.fetchval(keyless.extras(table)))
        _require_budget(table, deleted_count, deletes_max)
        await require_steady(links, [table])
        await keyless.compare(links, lease, table, note(rows_count))
    except failure.REFUSALS as error:
        raise_unless_row(table, error)
        raise TablePaused(failure.sentence(error), hint="see `crossfade check`") from error
    return RangeResult(rows_count, deleted_count)


def _require_budget(table: Plan, deleted_count: int, deletes_max: int | None) -> None:
    if deletes_max is not None and deleted_count > deletes_max:
        raise DeletesRefused(
            f"{deleted_count} or more rows of {table.name} exist on the target only,"
            f" and at most {deletes_max} may be deleted at once",
            hint="check that the source is the right database, then raise mirror.deletes_max",
        )


async def _stage_extras(links: Links, table: Plan, bounds: Range, deletes_max: int | None) -> None:
    """Stage the keys that only the target seems to have, each as the source's snapshot has it.

    Stops when more are to be deleted than may be.
    """
    before: list[tuple[str, ...]] = []
    while True:
        rows = await links.target.fetch(table.extras(bounds, EXTRAS_MAX))
        keys = [tuple(row["key"]) for row in rows]
        # The same again would mean that the two sides do not agree on what equal keys are.
        if not keys or keys == before:
            return
        await links.fill(table, table.select_keys(keys_of_list(keys)))
        before = keys
        if deletes_max is not None and await links.target.fetchval(table.absent) > deletes_max:
            return


async def split_up(
    links: Links,
    lease: Lease,
    table: Plan,
    keys: list[Key],
    *,
    deleter: asyncpg.Connection | None,
    note: Mark = lambda rows_count: "",
) -> RangeResult:
    """Converge keys that were refused as a whole, but the poisonous ones, which are quarantined.

    Raises:
        TablePaused: There were too many of these.
    """
    outcome = split.Outcome()
    await split.bisect(links, lease, table, keys, outcome, deleter)
    if outcome.left_count > outcome.quarantined_count:
        raise TablePaused(
            f"{outcome.quarantined_count} keys of one part of {table.name} were refused:"
            f" {outcome.last_error}",
            hint="see crossfade.ledger.error",
        )
    await links.target.execute(f"{lease.guard(is_target=True)}{note(outcome.rows_count)}")
    return RangeResult(outcome.rows_count, quarantined_count=outcome.quarantined_count)


def _statement(sql: str) -> str:
    return f"{sql.rstrip().rstrip(';')};" if sql.strip() else ""
