"""A reader of the mirror sees only states that were: money is whole, and orders match their lines.

    make chaos MINUTES=15 ARGS='-k consistency'     looks for so long

Clients write in every way there is, and nothing fails: that is the campaign's. Each look is one
statement, so one snapshot of the mirror.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.chaos import workload
from tests.chaos.workload import Composer
from tests.running import Running
from tests.seeds import seeds

COMPOSERS, READERS = 4, 2
MINUTES = float(os.environ.get("MINUTES", "0"))
TRANSACTIONS_MIN = 60


class Reader:
    """Looks at the mirror again and again; `states` are those of the source that it saw."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.looks = 0
        self.states: set[str] = set()
        self.broken: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop."""
        reader = await asyncpg.connect(self._url)
        while not stop.is_set():
            self.broken += [row[0] for row in await reader.fetch(workload.BROKEN)]
            self.states.add(await reader.fetchval("SELECT progress FROM crossfade.state"))
            self.looks += 1
            await asyncio.sleep(0.01)
        await reader.close()


@pytest.mark.timeout(600 + MINUTES * 120)
@pytest.mark.parametrize("seed", seeds())
async def test_a_reader_of_the_mirror_sees_only_states_that_were(
    seed: int, tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    print(f"SEED={seed}")
    old = make_database(pg16, workload.SOURCE + workload.PARTITIONED)
    new = make_database(pg18, workload.TABLES + workload.PARTITIONED)
    with Running(tmp_path, old, new) as running:
        running.command("init")
        running.start()
        await running.wait_converged(timeout_s=180)
        composers = [Composer(n, running.url(), random.Random(f"{seed} {n}")) for n in range(COMPOSERS)]
        readers = [Reader(new) for _ in range(READERS)]
        stop, quiet, until_s = asyncio.Event(), asyncio.Event(), time.monotonic() + MINUTES * 60
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.run(quiet))
            async with asyncio.TaskGroup() as clients:
                for composer in composers:
                    clients.create_task(composer.run(stop))
                while (
                    time.monotonic() < until_s
                    or sum(composer.done_count for composer in composers) < TRANSACTIONS_MIN
                ):
                    await asyncio.sleep(0.1)
                stop.set()
            # Clients have made tables all the time, and each is planned and copied by itself.
            await running.wait_converged(timeout_s=180 + MINUTES * 60)
            quiet.set()
        print(
            f"{sum(composer.done_count for composer in composers)} transactions,"
            f" {sum(reader.looks for reader in readers)} looks at"
            f" {len(set.union(*(reader.states for reader in readers)))} states"
        )
        assert sorted({broken for reader in readers for broken in reader.broken}) == []
        assert sorted({failure for composer in composers for failure in composer.failures}) == []
