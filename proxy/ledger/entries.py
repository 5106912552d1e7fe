"""Deleting and quarantining ledger entries.

Rule 1: entries are known by their ctid. That is exact because only the owner of the
lease deletes or updates them, and because the transaction that read them stays open
until they are deleted: its lock keeps VACUUM FULL from moving rows, and vacuum
frees no ctid that was not deleted first.

Rule 2: an entry is deleted only when the snapshot that read it also read the rows which
are now committed on the target. Never by key, by time, or "all of this table".

Rule 3: entries of a table may give way to one that names the whole table, or a range that holds
their keys, if that is written by the transaction that deletes them: what may differ is still known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import asyncpg

from proxy.ledger.lease import Lease, check, raise_if_lost
from proxy.sql.quote import quote_text

LOCK_CLASS = 1128678477
"""The first key of the advisory locks that announced statements hold; the second is the token."""
_RETRY_S_MAX = 60
_WIDEN_PAGES = 5_000  # about half a million entries
_ERROR_LENGTH_MAX = 1000


class Key(NamedTuple):
    """A key that has entries, with the ctids of all of them."""

    key: tuple[str, ...]
    ctids: str


async def read_ended(connection: asyncpg.Connection) -> list[str]:
    """Return the tokens of announced statements (`capture.announce`) that have ended.

    The order counts: an entry that is seen has its lock, so without a lock its statement is over.
    """
    found = await connection.fetch("SELECT DISTINCT key[1] FROM crossfade.ledger WHERE kind = 'c'")
    running = await connection.fetch(_RUNNING, LOCK_CLASS)
    return list({row[0] for row in found} - {row[0] for row in running})


_RUNNING = "SELECT objid::int8::text FROM pg_locks WHERE locktype = 'advisory' AND classid::int8 = $1"


async def is_empty(connection: asyncpg.Connection) -> tuple[bool, str]:
    """Return whether the ledger is empty, and the snapshot that says so, in one round trip."""
    row = await connection.fetchrow(
        "SELECT NOT EXISTS (SELECT FROM crossfade.ledger) AS is_empty,"
        " pg_current_snapshot()::text AS snapshot"
    )
    assert row is not None, "a SELECT without FROM returns one row"
    return row["is_empty"], row["snapshot"]


async def read_keys(
    connection: asyncpg.Connection, ctids: str, *, ledger_file: int | None = None
) -> list[Key]:
    """Return the keys of some entries one by one: for splitting a batch, never on the usual way.

    Args:
        ledger_file: As for `delete`; of another file there are none.
    """
    rows = await connection.fetch(
        f"SELECT key, array_agg(ctid)::text AS ctids FROM crossfade.ledger"
        f" WHERE ctid = ANY('{ctids}'::tid[]){same_file(ledger_file)} GROUP BY key"
    )
    return [Key(tuple(row["key"] or ()), row["ctids"]) for row in rows]


def join(ctids: Iterable[str]) -> str:
    """Return one tid[] text of several."""
    return "{" + ",".join(inner for text in ctids if (inner := text[1:-1])) + "}"


def deletion(ctids: str) -> str:
    """Return the SQL that deletes exactly these entries."""
    return f"DELETE FROM crossfade.ledger WHERE ctid = ANY('{ctids}'::tid[])"


def same_file(ledger_file: int | None) -> str:
    """Return the condition that the ledger still is a file: it is another once it was rewritten."""
    return "" if ledger_file is None else f" AND pg_relation_filenode('crossfade.ledger') = {ledger_file}"


async def delete(
    connection: asyncpg.Connection, lease: Lease, ctids: str, *, ledger_file: int | None = None
) -> int:
    """Delete entries that are converged; return how many there were.

    One implicit transaction, or part of the caller's. It need not be durable: entries that
    a crash brings back are converged again.

    Args:
        ledger_file: Delete only if the ledger still is that file; needed when no transaction
            has held it since the ctids were read.

    Raises:
        LeaseLost: Somebody else owns the engine, and these ctids may mean other entries by now.
    """
    return await _guarded(connection, lease, deletion(ctids) + same_file(ledger_file))


async def delete_appended(connection: asyncpg.Connection, lease: Lease, table_id: int, snapshot: str) -> int:
    """Delete the entries for appended rows that a snapshot of the source sees; return how many.

    Rule 2 by other means: the snapshot is the very one that read the rows.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    seen = f"pg_visible_in_snapshot(key[4]::xid8, {quote_text(snapshot)}::pg_snapshot)"
    return await _guarded(
        connection,
        lease,
        f"DELETE FROM crossfade.ledger WHERE tbl = {int(table_id)} AND kind = 'a' AND {seen}",
    )


