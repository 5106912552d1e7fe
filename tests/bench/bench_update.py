"""What an UPDATE of many rows costs: the client, the ledger, and the way to the mirror.

    python tests/bench/bench_update.py [ROWS] [OF]

The first ROWS of OF rows are updated by one statement, direct and in the form in which the proxy
sends it, best of three; then the real converger brings the last of these to the mirror.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psutil

from proxy.capture.splice import splice
from proxy.demo.clusters import Cluster
from proxy.sql.classify import parse
from tests.integration.mirrors import Mirror

DDL = "CREATE TABLE rows (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL, note text)"
TURNS = 3


async def took_s(mirror: Mirror, sql: str) -> float:
    """Return how long a statement took; before it, all is vacuumed."""
    await mirror.old.execute("TRUNCATE crossfade.ledger")
    await mirror.old.execute("VACUUM rows", timeout=600)
    began_s = time.monotonic()
    await mirror.old.execute(sql, timeout=600)
    return time.monotonic() - began_s


async def update(mirror: Mirror, rows_count: int) -> None:
    """Update the rows, and say what the ledger adds."""
    text = f"UPDATE rows SET hits = hits + 1 WHERE id <= {rows_count}"
    (statement,) = parse(text)
    captured = splice(text, statement, mirror.table("rows"), None, mirror.catalogs[0].server_version).text
    best = dict.fromkeys((text, captured), float("inf"))
    for _ in range(TURNS):
        for sql in best:
            best[sql] = min(best[sql], await took_s(mirror, sql))
    size = await mirror.old.fetchval("SELECT pg_size_pretty(pg_relation_size('crossfade.ledger'))")
    direct_s, captured_s = best.values()
    print(f"UPDATE of {rows_count:,} rows: direct {direct_s:.1f} s, captured {captured_s:.1f} s:"
          f" {direct_s / captured_s:.2f} of direct; ledger {size}")  # fmt: skip


async def converge(mirror: Mirror) -> None:
    """Converge until nothing is left, and say how it went."""
    memory = psutil.Process()
    before = peak = memory.memory_info().rss
    began_s = time.monotonic()
    entries_count = passes = 0
    is_complete = False
    while not is_complete:
        done = await mirror.converger.converge_entries()
        passes, entries_count, is_complete = passes + 1, entries_count + done.entries_count, done.is_complete
        peak = max(peak, memory.memory_info().rss)
    print(f"converged in {time.monotonic() - began_s:.1f} s, {passes} passes, {entries_count:,} entries read,"
          f" memory {(peak - before) / 2**20:+.0f} MB")  # fmt: skip
    assert await mirror.differences("rows") == []


async def main(rows_count: int, table_count: int) -> None:
    with Cluster(16) as old, Cluster(18) as new:
        async with Mirror(old.url(), new.url()) as mirror:
            await mirror.start(DDL)
            await mirror.execute(
                "INSERT INTO rows SELECT n, 'u' || n, 0, repeat('x', n % 100)"
                f" FROM generate_series(1, {table_count}) n; ANALYZE rows"
            )
            await update(mirror, rows_count)
            await converge(mirror)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [1_000_000, 3_000_000][len(numbers) :])))
