"""How the engine's connections are opened, and what is pinned on them.

Rule 1: values leave one cluster and enter the other as text or in binary form, so every
setting that changes a value's text, or what a name means, is the same on both sides.

Rule 2: `crossfade.engine` tells capture triggers that these changes are the mirror's own.

Rule 3: a target commit must be durable before ledger entries are deleted for it, so
synchronous_commit is on there; a deletion that is lost in a crash only repeats work.

Rule 4: nothing waits for ever. Each await has the connection's command timeout, and a
server-side limit ends a transaction whose client has gone.

Extensions may live in any schema, and their operators (the = of citext, say) are found
by search_path only. So the schemas of extensions are on it, after pg_catalog; tables are
always written with their schema.
"""

from __future__ import annotations

import asyncio

import asyncpg

from proxy.config.dsn import Dsn
from proxy.errors import UpstreamRefused
from proxy.sql.quote import quote_name
from proxy.tls import contexts

COMMAND_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0

# InternalClientError is what the driver says when a connection ended while it was idle.
DRIVER_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Whatever can go wrong with a connection."""


def raise_if_cancelled() -> None:
    """Let a cancellation through that the driver has turned into a failure of its own.

    If a connection is lost in the very moment in which its task is cancelled, the end of a
    transaction raises InterfaceError in place of the cancellation. A loop that tries again
    after failures would take it for one of them, and never end.

    Not for a task that waits for TaskGroups: up to Python 3.12 these may leave it counted as
    cancelled (CPython issue 116720).

    Raises:
        CancelledError: The task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


_PINNED = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "row_security": "off",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "5min",
    "client_min_messages": "error",
    "jit": "off",
    "crossfade.engine": "on",
}

_EXTENSION_SCHEMAS = """
SELECT DISTINCT n.nspname FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname <> 'pg_catalog' ORDER BY 1
"""


async def connect(dsn: Dsn, *, application_name: str = "crossfade") -> asyncpg.Connection:
    """Open a connection with the engine's settings; the caller must close it.

    Raises:
        UpstreamRefused: The server cannot be reached, or refused the login.
    """
    opening = asyncio.get_running_loop().create_task(_open(dsn, application_name))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        _unwanted.add(opening)
        opening.add_done_callback(_drop)
        raise


_unwanted: set[asyncio.Future[asyncpg.Connection]] = set()
"""Being opened for callers who were cancelled. The driver cannot be cancelled within the first steps of
a connect without leaving a future behind that nobody reads; its own time-out bounds it."""


def _drop(opening: asyncio.Future[asyncpg.Connection]) -> None:
    _unwanted.discard(opening)
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


async def _open(dsn: Dsn, application_name: str) -> asyncpg.Connection:
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            dsn.url(),
            ssl=contexts.for_driver(dsn),
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": application_name},
        )
    except DRIVER_FAILURES as error:
        raise UpstreamRefused(f"cannot connect to {dsn}: {str(error) or type(error).__name__}") from error
    try:
        await connection.execute("".join(f"SET {name} = '{value}';" for name, value in _PINNED.items()))
        schemas = [row["nspname"] for row in await connection.fetch(_EXTENSION_SCHEMAS)]
        await connection.execute(f"SET search_path = {', '.join(['pg_catalog', *map(quote_name, schemas)])}")
    except BaseException:
        connection.terminate()
        raise
    return connection


async def become_replica(connection: asyncpg.Connection) -> bool:
    """Switch off foreign keys and triggers for this session; return whether the role may.

    It needs a superuser, or from PostgreSQL 15 on
    `GRANT SET ON PARAMETER session_replication_role TO ...`.
    """
    try:
        await connection.execute("SET session_replication_role = replica")
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True
