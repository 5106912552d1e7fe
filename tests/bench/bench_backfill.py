"""Backfill of a table against the raw pipe `psql COPY | psql COPY`, in one run on one machine.

    python tests/bench/bench_backfill.py [rows] [rounds]

The two take turns; of each the fastest round counts, planning included for backfill. The
goal is a ratio of at least 0.7: what backfill adds (chunks, snapshots, progress, the lease)
should cost less than a third.
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import subprocess
import sys
import time

from proxy.backfill.backfill import Backfill
from proxy.config.dsn import Dsn
from proxy.config.model import Backfill as Settings
from proxy.config.model import Tables
from proxy.converge.engine import Converger
from proxy.demo.clusters import Cluster, binaries
from proxy.ledger import lease as leases
from proxy.ledger import schema
from proxy.ledger.connection import connect

SHAPE = """
CREATE TABLE t (id bigint PRIMARY KEY, tenant int NOT NULL, email text NOT NULL, payload text,
    created timestamptz NOT NULL DEFAULT now(), amount numeric(12,2), active bool)
"""
FILL = """
INSERT INTO t SELECT i, i % 100, 'user' || i || '@example.com', repeat(md5(i::text), 3), now(), i * 1.1,
    i % 2 = 0 FROM generate_series(1, {rows}) i;
VACUUM ANALYZE t;
"""


def raw(old: Cluster, new: Cluster) -> float:
    """Return the seconds that the raw pipe takes."""
    psql = binaries(16) / "psql"
    began_s = time.perf_counter()
    out = subprocess.Popen([psql, "-Xqc", "COPY t TO STDOUT", old.url("app")], stdout=subprocess.PIPE)
    subprocess.run([psql, "-Xqc", "COPY t FROM STDIN", new.url("app")], stdin=out.stdout, check=True)
    assert out.wait() == 0
    return time.perf_counter() - began_s


async def backfill(old: Cluster, new: Cluster) -> float:
    """Return the seconds that the backfill takes, from the first plan to the last chunk."""
    source, target, tables = Dsn.parse(old.url("app")), Dsn.parse(new.url("app")), Tables()
    here, there = await connect(source), await connect(target)
    await schema.init(here, there, tables)
    lease = await leases.take(here, there, leases.new_owner())
    converger = Converger(source, target, lease=lease, tables=tables)
    filling = Backfill(source, target, converger, tables=tables, settings=Settings())
    began_s = time.perf_counter()
    steps_count = 0
    while (result := await filling.step()) is not None:
        steps_count += 1
        if os.environ.get("STEPS"):
            print(f"  {time.perf_counter() - began_s:.3f} {result}")
    seconds = time.perf_counter() - began_s
    await filling.close()
    await converger.close()
    for connection in (here, there):
        await leases.release(connection, lease)
        await connection.close()
    print(f"  {steps_count} steps")
    return seconds


def main() -> None:
    """Run both in turn and print the ratio."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with Cluster(16) as old, Cluster(18) as new:
        for cluster in (old, new):
            cluster.psql("CREATE DATABASE app")
            cluster.psql(SHAPE, "app")
        old.psql(FILL.format(rows=rows), "app")
        raw_s, backfill_s = [], []
        for _ in range(rounds):
            raw_s.append(raw(old, new))
            print(f"raw pipe  {raw_s[-1]:.2f} s  {rows / raw_s[-1]:,.0f} rows/s")
            new.psql("TRUNCATE t; CHECKPOINT", "app")
            profile = cProfile.Profile() if os.environ.get("PROFILE") else None
            if profile:
                profile.enable()
            backfill_s.append(asyncio.run(backfill(old, new)))
            if profile:
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(15)
            print(f"backfill  {backfill_s[-1]:.2f} s  {rows / backfill_s[-1]:,.0f} rows/s")
            assert new.psql("SELECT count(*) FROM t", "app").strip() == str(rows)
            new.psql("TRUNCATE t, crossfade.chunk; CHECKPOINT", "app")
        print(f"ratio {min(raw_s) / min(backfill_s):.2f} (goal 0.70)")


if __name__ == "__main__":
    main()
