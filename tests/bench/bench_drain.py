"""How fast a ledger drains that grew while the mirror was away, and in how much memory.

    python tests/bench/bench_drain.py [ENTRIES] [ROWS]

Every entry names one of the rows at random, as after an outage under writes spread over the
table. The engine is the real converger, between PostgreSQL 16 and 18; passes follow each other
as they do in the engine. An outage of ten minutes at 2,000 writes/s leaves 1.2 million
entries; drained five times faster than it grew means 10,000 entries/s.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psutil

from proxy.demo.clusters import Cluster
from tests.integration.mirrors import Mirror

DDL = "CREATE TABLE rows (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL, note text)"
_BATCH = 200_000


async def fill(mirror: Mirror, entries_count: int, rows_count: int) -> None:
    """Make both sides equal, then write so many entries with the changes that they tell of."""
    await mirror.execute(
        "INSERT INTO rows SELECT n, 'u' || n, 0, repeat('x', n % 100)"
        f" FROM generate_series(1, {rows_count}) n; ANALYZE rows"
    )
    table = mirror.table("rows").id
    for done in range(0, entries_count, _BATCH):
        await mirror.old.execute(
            f"INSERT INTO crossfade.ledger (tbl, key) SELECT {table},"
            f" ARRAY[(1 + random() * {rows_count - 1})::int::text]"
            f" FROM generate_series(1, {min(_BATCH, entries_count - done)})",
            timeout=600,
        )
    await mirror.old.execute(
        "UPDATE rows SET hits = hits + 1 WHERE id::text IN (SELECT key[1] FROM crossfade.ledger)", timeout=600
    )
    await mirror.old.execute("VACUUM rows", timeout=600)


async def drain(mirror: Mirror) -> None:
    """Converge until nothing is left, and say how it went."""
    memory = psutil.Process()
    before = memory.memory_info().rss
    depth = await mirror.entries()
    began_s = time.monotonic()
    entries_count = passes = rows_count = peak = 0
    while True:
        done = await mirror.converger.converge_entries()
        entries_count += done.entries_count
        rows_count += done.rows_count
        passes += 1
        peak = max(peak, memory.memory_info().rss)
        if done.is_complete:
            break
    took_s = time.monotonic() - began_s
    print(
        f"{depth:,} entries, of which {entries_count:,} were read ({rows_count:,} rows) in {passes} passes,"
        f" {took_s:.1f} s: {depth / took_s:,.0f} entries/s; memory {(peak - before) / 2**20:+.0f} MB"
    )
    assert await mirror.differences("rows") == []


async def main(entries_count: int, rows_count: int) -> None:
    with Cluster(16) as old, Cluster(18) as new:
        async with Mirror(old.url(), new.url()) as mirror:
            await mirror.start(DDL)
            await fill(mirror, entries_count, rows_count)
            await drain(mirror)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [1_200_000, 500_000][len(numbers) :])))
