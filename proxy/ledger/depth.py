"""How much is in the ledger: counted while it is small, estimated from a sample of pages when not.

Gates, metrics and the throttle look every half second. To count ten million entries each time
would keep a core of the authority busy; what they decide by such a number needs no digits.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

_PAGES_MAX = 4096
"""Pages that one look reads: 32 MB, about 400,000 entries."""

_SIZE = "SELECT pg_relation_size('crossfade.ledger') / current_setting('block_size')::int"

_COUNT = """
SELECT tbl, count(*) AS entries_count,
       count(DISTINCT key) FILTER (WHERE attempts > 0) AS quarantined,
       extract(epoch FROM clock_timestamp() - min(at))::float8 AS age_s
  FROM crossfade.ledger {sample} GROUP BY tbl
"""


class Depth(NamedTuple):
    """How much is in the ledger: by table id, and the age of the oldest entry.

    `is_estimate`: the counts of entries are; keys in quarantine and the age are then what
    the sample shows, so there may be more.
    """

    entries: dict[int, int]
    quarantined: dict[int, int]
    oldest_s: float
    is_estimate: bool = False


async def depth(connection: asyncpg.Connection, pages_max: int = _PAGES_MAX) -> Depth:
    """Return the depth now."""
    pages = int(await connection.fetchval(_SIZE))
    share = min(1.0, pages_max / max(pages, 1))
    sample = f"TABLESAMPLE SYSTEM ({share * 100:.6f})" if share < 1.0 else ""
    rows = await connection.fetch(_COUNT.format(sample=sample))
    return Depth(
        entries={row["tbl"]: round(row["entries_count"] / share) for row in rows},
        quarantined={row["tbl"]: row["quarantined"] for row in rows if row["quarantined"]},
        oldest_s=max((row["age_s"] for row in rows), default=0.0),
        is_estimate=share < 1.0,
    )
