"""Reading what the throttle judges: one query to each side, a flag file and the configuration."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from proxy.backfill.throttle import Limits, Signals
from proxy.clock import Clock
from proxy.config.model import Backfill as Settings

# Lag is in write-ahead log that a replica has not replayed, in time; NULL where it has.
# A login without pg_monitor sees neither lag nor the activity of others: unknown, not zero.
_SOURCE = """
SELECT (SELECT max(extract(epoch FROM replay_lag))::float8 FROM pg_stat_replication) AS replica_lag_s,
       (SELECT (count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid())
               / current_setting('max_connections')::float8)
          FROM pg_stat_activity WHERE backend_type = 'client backend') AS source_busy_ratio,
       (SELECT count(*) FROM (SELECT FROM crossfade.ledger LIMIT $1) AS head) AS ledger_entries_count
"""
# A write and its commit, as every run needs them.
_TARGET = "UPDATE crossfade.heartbeat SET until = until WHERE name = 'backfill'"


def limits(settings: Settings) -> Limits:
    """Return the throttle's limits as configured."""
    return Limits(
        replica_lag_max_s=settings.max_lag_s,
        target_latency_max_s=settings.target_latency_max_s,
        ledger_entries_max=settings.ledger_entries_max,
        flag_file=settings.flag_file or "",
    )


def is_flagged(settings: Settings) -> bool:
    """Return whether the flag file exists."""
    return settings.flag_file is not None and Path(settings.flag_file).exists()


async def read(
    source: asyncpg.Connection, target: asyncpg.Connection, settings: Settings, clock: Clock
) -> Signals:
    """Return what is known about both clusters now."""
    # Beyond twice the limit nothing changes, so the count goes no further.
    here = await source.fetchrow(_SOURCE, 2 * settings.ledger_entries_max)
    assert here is not None, "a SELECT without FROM returns one row"
    asked_s = clock()
    await target.execute(_TARGET)
    return Signals(
        replica_lag_s=here["replica_lag_s"],
        source_busy_ratio=here["source_busy_ratio"],
        target_latency_s=clock() - asked_s,
        ledger_entries_count=here["ledger_entries_count"],
        is_paused=settings.pause,
        is_flagged=is_flagged(settings),
    )
