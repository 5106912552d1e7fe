"""What a COPY FROM costs when it is captured, and how its rows come to the mirror.

    python tests/bench/bench_copy.py [ROWS] [SMALL_COPIES]

Rows of about 60 bytes with a key of their own are copied into a table that holds a tenth as many:
all at once, and then a hundred at a time in ascending and in random order. `direct` goes past the
proxy, `captured` through it; they take turns, and the best of three counts.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from proxy.demo.clusters import Cluster
from tests.running import DATABASE, Running

SCHEMA = "CREATE TABLE rows (id bigint PRIMARY KEY, n int NOT NULL, at timestamptz NOT NULL, note text)"
SMALL = 100
TURNS = 3


def lines(keys: list[int]) -> bytes:
    """Return rows in COPY's text format."""
    return b"".join(
        b"%d\t%d\t2024-01-01 00:00:00+00\tsomething to remember\n" % (key, key % 97) for key in keys
    )


def copied_s(client: psycopg.Connection, parts: list[bytes]) -> float:
    """Return how long it took to copy all parts, each by a statement of its own."""
    began_s = time.perf_counter()
    for part in parts:
        with client.cursor().copy("COPY rows FROM STDIN") as copy:
            for at in range(0, len(part), 65_536):
                copy.write(part[at : at + 65_536])
    return time.perf_counter() - began_s


class Bench:
    """Two ways to one database, and the keys that are still free."""

    def __init__(self, urls: dict[str, str], first: int) -> None:
        self._clients = {way: psycopg.connect(url, autocommit=True) for way, url in urls.items()}
        self._next = first

    def compare(self, title: str, rows_count: int, parts_count: int, *, is_random: bool = False) -> None:
        """Print the rows per second of each way, and what they are of direct."""
        best: dict[str, float] = {}
        for _ in range(TURNS):
            for way, client in self._clients.items():
                keys = list(range(self._next, self._next + rows_count * parts_count))
                self._next += len(keys)
                if is_random:
                    keys = [random.getrandbits(62) for _ in keys]
                cuts = range(0, len(keys), rows_count)
                took_s = copied_s(client, [lines(keys[at : at + rows_count]) for at in cuts])
                best[way] = min(best.get(way, took_s), took_s)
        for way, took_s in best.items():
            per_s = rows_count * parts_count / took_s
            print(f"{title:<36} {way:<9} {per_s:>11,.0f} rows/s   {best['direct'] / took_s:.2f}")


async def main(rows_count: int, copies_count: int) -> None:
    fill = (
        f"INSERT INTO rows SELECT n, 0, now(), repeat('x', 30) FROM generate_series(1, {rows_count // 10}) n"
    )
    with Cluster(16) as old, Cluster(18) as new, tempfile.TemporaryDirectory() as folder:
        for cluster in (old, new):
            cluster.psql(f"CREATE DATABASE {DATABASE}")
            cluster.psql(SCHEMA, DATABASE)
        old.psql(fill, DATABASE)
        with Running(Path(folder), old.url(DATABASE), new.url(DATABASE)) as captured:
            captured.command("init")
            captured.start()
            await captured.wait_converged(timeout_s=600)
            bench = Bench({"direct": old.url(DATABASE), "captured": captured.url()}, 10 * rows_count)
            bench.compare(f"one COPY of {rows_count:,} rows", rows_count, 1)
            bench.compare(f"{copies_count} of {SMALL}, ascending", SMALL, copies_count)
            bench.compare(f"{copies_count} of {SMALL}, random keys", SMALL, copies_count, is_random=True)
            began_s = time.monotonic()
            print("ledger:", captured.status()["ledger"]["entries"], "entries")
            await captured.wait_converged(timeout_s=600)
            print(f"converged after another {time.monotonic() - began_s:.1f} s")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [1_000_000, 300][len(numbers) :])))
