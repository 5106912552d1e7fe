"""A switch that must not be: refused with every reason, or undone after its bound, clients unharmed.

With the whole `crossfade serve`: the order is an edit of the YAML, the reasons are in the status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.roles import ensure_roles
from tests.running import Running

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0);
"""


@pytest.fixture
async def sides(old_db: str, new_db: str) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """Connections past the proxy; the old side has a history of 300 users."""
    old, new = await asyncpg.connect(old_db), await asyncpg.connect(new_db)
    for side in (old, new):
        await side.execute(SCHEMA)
    await old.execute("INSERT INTO users SELECT i FROM generate_series(1, 300) i")
    yield old, new
    for side in (old, new):
        side.terminate()


async def order(running: Running, to: str) -> None:
    """Edit the line, and wait until it is in force."""
    running.database.setdefault("rollout", {})["writes_on"] = to
    running.write()
    await running.wait_for(lambda told: told["rollout"]["writes_on"] == to)


async def refusal(running: Running, *reasons: str) -> dict[str, Any]:
    """Order a switch, wait until it is refused for all these reasons, and take the order back."""
    await order(running, "new")
    told = await running.wait_for(
        lambda told: all(reason in (told["rollout"]["refused"] or "") for reason in reasons)
    )
    assert (told["authority"], told["epoch"]) == ("old", 1)
    await order(running, "old")
    await running.wait_for(lambda told: told["rollout"]["refused"] is None)
    return told


async def test_every_gate_that_does_not_hold_is_named(
    sides: tuple[asyncpg.Connection, asyncpg.Connection], old_db: str, new_db: str, tmp_path: Path
) -> None:
    _, new = sides
    # Of the few writes of this test a third fails on purpose.
    changes = {"backfill": {"enabled": False}, "rollout": {"gates": {"mirror_success": "0%"}}}
    with Running(tmp_path, old_db, new_db, changes) as running:
        running.command("init")
        running.start()
        client = await asyncpg.connect(running.url())
        told = await refusal(
            running, "backfill_complete: backfill is not planned yet", "verified: never verified"
        )
        assert {gate["name"] for gate in told["gates"] if not gate["passed"]} >= {
            "backfill_complete",
            "verified",
        }

        running.database["backfill"]["enabled"] = True
        running.write()
        await running.wait_converged()

        await new.execute("ALTER TABLE users ADD CHECK (hits < 10)")
        await client.execute("UPDATE users SET hits = 10 WHERE id = 7")
        told = await refusal(running, "no_quarantine: 1 keys in quarantine")
        assert [(key["table"], key["key"]) for key in told["quarantine"]] == [("public.users", ["7"])]
        assert "users_hits_check" in told["quarantine"][0]["error"]
        await new.execute("ALTER TABLE users DROP CONSTRAINT users_hits_check")
        await running.wait_converged()

        async with new.transaction():
            await new.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")  # converge waits for it
            await client.execute("UPDATE users SET hits = 1 WHERE id = 1")
            await refusal(running, "lag: lag")
        await running.wait_converged()
        await client.close()
        await running.switch("new")


async def test_a_long_transaction_undoes_it_and_harms_nobody(
    sides: tuple[asyncpg.Connection, asyncpg.Connection], old_db: str, new_db: str, tmp_path: Path
) -> None:
    old, new = sides
    with Running(tmp_path, old_db, new_db, {"rollout": {"max_pause": "4s"}}) as running:
        running.command("init")
        running.start()
        await running.wait_converged()
        long, short = await asyncpg.connect(running.url()), await asyncpg.connect(running.url())
        await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
        transaction = long.transaction()
        await transaction.start()
        await long.execute("UPDATE users SET hits = 1 WHERE id = 1")
        await order(running, "new")
        longest_s, writes = 0.0, 0
        told = await asyncio.to_thread(running.status)
        while not told["switches"]:  # in its history it stays; as the reason of a refusal it may pass by
            began_s = time.monotonic()
            assert await short.execute("UPDATE users SET hits = hits + 1 WHERE id = 2") == "UPDATE 1"
            longest_s, writes = max(longest_s, time.monotonic() - began_s), writes + 1
            told = await asyncio.to_thread(running.status)
        assert told["switches"][0]["outcome"] == "undone"
        assert told["authority"] == "old"
        print(f"{writes} writes meanwhile, the longest took {longest_s * 1000:.0f} ms")
        assert await long.execute("UPDATE users SET hits = 2 WHERE id = 1") == "UPDATE 1"
        await transaction.commit()
        running.database["rollout"]["max_pause"] = "60s"  # what is slow now is the machine
        running.write()
        told = await running.wait_for(  # the order stands; its history is written after the deed
            lambda told: {"done", "undone"} <= {switch["outcome"] for switch in told["switches"]}
        )
        assert (told["authority"], told["switches"][0]["outcome"]) == ("new", "done")
        undone = [switch for switch in told["switches"] if switch["outcome"] == "undone"]
        assert "open" in undone[0]["reason"]
        await running.wait_converged()
        for side in (old, new):
            rows = await side.fetch("SELECT hits FROM users WHERE id <= 2 ORDER BY id")
            assert [row["hits"] for row in rows] == [2, writes]
        await long.close()
        await short.close()


async def test_a_ledger_that_grows_faster_than_it_drains_refuses_and_rights_that_are_missing_too(
    sides: tuple[asyncpg.Connection, asyncpg.Connection],
    pg16: Cluster,
    pg18: Cluster,
    old_db: str,
    new_db: str,
    tmp_path: Path,
) -> None:
    old, new = sides
    for cluster in (pg16, pg18):
        ensure_roles(cluster, "refused_app")
    await old.execute("GRANT SELECT, UPDATE ON users TO refused_app")
    await new.execute("GRANT SELECT ON users TO refused_app")
    changes = {
        "users": [{"name": "refused_app"}, {"name": "postgres"}],
        "rollout": {"gates": {"ledger_entries": 50, "max_lag": "1h"}},
    }
    with Running(tmp_path, old_db, new_db, changes) as running:
        running.command("init")
        running.start()
        await running.wait_converged()
        await refusal(running, "users_ready: refused_app may UPDATE public.users on old and not on new")
        await new.execute("GRANT UPDATE ON users TO refused_app")
        client = await asyncpg.connect(running.url())
        async with new.transaction():
            await new.execute("LOCK TABLE users IN SHARE MODE")  # nothing arrives there
            await client.execute("UPDATE users SET hits = hits + 1")
            await refusal(running, "ledger_drained: 300 entries wait, at most 50 allowed")
        await running.wait_converged()
        await client.close()
        await running.switch("new")
