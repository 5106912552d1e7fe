"""An order to move writes outlives the engine process that was to obey it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
import psutil

from tests.running import Running

SCHEMA = "CREATE TABLE users (id int PRIMARY KEY)"


def engine_of(running: Running) -> psutil.Process:
    """Return the process of the engine."""
    assert running.process is not None
    children = psutil.Process(running.process.pid).children()
    (engine,) = [child for child in children if "engine" in child.cmdline()]
    return engine


async def test_engine_that_dies_before_the_switch_leaves_the_order_to_the_next(
    old_db: str, new_db: str, tmp_path: Path
) -> None:
    for url in (old_db, new_db):
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
    with Running(tmp_path, old_db, new_db) as running:
        running.command("init")
        running.start()
        await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
        engine = engine_of(running)
        engine.send_signal(signal.SIGSTOP)  # the order reaches it, and it does not come to obey
        running.database["rollout"] = {"writes_on": "new"}
        running.write()
        while "configuration reloaded" not in running.log.read_text():
            await asyncio.sleep(0.01)
        engine.kill()
        told = await running.wait_for(lambda told: told["authority"] == "new")
        assert told["rollout"]["refused"] is None
