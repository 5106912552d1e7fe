"""`mirror.ack: sync`, and the fences against writers that bypass the proxy."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.roles import ensure_roles
from tests.running import Running

SCHEMA = "CREATE TABLE t (id int PRIMARY KEY, a int)"


async def test_with_sync_acks_a_commit_is_on_the_mirror_when_the_client_learns_of_it(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    new = make_database(pg18, SCHEMA)
    changes = {"mirror": {"ack": "sync", "ack_timeout": "20s"}}
    with Running(tmp_path, make_database(pg16, SCHEMA), new, changes) as running:
        running.command("init")
        running.start()
        await running.wait_for(lambda told: told["backfill"]["state"] == "complete")
        client = await asyncpg.connect(running.url())
        mirror = await asyncpg.connect(new)
        for number in range(30):
            await client.execute("INSERT INTO t VALUES ($1, $1)", number)
            assert await mirror.fetchval("SELECT a FROM t WHERE id = $1", number) == number
        async with client.transaction():
            await client.execute("UPDATE t SET a = a + 1000")
            await client.execute("DELETE FROM t WHERE id = 0")
        assert await mirror.fetchval("SELECT min(a) FROM t") == 1001
        await client.close()
        await mirror.close()


async def test_a_mirror_that_is_down_delays_a_sync_ack_by_its_timeout_and_no_longer(
    tmp_path: Path, pg16: Cluster, make_database: Callable[..., str]
) -> None:
    with Cluster(18) as cluster:
        cluster.psql("CREATE DATABASE app")
        cluster.psql(SCHEMA, "app")
        changes = {"mirror": {"ack": "sync", "ack_timeout": "300ms"}}
        with Running(tmp_path, make_database(pg16, SCHEMA), cluster.url("app"), changes) as running:
            running.command("init")
            running.start()
            await running.wait_for(lambda told: told["backfill"]["state"] == "complete")
            cluster.stop(signal.SIGQUIT)
            client = await asyncpg.connect(running.url())
            # The statement succeeds; that it took the 300 ms is what ack_timeout is for.
            for number in range(3):
                await client.execute("INSERT INTO t VALUES ($1, $1)", number, timeout=20)
            assert await client.fetchval("SELECT count(*) FROM t") == 3
            await client.close()


@pytest.mark.parametrize(
    ("fence", "user", "refusal"),
    [
        ("read_only", "postgres", asyncpg.ReadOnlySQLTransactionError),
        ("nologin", "bypasser", asyncpg.InvalidAuthorizationSpecificationError),
    ],
)
async def test_a_writer_that_bypasses_the_proxy_is_kept_out_of_the_fenced_side(
    tmp_path: Path,
    pg16: Cluster,
    pg18: Cluster,
    make_database: Callable[..., str],
    fence: str,
    user: str,
    refusal: type[Exception],
) -> None:
    for cluster in (pg16, pg18):
        ensure_roles(cluster, "bypasser")
    sides = {"old": make_database(pg16, SCHEMA), "new": make_database(pg18, SCHEMA)}
    users = [{"name": name, "auth": "trust"} for name in ("postgres", "bypasser")]
    users = users if fence == "read_only" else users[1:]
    changes = {"fence": fence, "users": users}
    with Running(tmp_path, sides["old"], sides["new"], changes) as running:
        running.command("init")
        running.start()
        for to, other in (("new", "old"), ("old", "new")):
            await running.switch(to)
            with pytest.raises(refusal):
                await _write_directly(sides[other].replace("postgres@", f"{user}@"))
            await _write_directly(sides[to])


async def _write_directly(url: str) -> None:
    writer = await asyncpg.connect(url)
    try:
        await writer.execute("CREATE TABLE made_directly (); DROP TABLE made_directly")
    finally:
        await writer.close()