async def discard(connection: asyncpg.Connection, lease: Lease, table_id: int) -> int:
    """Delete all entries of a table that is mirrored no more; return how many.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    return await _guarded(connection, lease, f"DELETE FROM crossfade.ledger WHERE tbl = {int(table_id)}")


async def pages_count(connection: asyncpg.Connection) -> int:
    """Return how many pages the ledger has."""
    return int(
        await connection.fetchval(
            "SELECT pg_relation_size('crossfade.ledger') / current_setting('block_size')::int"
        )
    )


async def widen(connection: asyncpg.Connection, lease: Lease, table_id: int) -> int:
    """Let one entry for the whole table take the place of a table's entries by row; return how many.

    The ledger goes through it a stretch of pages at a time, each in a transaction of its own:
    before and after every one of them, all that may differ is in the ledger.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    count = 0
    for page in range(0, await pages_count(connection), _WIDEN_PAGES):
        async with connection.transaction():
            await check(connection, lease)
            count += await connection.fetchval(
                "WITH gone AS (DELETE FROM crossfade.ledger WHERE tbl = $1 AND kind IN ('k', 'a')"
                " AND retry_at IS NULL AND ctid >= $2::tid AND ctid < $3::tid RETURNING 1),"
                " wide AS (INSERT INTO crossfade.ledger (tbl, kind) SELECT $1, 't' FROM gone LIMIT 1)"
                " SELECT count(*) FROM gone",
                table_id,
                (page, 0),
                (page + _WIDEN_PAGES, 0),
            )
    return count


async def quarantine(connection: asyncpg.Connection, lease: Lease, ctids: str, error: str) -> int:
    """Put entries aside for a while that grows with every attempt; return how many.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    return await _guarded(
        connection,
        lease,
        "UPDATE crossfade.ledger SET attempts = attempts + 1,"
        f" error = {quote_text(error[:_ERROR_LENGTH_MAX])}, retry_at = {_RETRY_AT}"
        f" WHERE ctid = ANY('{ctids}'::tid[])",
    )


async def add_quarantined(
    connection: asyncpg.Connection, lease: Lease, table_id: int, keys: Sequence[Sequence[str]], error: str
) -> None:
    """Write entries for keys that failed outside of the ledger, while copying a range."""
    await _guarded(
        connection,
        lease,
        "INSERT INTO crossfade.ledger (tbl, key, attempts, error, retry_at)"
        f" SELECT {int(table_id)}, ARRAY(SELECT jsonb_array_elements_text(k)), 1,"
        f" {quote_text(error[:_ERROR_LENGTH_MAX])}, clock_timestamp() + interval '1 s'"
        f" FROM jsonb_array_elements({quote_text(json.dumps([list(key) for key in keys]))}::jsonb) k",
    )


async def add_tables(connection: asyncpg.Connection) -> None:
    """Write an entry for every mirrored table, after a time in which nothing was captured."""
    await connection.execute("INSERT INTO crossfade.ledger (tbl, kind) SELECT id, 't' FROM crossfade.tables")


async def vacuum(connection: asyncpg.Connection) -> None:
    """Free the room of deleted entries, so that scans stay short.

    The file's empty end is cut off only when the ledger is empty and the file large: that
    takes a lock on which writers would wait, for the moment the cut takes.
    """
    pages, is_empty = await connection.fetchrow(  # type: ignore[misc]
        "SELECT pg_relation_size('crossfade.ledger') / current_setting('block_size')::int,"
        " NOT EXISTS (SELECT FROM crossfade.ledger)"
    )
    cut = "true" if is_empty and pages > _PAGES_LARGE else "false"
    await connection.execute(f"VACUUM (TRUNCATE {cut}, INDEX_CLEANUP false) crossfade.ledger")


_PAGES_LARGE = 1000

# Half a second at first, doubling to a minute, with jitter so that retries do not come in step.
_RETRY_AT = (
    f"clock_timestamp() + least({_RETRY_S_MAX}, 0.5 * 2 ^ least(attempts, 10)) * (0.75 + random() / 2)"
    " * interval '1 s'"
)


async def _guarded(connection: asyncpg.Connection, lease: Lease, statement: str) -> int:
    try:
        done = await connection.execute(lease.guard(is_target=False) + statement)
    except asyncpg.PostgresError as error:
        raise_if_lost(error)
        raise
    return int(done.rpartition(" ")[2])
