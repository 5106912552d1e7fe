"""A cluster is failed over: the proxy follows to the promoted replica, and never goes back by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.running import Running

SCHEMA = "CREATE TABLE item (id int PRIMARY KEY, note text)"


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary of its own, and its replica."""
    with Cluster(16) as primary, Cluster(16, primary=primary) as replica:
        primary.psql("CREATE DATABASE shop")
        primary.psql(SCHEMA, "shop")
        yield primary, replica


async def insert(running: Running, number: int) -> None:
    """Insert a row through the proxy, as soon as that is possible."""
    async with asyncio.timeout(60):
        while True:
            try:
                client = await asyncpg.connect(running.url(), timeout=20)
                try:
                    await client.execute("INSERT INTO item VALUES ($1, 'kept')", number)
                    return
                finally:
                    client.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.1)


async def test_the_promoted_replica_is_the_primary_from_then_on(
    pair: tuple[Cluster, Cluster], pg18: Cluster, make_database: Callable[..., str], tmp_path: Path
) -> None:
    primary, replica = pair
    new = make_database(pg18, SCHEMA)
    running = Running(tmp_path, primary.url("shop"), new)
    running.database["old"]["replicas"] = [replica.url("shop")]
    running.write()
    with running:
        running.command("init")
        running.start()
        await insert(running, 1)
        await running.wait_converged()
        while replica.psql("SELECT count(*) FROM item", "shop").strip() != "1":
            await asyncio.sleep(0.05)
        primary.stop(signal.SIGQUIT)
        replica.psql("SELECT pg_promote()")
        await insert(running, 2)
        assert "a promoted replica is followed" in running.log.read_text()

        primary.start()  # back from the past, as a primary
        await insert(running, 3)
        running.database["pool"] = {"size": 7}  # a reload changes nothing about it
        running.write()
        await running.wait_converged()
        await insert(running, 4)
        assert primary.psql("SELECT max(id) FROM item", "shop").strip() == "1"
        assert replica.psql("SELECT count(*) FROM item", "shop").strip() == "4"
        await running.wait_for(
            lambda _: pg18.psql("SELECT count(*) FROM item", new.rsplit("/", 1)[1]).strip() == "4"
        )
        assert running.stop() == 0

        done = running.command("serve", check=False)  # it knows nothing of the past, and asks
        assert done.returncode == 1 and "are primaries" in done.stderr + running.log.read_text()
        running.database["old"] = {"primary": replica.url("shop")}
        running.write()
        running.start()
        await insert(running, 5)
        assert replica.psql("SELECT count(*) FROM item", "shop").strip() == "5"
