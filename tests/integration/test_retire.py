"""`crossfade retire`: a plain proxy to the authority is left, and nothing of ours on the clusters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import yaml

from tests.running import Running

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0);
CREATE TABLE orders (id int PRIMARY KEY);
"""
OURS = """
SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'crossfade')
     + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'crossfade%')
"""


@pytest.fixture
async def crossed(old_db: str, new_db: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A proxy whose writes are on new, with one table in trigger form."""
    for url in (old_db, new_db):
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
    changes = {"tables": {"capture": {"orders": "trigger"}}}
    with Running(tmp_path, old_db, new_db, changes) as running:
        running.command("init")
        running.start()
        await running.wait_converged()
        await running.switch("new")
        await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
        yield running


async def test_the_proxy_goes_on_as_a_plain_one_to_the_authority(crossed: Running) -> None:
    client = await asyncpg.connect(crossed.url())
    writing, written = True, 0

    async def write() -> None:
        nonlocal written
        while writing:
            await client.execute("INSERT INTO users VALUES ($1)", written)
            written += 1

    task = asyncio.create_task(write())
    done = await asyncio.to_thread(crossed.command, "retire")
    assert "app: the migration has ended; a plain proxy to new is left" in done.stdout
    before = written
    while written < before + 10 and not task.done():
        await asyncio.sleep(0.01)
    writing = False
    await task
    rollout = yaml.safe_load(crossed.file.read_text())["databases"]["app"]
    assert (rollout["mirror"]["enabled"], rollout["rollout"]["writes_on"]) == (False, "new")
    sides = [await asyncpg.connect(crossed.database[side]["primary"]) for side in ("old", "new")]
    assert [await side.fetchval(OURS) for side in sides] == [0, 0]
    # Also the next one that starts knows where to go, and nothing can be begun the wrong way round.
    await client.close()
    assert crossed.stop() == 0
    refused = crossed.command("init", check=False)
    assert (refused.returncode, "the file says writes_on: new" in refused.stderr) == (1, True)
    crossed.start()
    client = await asyncpg.connect(crossed.url())
    assert await client.fetchval("INSERT INTO users VALUES (-1) RETURNING id") == -1
    assert await client.fetchval("SELECT count(*) FROM users") == written + 1
    assert await sides[1].fetchval("SELECT count(*) FROM users") == written + 1
    assert "app: nothing to retire" in crossed.command("retire").stdout
    for connection in (client, *sides):
        await connection.close()


async def test_it_is_refused_while_the_way_back_would_lose_data(crossed: Running) -> None:
    client, old = (
        await asyncpg.connect(crossed.url()),
        await asyncpg.connect(crossed.database["old"]["primary"]),
    )
    await old.execute("ALTER TABLE users ADD CHECK (hits < 10)")
    await client.execute("INSERT INTO users VALUES (1, 10)")
    await crossed.wait_for(lambda told: bool(told["quarantine"]))
    before = crossed.file.read_text()
    refused = crossed.command("retire", check=False)
    assert refused.returncode == 1
    assert "the way back would lose data: " in refused.stderr
    assert "app: no_quarantine: 1 keys in quarantine" in refused.stderr
    assert (crossed.file.read_text(), await old.fetchval(OURS) > 0) == (before, True)
    done = crossed.command("retire", "--force")
    assert "given up: app: no_quarantine: 1 keys in quarantine" in done.stderr
    assert await old.fetchval(OURS) == 0
    assert await client.execute("UPDATE users SET hits = 11") == "UPDATE 1"
    await client.close()
    await old.close()
