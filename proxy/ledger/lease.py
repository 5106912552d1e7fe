"""Who runs the engine of a database: one process, fenced by an epoch.

Rule 1: the lease is taken on both clusters, old first, before anything is read. Its
epoch is one above whatever either side has seen.

Rule 2: every target transaction, and every deletion of entries, runs `Lease.guard` first.
It locks the lease's row in share mode, so a takeover waits for transactions in flight,
and it fails once the epoch has moved on. An owner that slept through its own expiry
can therefore commit nothing, whatever it believes.

Rule 3: expiry and heartbeat are only about liveness. An owner is taken for dead when it
missed its heartbeat on either side, or has no backend left on both: a process
that was killed is replaced at once. Being wrong about it costs a retry, never data.

Rule 4: who takes over terminates the backends of the one before, found by their
application_name, so that a stopped process holds no locks that others wait for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import NamedTuple

import asyncpg

from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.errors import LeaseLost, UpstreamRefused
from proxy.ledger.connection import DRIVER_FAILURES, connect

LEASE_S = 3.0  # with a second until the next looks: taken over within 5 s
_NAME_LENGTH_MAX = 63  # NAMEDATALEN - 1: PostgreSQL cuts application_name there


class Lease(NamedTuple):
    """The right to converge a database, good as long as `epoch` is the newest."""

    owner: str
    epoch: int

    @property
    def application_name(self) -> str:
        """What every connection of the owner calls itself, so that a successor finds it."""
        return application_name(self.owner)

    def guard(self, *, is_target: bool) -> str:
        """Return the SQL that ends a transaction of an owner that lost its lease.

        On the target it also refuses to write to the authority: a converger that did not
        notice a switch must not overwrite newer data with the old side's.
        """
        return f"SELECT crossfade.own({self.epoch}, {str(is_target).lower()});"


class _Holder(NamedTuple):
    """What one cluster says about the present owner."""

    owner: str | None
    is_fresh: bool
    has_backends: bool


def new_owner() -> str:
    """Return a name that no process ever had, and that tells an operator where it runs."""
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{secrets.token_hex(4)}"


def application_name(owner: str) -> str:
    """Return the application_name under which an owner must open its connections."""
    return f"crossfade {owner}"[:_NAME_LENGTH_MAX]


async def take(old: asyncpg.Connection, new: asyncpg.Connection, owner: str) -> Lease:
    """Take the lease on both clusters, replacing an owner that is dead.

    The connections must carry `application_name(owner)`, or the next who asks
    takes this owner for dead.

    Raises:
        LeaseLost: Somebody else holds it and is alive; ask again later.
    """
    before = {side: await _holder(side) for side in (old, new)}
    _judge(before[old], before[new], owner)
    for side, holder in before.items():
        if holder.owner not in (None, owner):
            await terminate(side, str(holder.owner))
    try:
        async with old.transaction():
            old_epoch = await _lock(old, before[old])
            async with new.transaction():
                epoch = max(old_epoch, await _lock(new, before[new])) + 1
                await _write(new, owner, epoch)
            await _write(old, owner, epoch)
    except asyncpg.LockNotAvailableError as error:
        raise LeaseLost("the last owner's transaction is still running", hint="ask again") from error
    return Lease(owner, epoch)


async def renew(connection: asyncpg.Connection, lease: Lease) -> None:
    """Say on one cluster that the owner is alive.

    Raises:
        LeaseLost: Somebody else took over.
    """
    done = await connection.execute(
        "UPDATE crossfade.heartbeat SET until = clock_timestamp() + $2::float8 * interval '1 s'"
        " WHERE name = 'engine' AND owner = $1",
        lease.owner,
        LEASE_S,
    )
    if done != "UPDATE 1":
        raise LeaseLost(f"another process took the lease that {lease.owner} held")


async def check(connection: asyncpg.Connection, lease: Lease, *, is_target: bool = False) -> None:
    """Hold the lease until the end of the connection's transaction.

    Raises:
        LeaseLost: Somebody else took over.
    """
    try:
        await connection.execute(lease.guard(is_target=is_target))
    except asyncpg.PostgresError as error:
        raise_if_lost(error)
        raise


def raise_if_lost(error: asyncpg.PostgresError) -> None:
    """Turn a failure of the guard into LeaseLost; return for any other error."""
    if error.sqlstate in ("CF002", "CF003"):
        raise LeaseLost(str(error), hint="stop converging; take the lease again") from error


async def release(connection: asyncpg.Connection, lease: Lease) -> None:
    """Give the lease back on one cluster; the epoch stays used."""
    await connection.execute(
        "UPDATE crossfade.heartbeat SET owner = NULL, until = '-infinity'"
        " WHERE name = 'engine' AND owner = $1",
        lease.owner,
    )


async def keep(lease: Lease, old: Dsn, new: Dsn, *, clock: Clock = now_s) -> None:
    """Renew the lease on both clusters until cancelled.

    An unreachable cluster is tried again, for as long as it takes: what the owner does
    there is fenced, and nobody else can reach it better.

    Raises:
        LeaseLost: Somebody else took over.
    """
    try:
        async with asyncio.TaskGroup() as sides:
            for dsn in (old, new):
                sides.create_task(_keep_side(lease, dsn, clock))
    except ExceptionGroup as group:
        lost, others = group.split(LeaseLost)
        if lost is None or others is not None:
            raise
        raise LeaseLost(f"another process took the lease that {lease.owner} held") from group


async def terminate(connection: asyncpg.Connection, owner: str) -> None:
    """End the connections that a dead owner left behind on this cluster."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = $1 AND pid <> pg_backend_pid()",
        application_name(owner),
    )


