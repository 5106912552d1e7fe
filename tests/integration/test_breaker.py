"""Reads leave the new cluster by themselves while it fails, and come back by steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from proxy.demo.clusters import Cluster
from tests.running import Running

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY);
CREATE FUNCTION score() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
"""
MENDED = "CREATE OR REPLACE FUNCTION score() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'"
# Something that only the new cluster gets wrong: an extension that is missing, a plan that fails.
BROKEN = MENDED.replace("SELECT 1'", "SELECT 1 / count(*)::int FROM users'")


async def read_until(running: Running, client: asyncpg.Connection, is_reached: Callable[[Any], bool]) -> Any:
    """Read without a pause until the status shows something; return it, and how many reads failed."""
    failures = 0
    while True:
        for _ in range(20):
            try:
                await client.fetchval("SELECT score()")
            except asyncpg.PostgresError:
                failures += 1
        told = (await running.wait_for(lambda _: True))["rollout"]
        if is_reached(told):
            return told, failures


async def test_errors_of_the_new_cluster_move_its_reads_back_until_it_is_mended(
    pg16: Cluster, pg18: Cluster, make_database: Callable[..., str], tmp_path: Path
) -> None:
    old, new = make_database(pg16, SCHEMA), make_database(pg18, SCHEMA)
    rollout = {"reads_on_new": "100%", "breaker": {"rest": "200ms", "window": "1s"}}
    with Running(tmp_path, old, new, {"rollout": rollout}) as running:
        running.command("init")
        running.start()
        await running.wait_converged()
        client, beside = await asyncpg.connect(running.url()), await asyncpg.connect(new)
        # All is well: the reads are where they should be.
        told, failures = await read_until(running, client, lambda told: told["reads_allowed_ratio"] == 1)
        assert (failures, told["breaker"]) == (0, None)
        await beside.execute(BROKEN)
        told, failures = await read_until(running, client, lambda told: told["breaker_trips"] >= 3)
        assert failures
        assert "reads on new failed" in told["breaker"]
        assert "circuit breaker" in running.log.read_text()
        await beside.execute(MENDED)
        told, _ = await read_until(running, client, lambda told: told["reads_allowed_ratio"] == 1)
        assert told["breaker"] is None
        await client.close()
        await beside.close()
