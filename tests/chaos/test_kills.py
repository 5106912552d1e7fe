"""kill -9 under write load: nothing acknowledged is lost, nothing happens twice, both sides become equal.

    SEED=7 pytest tests/chaos -s     replays one run
    make chaos SEEDS=20              runs many

A run kills twenty times: the whole proxy while backfill is half done, at any moment, and at
any moment of a switch; and of its processes only the engine, or only a worker. Which, when
and in which order is the seed's.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from proxy.demo.clusters import Cluster
from tests.chaos.writers import EMPTY_SCHEMA, SCHEMA, Writer, contents, missing
from tests.running import Running

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else range(1, int(os.environ.get("SEEDS", "1")) + 1)
KILLS = {"in backfill": 2, "anywhere": 8, "in a switch": 6, "engine": 2, "worker": 2}
WRITERS = 6


class Killer:
    """Kills one proxy again and again, and starts it again."""

    def __init__(self, running: Running, new: str, chance: random.Random) -> None:
        self._running = running
        self._new = new
        self._chance = chance
        self.done: list[str] = []  # what was killed, and in which situation

    async def kill(self, kind: str) -> None:
        """Kill one thing; return when the proxy serves again."""
        if kind == "in backfill":
            await self._wait_half_copied()
        elif kind == "in a switch":
            await self._order_switch()
        await asyncio.sleep(self._chance.uniform(0.02, 0.5))
        if kind in ("engine", "worker"):
            os.kill(self._child(kind), signal.SIGKILL)
            self.done.append(kind)
            return
        self._running.kill()
        self.done.append(f"{kind}: {await self._situation()}")
        await asyncio.to_thread(self._running.start)

    def _child(self, kind: str) -> int:
        assert self._running.process is not None
        for child in psutil.Process(self._running.process.pid).children():
            if kind in child.cmdline():
                return child.pid
        return self._running.process.pid  # it was killed a moment ago: then the whole

    async def _wait_half_copied(self) -> None:
        connection = await asyncpg.connect(self._new)
        copied = "SELECT count(migrated_at) > 0 AND count(*) > 200 FROM crossfade.chunk"
        while not await connection.fetchval(copied):
            await asyncio.sleep(0.005)
        await connection.close()

    async def _order_switch(self) -> None:
        """Edit the line to where the authority is, wait until it could move, and to the other side."""
        told = await self._running.wait_for(lambda told: told["engine"]["owner"] is not None)
        rollout = self._running.database.setdefault("rollout", {})
        rollout["writes_on"] = here = told["authority"]
        self._running.write()
        await self._running.wait_for(
            lambda told: (
                told["rollout"]["writes_on"] == here and all(gate["passed"] for gate in told["gates"])
            )
        )
        rollout["writes_on"] = "new" if here == "old" else "old"
        self._running.write()
        assert self._running.process is not None
        self._running.process.send_signal(signal.SIGHUP)

    async def _situation(self) -> str:
        """Return what the dead one left behind."""
        sides = []
        for url in (self._running.database["old"]["primary"], self._new):
            connection = await asyncpg.connect(url)
            sides.append(await connection.fetchrow("SELECT * FROM crossfade.state"))
            left = await connection.fetchval("SELECT count(*) FROM crossfade.chunk WHERE migrated_at IS NULL")
            await connection.close()
        states = ["authority" if side["is_authority"] else side["switching"] or "follower" for side in sides]
        return f"old {states[0]}, new {states[1]}, epoch {sides[0]['epoch']}, {left} chunks left"


@pytest.mark.timeout(280)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_killed_proxy_loses_no_acknowledged_write(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str], seed: int
) -> None:
    print(f"SEED={seed}")
    chance = random.Random(seed)
    old, new = make_database(pg16, SCHEMA), make_database(pg18, EMPTY_SCHEMA)
    changes = {"backfill": {"chunk_rows": 50}, "rollout": {"reads_on_new": "50%", "max_pause": "2s"}}
    with Running(tmp_path, old, new, changes) as running:
        running.command("init")
        running.start()
        killer = Killer(running, new, chance)
        writers = [Writer(n, running.url(), random.Random(chance.random()), True) for n in range(WRITERS)]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.run(stop))
            for kind in _schedule(chance):
                await killer.kill(kind)
            stop.set()
        for number, what in enumerate(killer.done, start=1):
            print(f"kill {number}, {what}")
        assert not [failure for writer in writers for failure in writer.failures]
        assert sum(len(writer.versions) for writer in writers) > 100
        # The engine or a worker may have been killed last: wait for it before judging.
        told = await running.wait_converged(timeout_s=90)
        count = sum(len(writer.waits_s) for writer in writers)
        print(f"{count} writes; authority {told['authority']}, epoch {told['epoch']}")
        assert await missing(old, writers) == []
        assert await missing(new, writers) == []
        assert contents(pg16, old) == contents(pg18, new)


def _schedule(chance: random.Random) -> list[str]:
    """Return the kinds of kills in their order; backfill is at the beginning."""
    later = [kind for kind, count in KILLS.items() for _ in range(count) if kind != "in backfill"]
    chance.shuffle(later)
    return ["in backfill"] * KILLS["in backfill"] + later
