"""From selected keys to rows on the target: fill the staging tables, apply them, clear entries.

Everything here happens inside one source snapshot, which the caller holds:

    fill       keys and their rows, table by table, into the staging tables
    steady     were the tables read what the snapshot should have seen?
    apply      ONE target transaction over all tables, the lease checked first
    clear      delete exactly the entries that were read

Rows appended to tables without a key are staged and written by the same transaction, and told
from those that are there already by `keyless`.

The target's transaction is one round trip: statements without BEGIN and COMMIT, sent
together, are one transaction, which commits as a whole or leaves nothing behind.
(PostgreSQL manual, protocol flow, "Multiple Statements in a Simple Query".)
If its outcome is not known, the connection is lost, the pass ends here and deletes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import asyncpg

from proxy.catalog.reader import steadiness
from proxy.converge import closure, failure, keyless
from proxy.converge.failure import Changed, Meaning, Rewritten
from proxy.converge.links import Links
from proxy.converge.plan import Plan
from proxy.converge.rows import SourceRefused
from proxy.ledger import entries
from proxy.ledger.lease import Lease, raise_if_lost
from proxy.sql.quote import quote_text

CLOSURE_ROUNDS_MAX = 16
RETRIES_MAX = 5


class Selection(NamedTuple):
    """Keys of one table to converge.

    `keys` is the query for them on the source; `ctids` are the entries that asked for it,
    none when nobody did. Of a keyless table it is all rows appended, and both are empty.
    """

    table: Plan
    keys: str = ""
    ctids: str = "{}"
    entries_count: int = 0


class Attempt(NamedTuple):
    """What became of an attempt: either its keys are staged, written and cleared, or it was refused."""

    rows: Counter[str]  # staged keys, by table
    refusal: Exception | None = None


async def attempt(
    links: Links,
    lease: Lease,
    selections: Sequence[Selection],
    *,
    also: str = "",
    deleter: asyncpg.Connection | None = None,
) -> Attempt:
    """Converge some keys within the snapshot that the caller holds; all of them or none.

    Raises:
        LeaseLost: Nothing was written, or nothing was cleared.
        SourceRefused, asyncpg.PostgresError: A cluster or the network failed; it is not
            known whether the target committed, and no entry was deleted.
    """
    tables = [selection.table for selection in selections]
    appended = [table for table in tables if not table.source.key]
    now = await keyless.moment(links) if appended else None
    try:
        rows = await fill(links, selections, now)
        await require_steady(links, tables)
        if now is not None:
            also += "".join(map(now.remember, appended))
        await apply(links, lease, tables, also=also)
    except failure.REFUSALS as error:
        if failure.meaning(error) is Meaning.LINK:
            raise
        return Attempt(Counter(), error)
    ctids = entries.join(selection.ctids for selection in selections)
    if ctids != "{}":
        await clear(links, lease, ctids, deleter)
    if now is not None:
        for table in appended:
            await entries.delete_appended(deleter or links.writer, lease, table.id, now.snapshot)
    return Attempt(rows)


async def fill(
    links: Links, selections: Iterable[Selection], now: keyless.Moment | None = None
) -> Counter[str]:
    """Stage the selected keys with their rows; return how many keys, by table.

    Args:
        now: Needed where a table has no key.
    """
    rows = Counter[str]()
    for table, keys, _, _ in selections:
        await links.empty(table)
        try:
            if table.source.key:
                rows[table.name] += await links.fill(table, table.select_keys(keys))
            else:
                assert now is not None, "the caller knows which tables are keyless"
                rows[table.name] += await keyless.fill(links, table, now)
        except SourceRefused as error:
            error.table_id = table.id
            raise
    return rows


async def require_steady(links: Links, tables: Sequence[Plan]) -> None:
    """Make sure that the rows just read are those of the snapshot.

    Raises:
        Rewritten: Another transaction moved a table's rows where the snapshot finds none.
        Changed: A table has other columns than the plan.
    """
    found = await steadiness(links.source, [table.source.oid for table in tables])
    for table in tables:
        now = found.get(table.source.oid)
        if now is None or now.fingerprint != table.source.fingerprint:
            raise Changed(f"the columns of {table.name} changed on the source")
        if now.is_rewritten:
            raise Rewritten(f"{table.name} was rewritten or truncated on the source", table.id)


async def unsteady(links: Links, tables: Iterable[Plan]) -> set[int]:
    """Return the ids of the tables that are, in the snapshot, not as they were planned."""
    listed = list(tables)
    found = await steadiness(links.source, [table.source.oid for table in listed])
    prints = {oid: now.fingerprint for oid, now in found.items()}
    return {table.id for table in listed if prints.get(table.source.oid) != table.source.fingerprint}


async def apply(links: Links, lease: Lease, tables: Sequence[Plan], *, also: str = "") -> None:
    """Bring the staged rows of all tables onto the target, in one transaction.

    Args:
        also: SQL that belongs to the same transaction, such as progress.

    Raises:
        LeaseLost: Nothing was written.
        Stricter, asyncpg.PostgresError: Nothing was written; see `failure.meaning`.
    """
    rounds, retries = 0, 0
    while True:
        try:
            await links.target.execute(_transaction(links, lease, tables, also))
            links.emptied(tables)
            return
        except asyncpg.PostgresError as error:
            raise_if_lost(error)
            if failure.meaning(error) is Meaning.RETRY and retries < RETRIES_MAX:
                retries += 1
            elif rounds < CLOSURE_ROUNDS_MAX and await _is_resolved(links, tables, error):
                rounds += 1
            else:
                raise


async def clear(links: Links, lease: Lease, ctids: str, deleter: asyncpg.Connection | None) -> int:
    """Delete the entries whose rows are committed on the target; return how many."""
    return await entries.delete(deleter or links.writer, lease, ctids)


def progress(snapshot: str) -> str:
    """Return the SQL that records how far the mirror has come."""
    text = quote_text(snapshot)
    return f"UPDATE crossfade.state SET progress = {text} WHERE progress IS DISTINCT FROM {text};"


def _transaction(links: Links, lease: Lease, tables: Sequence[Plan], also: str) -> str:
    """Return the whole transaction; parents are written first and deleted last."""
    deferral = "" if links.is_replica else "SET CONSTRAINTS ALL DEFERRED;"
    writings = [links.writing(table) for table in tables]
    deletes = [writing.delete for writing in reversed(writings) if writing.delete]
    upserts = [statement for writing in writings for statement in writing.upserts]
    body = ";".join([*deletes, *upserts])
    return f"{lease.guard(is_target=True)}{deferral}{body};{also}{links.emptying(tables)}"


async def _is_resolved(links: Links, tables: Sequence[Plan], error: asyncpg.PostgresError) -> bool:
    """Return whether closure found the rows that block, so that trying again makes sense."""
    if error.sqlstate not in (failure.UNIQUE_VIOLATION, failure.EXCLUSION_VIOLATION):
        return False
    return await closure.resolve(links, tables, error)
