"""Whether a cluster is still the one it was: a failover may have lost what had been committed.

A standby that is promoted while it lags behind lacks the newest commits, and with them

    on the source   writes that the target has already, together with their entries
    on the target   rows whose entries are deleted already

Either way rows differ and no entry says so. But a promoted standby, like a server restored
from an archive, begins a new timeline. So the timelines of both sides that the mirror was
converged under are kept on the target; where they are others now, every table is compared.
"""

from __future__ import annotations

import asyncpg

from proxy.ledger import entries

# The identity is the cluster's; its timeline is in the name of the WAL file that it writes.
_LINEAGE = """
SELECT system_identifier || ':' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
  FROM pg_control_system()
"""


async def follow(writer: asyncpg.Connection, target: asyncpg.Connection) -> bool:
    """Write table entries if one of the clusters is not the one it was; return whether it is so.

    The entries come first: if what follows is lost, they are written again.
    """
    here, there = await _read(writer), await _read(target)
    if here is None or there is None:
        return False
    now = f"{here} {there}"
    before = await target.fetchval("SELECT lineage FROM crossfade.state")
    if now == before:
        return False
    if before is not None:
        await writer.execute("SET synchronous_commit = on")
        await entries.add_tables(writer)
        await writer.execute("SET synchronous_commit = off")
    await target.execute("UPDATE crossfade.state SET lineage = $1", now)
    return before is not None


async def _read(connection: asyncpg.Connection) -> str | None:
    """Return who the cluster is; None where it cannot say: it may not be PostgreSQL's own."""
    try:
        return str(await connection.fetchval(_LINEAGE))
    except asyncpg.PostgresError:
        if connection.is_closed():
            raise
        return None
