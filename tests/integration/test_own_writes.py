"""A client that writes and then reads finds its write, wherever the read goes, at every phase of a crossing.

The old cluster has a replica that is always late, the new one is as late as its ledger. A part of
the reads comes at once after the write, the rest when a replica or the new cluster may have it.
`make reads` makes 100,000 tries (TRIES=n for others); with the tests there are some hundred.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster, VersionMissing
from tests.running import Running

TRIES = int(os.environ.get("TRIES", "600"))
CLIENTS = 8
DELAY_S = 0.1
SCHEMA = """
CREATE TABLE counter (id int PRIMARY KEY, value int NOT NULL);
INSERT INTO counter SELECT n, 0 FROM generate_series(1, 100) n;
"""
WRITE = "UPDATE counter SET value = value + 1 WHERE id = $1 RETURNING value"
READ = "SELECT value FROM counter WHERE id = $1"
PHASES = [("old", "0%"), ("old", "50%"), ("old", "100%"), ("new", "100%"), ("new", "50%"), ("old", "50%")]


@pytest.fixture(scope="module")
def replica(pg16: Cluster) -> Iterator[Cluster]:
    try:
        cluster = Cluster(16, primary=pg16, settings={"recovery_min_apply_delay": f"{DELAY_S}s"})
    except VersionMissing as missing:
        pytest.skip(str(missing))
    with cluster:
        yield cluster


async def write_and_read(running: Running, number: int, tries: int, seed: int) -> None:
    """One client on rows of its own; every fourth read comes when other servers may have the write."""
    chance = random.Random(f"{seed} {number}")
    client = await asyncpg.connect(running.url(), timeout=30, command_timeout=60)
    try:
        for _ in range(tries):
            key = chance.randrange(number + 1, 101, CLIENTS)
            written = await client.fetchval(WRITE, key)
            if not chance.randrange(4):
                await asyncio.sleep(chance.uniform(0, 3 * DELAY_S))
            found = await client.fetchval(READ, key)
            assert found == written, f"client {number}, row {key}: wrote {written}, read {found}"
    finally:
        client.terminate()


def read_at(running: Running) -> Counter[str]:
    """Return how many reads each destination has answered."""
    latency = running.status()["latency"]
    return Counter({each["destination"]: each["count"] for each in latency if each["kind"] == "read"})


@pytest.mark.timeout(0 if TRIES > 600 else 300)
async def test_own_writes_are_found_at_every_phase(
    pg16: Cluster,
    pg18: Cluster,
    replica: Cluster,
    make_database: Callable[..., str],
    tmp_path: Path,
) -> None:
    old, new = make_database(pg16, SCHEMA), make_database(pg18, SCHEMA)
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    places = {"old": {"primary": old, "replicas": [replica.url(old.rsplit("/", 1)[1])]}}
    with Running(tmp_path, old, new, places) as running:
        running.command("init")
        running.start()
        await running.wait_converged()
        for side, share in PHASES:
            running.database.setdefault("rollout", {})["reads_on_new"] = share
            running.write()
            if running.status()["authority"] != side:
                await running.switch(side)
            await running.wait_for(lambda told, share=share: _is_in_force(told, share))
            tries = TRIES // len(PHASES) // CLIENTS
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(write_and_read(running, number, tries, seed))
        counts = read_at(running)
        print(f"{TRIES} tries, every write was found; reads at {dict(counts)}")
        assert {"old_replica", "new_primary", "old_primary"} <= counts.keys()


def _is_in_force(told: dict[str, object], share: str) -> bool:
    return told["rollout"]["reads_on_new_ratio"] == int(share[:-1]) / 100  # type: ignore[index]
