"""The new cluster goes away under load: clients see no error, the ledger grows, then drains.

How long clients waited is printed, never asserted: a machine's noise would decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.demo.clusters import Cluster
from tests.chaos.writers import SCHEMA, Writer, children, contents, missing
from tests.running import DATABASE, Running

OUTAGE_S = float(os.environ.get("OUTAGE_S", "30"))


@pytest.mark.timeout(280)
@pytest.mark.parametrize("how", ["crashed", "stopped"])
async def test_clients_do_not_notice_that_the_new_cluster_is_gone(
    tmp_path: Path, pg16: Cluster, make_database: Callable[..., str], how: str
) -> None:
    old = make_database(pg16, SCHEMA)
    with Cluster(18) as cluster:
        cluster.psql(f"CREATE DATABASE {DATABASE}")
        cluster.psql(SCHEMA.replace("INSERT INTO", "-- INSERT INTO"), DATABASE)
        with Running(tmp_path, old, cluster.url(DATABASE)) as running:
            running.command("init")
            running.start()
            await running.wait_converged()
            writers = [Writer(n, running.url(), random.Random(n), False) for n in range(4)]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(stop))
                await asyncio.sleep(5)
                gone_s = time.monotonic()
                _go(cluster, how)
                await asyncio.sleep(OUTAGE_S if how == "crashed" else OUTAGE_S / 3)
                grown = await running.wait_for(lambda told: told["ledger"]["entries"] > 0)
                back_s = time.monotonic()
                _come_back(cluster, how)
                await asyncio.sleep(3)
                stop.set()
            assert not [failure for writer in writers for failure in writer.failures]
            await running.wait_converged(timeout_s=120)
            assert await missing(cluster.url(DATABASE), writers) == []
            assert contents(pg16, old) == contents(cluster, cluster.url(DATABASE))
        waits = [wait for writer in writers for wait in writer.waits_s]
        during = [seconds for at_s, seconds in waits if gone_s <= at_s < back_s]
        before = [seconds for at_s, seconds in waits if at_s < gone_s]
        assert during, "no write was answered while the new cluster was gone"
        entries = grown["ledger"]["entries"]
        print(f"ledger grew to {entries}; waits before {_told(before)}, during {_told(during)}")


def _go(cluster: Cluster, how: str) -> None:
    if how == "crashed":
        cluster.stop(signal.SIGQUIT)
    else:
        _signal_all(cluster, signal.SIGSTOP)


def _come_back(cluster: Cluster, how: str) -> None:
    if how == "crashed":
        cluster.start()
    else:
        _signal_all(cluster, signal.SIGCONT)


def _signal_all(cluster: Cluster, number: signal.Signals) -> None:
    """Signal the postmaster, then its backends, which are in sessions of their own."""
    for pid in (cluster.pid, *children(cluster.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _told(waits_s: list[float]) -> str:
    quantiles = statistics.quantiles(waits_s, n=100)
    return f"{len(waits_s)} p50 {quantiles[49] * 1000:.1f} p99 {quantiles[98] * 1000:.1f} ms"
