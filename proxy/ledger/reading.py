"""Reading the ledger, at most so many entries at a time.

A key that holds NULL names no row, so such an entry counts as one for the whole table.

Usually that is all of it. While there is more, as after an outage, each pass goes on where the
last one stopped, so that none scans what others have left behind.

Where an entry lies says nothing about when it commits: those of a long transaction appear
behind the place that reading has come to. So only a pass that began at the first page and met
the last can have read the ledger whole, and behind the last page comes the first again.

A failed key waits in quarantine until `retry_at`. Newer entries of the same key wait with it,
or one poisonous row under constant writes would stop every pass. Who waits is looked for in
the whole ledger; while that is deep, only now and then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

ENTRIES_MAX = 50_000
_WAITING_MAX = 5_000
_FIRST = (0, 0)

# One statement, one snapshot: the entries, who waits in quarantine, and the snapshot's name.
# $3 is who waits, if that is known; $4 which announced statements have ended.
_READ = """
WITH waiting AS MATERIALIZED (
    SELECT DISTINCT tbl, kind, key FROM crossfade.ledger WHERE $3::jsonb IS NULL AND retry_at > now()
    UNION ALL
    SELECT (w ->> 0)::int, (w ->> 1)::"char", CASE WHEN w -> 2 <> 'null' THEN
           ARRAY(SELECT jsonb_array_elements_text(w -> 2)) END
      FROM jsonb_array_elements($3::jsonb) w),
ready AS MATERIALIZED (
    SELECT ctid, tbl, at, CASE WHEN kind = 'c' AND key[1] = ANY ($4) THEN 't'
           WHEN kind = 'k' AND array_position(key, NULL) > 0 THEN 't' ELSE kind END AS kind
      FROM crossfade.ledger
     WHERE ctid > $2::tid AND (retry_at IS NULL OR retry_at <= now())
       AND (tbl, kind, key) NOT IN (SELECT tbl, kind, key FROM waiting)
     LIMIT $1),
found AS (
    SELECT tbl, kind::text AS kind, count(*) AS entries_count, array_agg(ctid)::text AS ctids,
           min(at) AS since, max(ctid) AS last
      FROM ready GROUP BY tbl, kind
    UNION ALL
    SELECT tbl, 'waiting', count(*), '{}', NULL, NULL FROM waiting GROUP BY tbl)
SELECT pg_current_snapshot()::text AS snapshot, pg_relation_filenode('crossfade.ledger')::int8 AS file,
       f.tbl, f.kind, f.entries_count, f.ctids, f.last,
       extract(epoch FROM clock_timestamp() - f.since)::float8 AS age_s
  FROM (VALUES (1)) one LEFT JOIN found f ON true
"""

_WAITING = f"""
SELECT jsonb_agg(jsonb_build_array(tbl, kind, key))::text AS listed, count(*) AS count
  FROM (SELECT DISTINCT tbl, kind, key FROM crossfade.ledger WHERE retry_at > now() LIMIT {_WAITING_MAX}) w
"""


class Batch(NamedTuple):
    """Entries of one table and kind; `ctids` is the text of a tid[]."""

    table_id: int
    kind: str
    entries_count: int
    ctids: str


class Entries(NamedTuple):
    """What one snapshot of the ledger holds.

    `ledger_file` is what their ctids are good for (`entries.ledger_file`). `waiting` counts
    quarantined keys by table id. `is_whole` is False when there may be more
    entries than these.
    """

    snapshot: str
    ledger_file: int
    batches: tuple[Batch, ...]
    waiting: dict[int, int]
    is_whole: bool
    oldest_s: float

    @property
    def entries_count(self) -> int:
        """Entries that are due."""
        return sum(batch.entries_count for batch in self.batches)


class Reader:
    """Reads the ledger pass by pass; lives as long as the lease, without which places mean nothing."""

    def __init__(self) -> None:
        self._place: tuple[int, int] = _FIRST  # the last entry that was read
        self._waiting: str | None = None  # while deep: who waits, as of the last look

    @property
    def is_deep(self) -> bool:
        """Whether the next pass goes on in the middle."""
        return self._place != _FIRST

    async def read(
        self, connection: asyncpg.Connection, entries_max: int | None = None, *, ended: Sequence[str] = ()
    ) -> Entries:
        """Return due entries, as the connection's snapshot sees them.

        Args:
            ended: Tokens of announced statements that had ended before the snapshot was taken
                (`entries.read_ended`): their entries count as table entries.
        """
        limit = ENTRIES_MAX if entries_max is None else entries_max
        began = self._place
        rows = await connection.fetch(_READ, limit, began, self._waiting, ended)
        due = [row for row in rows if row["tbl"] is not None and row["kind"] != "waiting"]
        if sum(row["entries_count"] for row in due) < limit:
            self.start_over()
        else:
            self._place = max(row["last"] for row in due)
            if self._waiting is None:
                self._waiting = await _listed(connection)
        return _entries(rows, due, is_whole=began == self._place == _FIRST)

    def look_again(self) -> None:
        """Look for who waits at the next reading: somebody was put aside."""
        self._waiting = None

    def start_over(self) -> None:
        """Begin at the first page again."""
        self._place, self._waiting = _FIRST, None


def _entries(rows: Sequence[asyncpg.Record], due: Sequence[asyncpg.Record], *, is_whole: bool) -> Entries:
    return Entries(
        snapshot=rows[0]["snapshot"],
        ledger_file=rows[0]["file"],
        batches=tuple(Batch(row["tbl"], row["kind"], row["entries_count"], row["ctids"]) for row in due),
        waiting={row["tbl"]: row["entries_count"] for row in rows if row["kind"] == "waiting"},
        is_whole=is_whole,
        oldest_s=max((row["age_s"] or 0.0 for row in rows), default=0.0),
    )


async def _listed(connection: asyncpg.Connection) -> str | None:
    """Return who waits; None when there are too many to be told with every reading."""
    row = await connection.fetchrow(_WAITING)
    assert row is not None, "an aggregate returns one row"
    return (row["listed"] or json.dumps([])) if row["count"] < _WAITING_MAX else None
