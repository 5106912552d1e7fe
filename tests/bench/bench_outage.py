"""What clients notice of the mirror, and how fast it catches up after an outage.

    python tests/bench/bench_outage.py [SECONDS] [WRITES_PER_S] [OUTAGE_SECONDS]

The same clients write at the same pace, open loop, while the mirror is off, up, slow (every
answer up to 100 ms late), silent (its network passes nothing) and down. Latency counts from when a
write was due. All five take turns twice, so that a machine's moods spread over them. Then the
mirror comes back, and the ledger that has grown drains under the same writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from proxy.demo.clusters import Cluster
from tests.chaos.relay import Relay
from tests.running import DATABASE, Running

CLIENTS = 8
ROWS = 100_000
SCHEMA = "CREATE TABLE rows (id int PRIMARY KEY, hits int NOT NULL, note text)"
FILL = f"INSERT INTO rows SELECT n, 0, repeat('x', 50) FROM generate_series(1, {ROWS}) n"


async def write(url: str, per_s: float, duration_s: float, waits_s: list[float]) -> None:
    """Write at a pace; a write that is late because of the last one counts from when it was due."""
    connection = await asyncpg.connect(url)
    began_s = time.monotonic()
    number = 0
    while (due_s := began_s + number / per_s) < began_s + duration_s:
        number += 1
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        key = random.randint(1, ROWS)
        await connection.execute("UPDATE rows SET hits = hits + 1 WHERE id = $1", key)
        waits_s.append(time.monotonic() - due_s)
    await connection.close()


async def load(url: str, per_s: float, duration_s: float) -> list[float]:
    """Return how long each write of all clients took."""
    waits_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(write(url, per_s / CLIENTS, duration_s, waits_s))
    return waits_s


class Bench:
    """A proxy between two clusters, the new one behind a relay."""

    def __init__(self, running: Running, relay: Relay, new: Cluster) -> None:
        self._running, self._relay, self._new = running, relay, new

    async def off(self) -> None:
        """Mirror nothing."""
        self._set(mirror={"enabled": False}, backfill={"enabled": False})
        await asyncio.sleep(2)

    async def up(self) -> None:
        """Mirror as usual."""
        self._set(mirror={"enabled": True}, backfill={"enabled": True})
        await asyncio.sleep(2)
        await self._running.wait_converged(timeout_s=300)

    async def slow(self) -> None:
        """Let the mirror's answers come late."""
        await self.up()
        self._relay.delay_s = 0.1

    async def silent(self) -> None:
        """Let nothing through to the mirror, nor back."""
        await self.up()
        self._relay.stall()

    async def down(self) -> None:
        """Stop the mirror's cluster."""
        await self.up()
        self._new.stop()

    async def restore(self) -> None:
        """Make all well again."""
        self._relay.heal()
        if not self._new.is_running:
            self._new.start()

    def _set(self, **sections: dict[str, bool]) -> None:
        self._running.database.update(sections)
        self._running.write()


async def compare(bench: Bench, url: str, duration_s: float, per_s: float) -> None:
    """Print latency in every state of the mirror."""
    states: tuple[Callable[[], Awaitable[None]], ...] = (
        bench.off, bench.up, bench.slow, bench.silent, bench.down,
    )  # fmt: skip
    waits_s: dict[str, list[float]] = {state.__name__: [] for state in states}
    for turn in (states, states[::-1]):
        for state in turn:
            await state()
            waits_s[state.__name__] += await load(url, per_s, duration_s)
            await bench.restore()
    for name, waits in waits_s.items():
        quantiles = [1000 * q for q in statistics.quantiles(waits, n=1000)]
        print(
            f"mirror {name:7} {len(waits):7,} writes"
            f"   p50 {quantiles[499]:6.2f}   p95 {quantiles[949]:6.2f}   p99 {quantiles[989]:6.2f} ms"
        )


async def catch_up(bench: Bench, running: Running, url: str, duration_s: float, per_s: float) -> None:
    """Print how fast the ledger grew, and how fast it drains under the same writes."""
    await bench.down()
    began_s = time.monotonic()
    await load(url, per_s, duration_s)
    grown = (await asyncio.to_thread(running.status))["ledger"]["entries"]
    grew_s = time.monotonic() - began_s
    await bench.restore()
    writing = asyncio.create_task(load(url, per_s, 600))
    await running.wait_for(lambda told: told["ledger"]["entries"] < grown * 0.95, timeout_s=120)
    began_s = time.monotonic()
    from_count = (await asyncio.to_thread(running.status))["ledger"]["entries"]
    told = await running.wait_for(lambda told: told["ledger"]["entries"] < per_s, timeout_s=300)
    took_s = time.monotonic() - began_s
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
        await writing
    written = per_s * took_s
    drained = (from_count - told["ledger"]["entries"] + written) / took_s
    print(
        f"grew by {grown / grew_s:,.0f} entries/s to {grown:,}; then drained {drained:,.0f} entries/s"
        f" while {per_s:,.0f}/s more were written: {drained / (grown / grew_s):.1f} times as fast"
    )


async def main(duration_s: float, per_s: float, outage_s: float) -> None:
    with Cluster(16) as old, Cluster(18) as new, tempfile.TemporaryDirectory() as folder:
        for cluster in (old, new):
            cluster.psql(f"CREATE DATABASE {DATABASE}")
            cluster.psql(SCHEMA, DATABASE)
        old.psql(FILL, DATABASE)
        async with Relay(new.port) as relay:
            behind = new.url(DATABASE).replace(f":{new.port}/", f":{relay.port}/")
            with Running(Path(folder), old.url(DATABASE), behind) as running:
                await asyncio.to_thread(running.command, "init")
                await asyncio.to_thread(running.start)
                bench = Bench(running, relay, new)
                await compare(bench, running.url(), duration_s, per_s)
                await catch_up(bench, running, running.url(), outage_s, per_s)


if __name__ == "__main__":
    numbers = [float(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [15.0, 500.0, 60.0][len(numbers) :])))
