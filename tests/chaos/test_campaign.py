"""Everything at random: what is written, what fails, and when. In the end both sides are equal.

    SEED=7 pytest tests/chaos/test_campaign.py -s     replays one run on every kind of target
    make chaos SEEDS=200 ARGS='-k campaign'           runs many

For every seed there are clients that compose all ways to write, clients that remember what was
acknowledged to them, and faults of processes, clusters and the network between them, from the
copying of the history on. Then all is quiet: `verify` finds no difference, nor does a
comparison of its own, byte for byte, and no acknowledged write is missing. While it lasts, a
reader of the mirror looks for what must not be. What fails leaves its trace (`trace`), in a
folder that is named. In the end a table says how often each way and each fault occurred.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.demo.clusters import Cluster
from tests.chaos import trace, workload, writers
from tests.chaos.arena import Arena, small_disk
from tests.chaos.battle import Battle
from tests.chaos.ways import SHAPED, Way
from tests.chaos.workload import Composer
from tests.chaos.writers import Writer

FROM, COUNT = int(os.environ.get("FROM", "1")), int(os.environ.get("SEEDS", "1"))
SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else range(FROM, FROM + COUNT)
# A run is as long as it takes to do so much, whatever the machine.
TRANSACTIONS, FAULTS = (100, 2) if "SEEDS" not in os.environ else (200, 5)
_LOAD_S_MAX = 60.0
COMPOSERS, WRITERS = 3, 2
_COMPLETE_AFTER_SEEDS = 20  # in so many seeds every way and every fault must have occurred
KEYS = {**workload.KEYS, "accounts": "id", "requests": "request", "names": "id", "counters": "number"}
EMPTY = workload.TABLES + writers.EMPTY_SCHEMA
FULL = workload.SOURCE + writers.SCHEMA.replace(str(writers.ROWS_COUNT), "5100")


@dataclass
class Campaign:
    """All seeds on one kind of target, and what occurred in them."""

    arena: Arena
    without: Collection[Way] = ()
    seeds_count: int = 0
    transactions: int = 0
    looks: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def table(self) -> str:
        """Return how often everything occurred."""
        lines = [f"{self.seeds_count} seeds, {self.transactions} transactions, {self.looks} looks"]
        for title, counter in (("ways to write", self.ways), ("faults", self.faults)):
            lines += ["", title]
            lines += [f"  {count:6} {name.replace('_', ' ')}" for name, count in sorted(counter.items())]
        return "\n".join(lines)

    def absent(self, faults: Collection[str]) -> set[str]:
        """Return what should have occurred, and never did."""
        return (workload.kinds(self.without) - set(self.ways)) | (set(faults) - set(self.faults))


async def fight(campaign: Campaign, seed: int, folder: Path, name: str) -> None:
    """Write and disturb for a while; then all must be well."""
    print(f"SEED={seed}", flush=True)
    partitioned = "" if campaign.arena.is_spread else workload.PARTITIONED
    urls = campaign.arena.databases(FULL + partitioned, EMPTY + partitioned, KEYS)
    battle = Battle(seed, campaign.arena, urls, folder)
    composers: list[Composer] = []
    try:
        async with battle.begin():
            await _fight(battle, campaign, composers)
    except BaseException as error:
        left = await trace.leave(battle, f"{name}-seed-{seed}", composers, error)
        print(f"SEED={seed} failed; its trace: {left}", flush=True)
        raise
    finally:
        campaign.seeds_count += 1
        campaign.transactions += sum(composer.done_count for composer in composers)
        campaign.looks += battle.looks
        campaign.faults.update(battle.faults)
        for composer in composers:
            campaign.ways.update(composer.done)


async def _fight(battle: Battle, campaign: Campaign, composers: list[Composer]) -> None:
    url = battle.proxies[-1].url()
    chances = [random.Random(battle.chance.random()) for _ in range(COMPOSERS + WRITERS)]
    composers += [Composer(n, url, chances[n], campaign.without) for n in range(COMPOSERS)]
    remembering = [Writer(n, url, chances[COMPOSERS + n], True) for n in range(WRITERS)]

    def done_count() -> int:
        return sum(client.done_count for client in composers) + sum(len(w.waits_s) for w in remembering)

    stop, quiet = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(battle.look(quiet))
        group.create_task(battle.keep_finishing(quiet))
        async with asyncio.TaskGroup() as clients:
            for client in (*composers, *remembering):
                clients.create_task(client.run(stop))
            disturbing = clients.create_task(battle.disturb(FAULTS))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_S_MAX):
                    while done_count() < TRANSACTIONS or not disturbing.done():
                        await asyncio.sleep(0.1)
            stop.set()
        battle.heal()
        await battle.finish_prepared()
        await battle.settle()
        quiet.set()
    print(f"{done_count()} transactions; {battle.looks} looks; {', '.join(battle.faults)}", flush=True)
    assert [failure for client in (*composers, *remembering) for failure in client.failures] == []
    assert battle.broken == []
    assert await battle.differences() == []
    for url in battle.urls:
        assert await writers.missing(url, remembering) == []


@pytest.fixture(scope="module")
def disk(pg18: Cluster) -> Iterator[Path | None]:
    with small_disk(pg18) as made:
        yield made


@pytest.fixture(scope="module")
def from_16(pg16: Cluster, pg18: Cluster, disk: Path | None) -> Iterator[Campaign]:
    yield from _campaign(Arena(pg16, pg18, disk))


@pytest.fixture(scope="module")
def from_15(pg15: Cluster, pg18: Cluster, disk: Path | None) -> Iterator[Campaign]:
    yield from _campaign(Arena(pg15, pg18, disk))


@pytest.fixture(scope="module")
def to_nodes(pg15: Cluster, pg16: Cluster, pg18: Cluster, disk: Path | None) -> Iterator[Campaign]:
    yield from _campaign(Arena(pg16, pg18, disk, pg15), SHAPED)


def _campaign(arena: Arena, without: Collection[Way] = ()) -> Iterator[Campaign]:
    with arena:
        yield Campaign(arena, without)


def _require_complete(campaign: Campaign) -> None:
    print(campaign.table())
    if campaign.seeds_count >= _COMPLETE_AFTER_SEEDS:
        assert campaign.absent(Battle.fault_names(has_disk=campaign.arena.disk is not None)) == set()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_from_16_to_18(seed: int, tmp_path: Path, from_16: Campaign) -> None:
    await fight(from_16, seed, tmp_path, "16-to-18")


def test_from_16_to_18_everything_has_occurred(from_16: Campaign) -> None:
    _require_complete(from_16)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_from_15_to_18(seed: int, tmp_path: Path, from_15: Campaign) -> None:
    await fight(from_15, seed, tmp_path, "15-to-18")


def test_from_15_to_18_everything_has_occurred(from_15: Campaign) -> None:
    _require_complete(from_15)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_from_16_to_three_nodes(seed: int, tmp_path: Path, to_nodes: Campaign) -> None:
    """One of the clusters of the target crashes: the one with the nodes."""
    await fight(to_nodes, seed, tmp_path, "16-to-three-nodes")


def test_from_16_to_three_nodes_everything_has_occurred(to_nodes: Campaign) -> None:
    _require_complete(to_nodes)
