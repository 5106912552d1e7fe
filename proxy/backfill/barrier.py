"""Before the first chunk: wait for every transaction that may have written unseen.

Capture begins while transactions are open that began without it. What they wrote is in no
ledger and, until they commit, in no snapshot, so a chunk that is copied now would lack it
for ever. Therefore whoever holds a writer's lock on a table when backfill begins is noted,
and nothing is copied before all of them have ended. This is how CREATE INDEX CONCURRENTLY
waits (PostgreSQL, `WaitForLockers` in lmgr.c). Readers, a pg_dump say, are not waited for.
"""

from __future__ import annotations

import asyncpg

# A lock that is waited for counts: its statement was sent, and will write when it gets it.
_WRITERS = """
SELECT array_agg(DISTINCT l.virtualtransaction) AS writers
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE l.locktype = 'relation' AND c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'crossfade')
   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


class Barrier:
    """The transactions that backfill waits for; capture must be on before it is asked first."""

    def __init__(self) -> None:
        self._writers: set[str] | None = None  # None: not noted yet

    async def left_count(self, source: asyncpg.Connection) -> int:
        """Return how many of those noted at the first call are still open; 0 lets backfill begin."""
        if self._writers == set():
            return 0
        open_now = set(await source.fetchval(_WRITERS) or ())
        self._writers = open_now if self._writers is None else self._writers & open_now
        return len(self._writers)