async def _keep_side(lease: Lease, dsn: Dsn, clock: Clock) -> None:
    connection: asyncpg.Connection | None = None
    try:
        while True:
            began_s = clock()
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(dsn, application_name=lease.application_name)
                async with asyncio.timeout(LEASE_S):
                    await renew(connection, lease)
            except (UpstreamRefused, *DRIVER_FAILURES):
                if connection is not None:
                    connection.terminate()
                connection = None
            await asyncio.sleep(max(0.1, LEASE_S / 5 - (clock() - began_s)))
    finally:
        if connection is not None:
            connection.terminate()


def _judge(old: _Holder, new: _Holder, owner: str) -> None:
    """Let the lease be taken, or say who holds it.

    Raises:
        LeaseLost: Its owner is alive.
    """
    others = [holder for holder in (old, new) if holder.owner not in (None, owner)]
    if not others:
        return
    if all(holder.is_fresh for holder in others) and any(holder.has_backends for holder in others):
        raise LeaseLost(f"the engine is run by {others[0].owner}")


async def _holder(connection: asyncpg.Connection) -> _Holder:
    row = await connection.fetchrow(
        "SELECT owner, until > clock_timestamp() AS is_fresh, EXISTS (SELECT FROM pg_stat_activity"
        " WHERE application_name = left('crossfade ' || owner, $1)) AS has_backends"
        " FROM crossfade.heartbeat WHERE name = 'engine'",
        _NAME_LENGTH_MAX,
    )
    assert row is not None, "init writes the row in the transaction that creates the table"
    return _Holder(**row)


async def _lock(connection: asyncpg.Connection, seen: _Holder) -> int:
    """Lock the lease against its owner and other candidates; return its epoch.

    Raises:
        LeaseLost: Another candidate was faster.
    """
    await connection.execute("SET LOCAL lock_timeout = '2s'")
    epoch = await connection.fetchval("SELECT epoch FROM crossfade.lease WHERE name = 'engine' FOR UPDATE")
    holder = await connection.fetchval(
        "SELECT owner FROM crossfade.heartbeat WHERE name = 'engine' FOR UPDATE"
    )
    if holder != seen.owner:
        raise LeaseLost(f"{holder} took the lease first")
    return int(epoch)


async def _write(connection: asyncpg.Connection, owner: str, epoch: int) -> None:
    await connection.execute(
        "UPDATE crossfade.lease SET owner = $1, epoch = $2 WHERE name = 'engine'", owner, epoch
    )
    await connection.execute(
        "UPDATE crossfade.heartbeat SET owner = $1, until = clock_timestamp() + $2::float8 * interval '1 s'"
        " WHERE name = 'engine'",
        owner,
        LEASE_S,
    )
