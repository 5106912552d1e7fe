"""Databases come into the configuration of a running proxy, and leave it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.config import digest
from proxy.demo.clusters import Cluster, free_port
from tests.running import Running

SCHEMA = "CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0);"
OWNER = "SELECT owner FROM crossfade.heartbeat WHERE name = 'engine'"

Urls = tuple[str, str]


@pytest.fixture
def other(pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]) -> Urls:
    """The two sides of a second database."""
    return make_database(pg16, SCHEMA), make_database(pg18, SCHEMA)


@pytest.fixture
async def running(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> AsyncIterator[Running]:
    """A proxy that serves one database, and mirrors it."""
    with Running(tmp_path, make_database(pg16, SCHEMA), make_database(pg18, SCHEMA)) as running:
        running.command("init")
        await asyncio.to_thread(running.start)
        await running.wait_converged()
        yield running


async def reload(running: Running, **databases: dict[str, Any] | None) -> dict[str, Any]:
    """Add databases to the file, or take them out (None); return the status when it is in force."""
    for name, section in databases.items():
        if section is None:
            del running.config["databases"][name]
        else:
            running.config["databases"][name] = section
    running.write()
    wanted = digest(running.file.read_text())
    while (told := await asyncio.to_thread(whole, running))["config_digest"] != wanted:
        await asyncio.sleep(0.05)
    assert not told["config_problems"] and not told["needs_restart"]
    return told


def whole(running: Running) -> dict[str, Any]:
    return dict(json.loads(read(running, "/api/status")))


def read(running: Running, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin_port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


async def told_of(running: Running, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the status of a database fulfils a condition."""
    while not condition(told := (await asyncio.to_thread(whole, running))["databases"][name]):
        await asyncio.sleep(0.05)
    return dict(told)


async def init(urls: Urls, folder: Path) -> None:
    """Make a database ready before the running proxy is told of it."""
    await asyncio.to_thread(Running(folder, *urls).command, "init")


def section(urls: Urls, **rollout: str) -> dict[str, Any]:
    return {"old": {"primary": urls[0]}, "new": {"primary": urls[1]}, "auth": "trust", "rollout": rollout}


def nowhere() -> Urls:
    """Return addresses at which nobody answers."""
    return (
        f"postgresql://postgres@127.0.0.1:{free_port()}/old",
        f"postgresql://postgres@127.0.0.1:{free_port()}/new",
    )


def url(running: Running, name: str = "other") -> str:
    return running.url().replace("/app", f"/{name}")


async def connected(running: Running) -> asyncpg.Connection:
    """Return a client of the database that has come, as soon as its clusters have answered."""
    while True:
        try:
            return await asyncpg.connect(url(running))
        except asyncpg.InvalidCatalogNameError:
            await asyncio.sleep(0.02)


async def test_one_that_comes_is_served_mirrored_and_can_be_switched(
    running: Running, other: Urls, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await init(other, tmp_path_factory.mktemp("other"))
    stays = await asyncpg.connect(running.url())
    told = await reload(running, other=section(nowhere()))  # nobody waits for what does not answer
    assert told["databases"]["other"]["authority"] is None
    assert await stays.execute("INSERT INTO users VALUES (1)") == "INSERT 0 1"
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url(running))
    await reload(running, other=None)
    await reload(running, other=section(other))
    client = await connected(running)
    assert await client.execute("INSERT INTO users VALUES (1)") == "INSERT 0 1"
    await told_of(running, "other", lambda told: told["backfill"]["state"] == "complete")
    await told_of(running, "other", lambda told: all(gate["passed"] for gate in told["gates"]))
    await reload(running, other=section(other, writes_on="new"))
    await told_of(running, "other", lambda told: told["authority"] == "new")
    assert await client.execute("UPDATE users SET hits = 7 WHERE id = 1") == "UPDATE 1"
    new = await asyncpg.connect(other[1])
    assert await new.fetchval("SELECT hits FROM users WHERE id = 1") == 7
    assert 'crossfade_authority{cluster="new",database="other"} 1.0' in await asyncio.to_thread(
        read, running, "/metrics"
    )
    assert running.status()["authority"] == "old"
    for connection in (stays, client, new):
        connection.terminate()


async def test_one_that_leaves_is_drained_as_at_a_shutdown(
    running: Running, other: Urls, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await init(other, tmp_path_factory.mktemp("other"))
    await reload(running, other=section(other))
    await told_of(running, "other", lambda told: told["engine"]["owner"] is not None)
    stays = await asyncpg.connect(running.url())
    idle, busy = await connected(running), await connected(running)
    await idle.execute("SELECT 1")
    await busy.execute("BEGIN; INSERT INTO users VALUES (1)")

    told = await reload(running, other=None)
    assert set(told["databases"]) == {"app"}
    assert 'database="other"' not in await asyncio.to_thread(read, running, "/metrics")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url(running))
    assert await busy.execute("INSERT INTO users VALUES (2)") == "INSERT 0 1"
    assert await busy.execute("COMMIT") == "COMMIT"
    for client in (idle, busy):
        while not client.is_closed():
            await asyncio.sleep(0.01)
    old = await asyncpg.connect(other[0])
    assert await old.fetchval("SELECT count(*) FROM users") == 2
    while await old.fetchval(OWNER) is not None:  # the lease is given back
        await asyncio.sleep(0.01)
    assert await stays.execute("INSERT INTO users VALUES (1)") == "INSERT 0 1"

    await reload(running, other=section(other))  # and it comes again
    again = await connected(running)
    assert await again.fetchval("SELECT count(*) FROM users") == 2
    await told_of(running, "other", lambda told: told["engine"]["owner"] is not None)
    await told_of(running, "other", lambda told: told["ledger"]["entries"] == 0)
    for connection in (old, stays, again):
        connection.terminate()
