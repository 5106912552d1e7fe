"""Who is the authority, and the two halves of moving it.

    resign    on the authority, in the transaction that holds the ledger's lock
    reign     on the other side, one transaction: the decision

Between the two nobody is the authority. `resign` leaves a note, `switching`, from which
whoever takes the lease next finishes the switch or takes it back (`reign` again on the
side that resigned).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from proxy.ledger.schema import set_fence


@dataclass(frozen=True, slots=True)
class State:
    """What one cluster says about the reign.

    `progress` is on the mirror: the source snapshot up to which it holds every write.
    `switching` is the note of a switch that has fenced and not yet decided.
    """

    is_authority: bool
    epoch: int
    progress: str | None
    switching: Mapping[str, Any] | None


async def read_state(connection: asyncpg.Connection) -> State:
    """Return this cluster's state.

    Raises:
        asyncpg.UndefinedTableError: `crossfade init` has not run here.
    """
    return await _read(connection, "")


async def read_certain_state(connection: asyncpg.Connection) -> State:
    """Return this cluster's state once no change of it is in flight.

    A commit whose sender lost patience may still land: whoever decides by the state alone
    could read it just before.

    Raises:
        asyncpg.LockNotAvailableError: One is in flight and takes long; ask again.
    """
    return await _read(connection, "FOR SHARE")


async def _read(connection: asyncpg.Connection, locking: str) -> State:
    row = await connection.fetchrow(
        f"SELECT is_authority, epoch, progress, switching FROM crossfade.state {locking}"
    )
    assert row is not None, "init writes the row in the transaction that creates the table"
    switching = json.loads(row["switching"]) if row["switching"] is not None else None
    return State(row["is_authority"], row["epoch"], row["progress"], switching)


async def longest_write(connection: asyncpg.Connection) -> tuple[int, float] | None:
    """Return the backend whose open transaction has written captured rows and is oldest, and its age in s.

    The drain would wait for it in vain: a lock of its kind is kept until the transaction ends.
    """
    row = await connection.fetchrow(
        "SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s"
        " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE l.relation = 'crossfade.ledger'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted"
        " AND a.datname = current_database() AND a.pid <> pg_backend_pid()"
        " ORDER BY a.xact_start LIMIT 1"
    )
    return (row["pid"], row["age_s"]) if row is not None else None


async def lock_ledger(connection: asyncpg.Connection, *, timeout_s: float) -> None:
    """Wait until no captured write is in flight, and keep new ones out until the transaction ends.

    Every captured write holds ROW EXCLUSIVE on the ledger until its commit is visible,
    so this is an exact drain of all proxies, known or not.

    Raises:
        asyncpg.LockNotAvailableError: Writes were in flight for all of `timeout_s`; the
            transaction is aborted, and writers queue no longer behind it.
    """
    await connection.execute(f"SET LOCAL lock_timeout = {int(timeout_s * 1000)}")
    await connection.execute("LOCK TABLE crossfade.ledger IN EXCLUSIVE MODE")


async def resign(connection: asyncpg.Connection, note: Mapping[str, Any]) -> None:
    """Stop being the authority when the caller's transaction commits: the fence."""
    await connection.execute(
        "UPDATE crossfade.state SET is_authority = false, progress = NULL, switching = $1::jsonb",
        json.dumps(note),
    )
    await set_fence(connection, is_open=False)


async def reign(connection: asyncpg.Connection, epoch: int) -> None:
    """Become the authority when the caller's transaction commits: the decision.

    Progress is forgotten: from now on it is the other side that follows, and a snapshot
    of one cluster says nothing about another.
    """
    await connection.execute(
        "UPDATE crossfade.state SET is_authority = true, epoch = $1, progress = NULL, switching = NULL", epoch
    )
    await set_fence(connection, is_open=True)


async def follow(connection: asyncpg.Connection, epoch: int) -> None:
    """On the side that resigned, after the decision: note that the switch is over."""
    await connection.execute(
        "UPDATE crossfade.state SET epoch = $1, switching = NULL WHERE NOT is_authority", epoch
    )
