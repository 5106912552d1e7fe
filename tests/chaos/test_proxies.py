"""Two proxies under load: switches that nobody notices, and the death of one at every line.

SEED=7 pytest tests/chaos/test_proxies.py -s             replays one choice
DEATH="other peers._keep:253 SIGKILL" pytest ... -s      that one
make chaos                                               all of them, and ten switches
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.chaos.deaths import Death, Reaper
from tests.chaos.fleet import (
    EMPTY_SCHEMA,
    PAY,
    SCHEMA,
    Balancer,
    Client,
    Fleet,
    histogram,
    until,
    wrong,
)  # fmt: skip
from tests.chaos.relay import Relay
from tests.running import DATABASE, Running

SEED = int(os.environ.get("SEED", "1"))
IS_CAMPAIGN = "DEATHS" in os.environ
CLIENTS, SWITCHES = (32, 10) if IS_CAMPAIGN else (8, 2)
DEATHS = int(os.environ.get("DEATHS", "2"))
FROM = int(os.environ.get("FROM", "0"))  # so many of them are left out first
BATCH = 10  # after so many deaths everything is compared


@asynccontextmanager
async def working(
    fleet: Fleet, urls: list[str], count: int, *, pace_s: float, first: int = 0
) -> AsyncIterator[list[Client]]:
    """Clients at work, numbered from `first`; when it ends each has finished its last transfer."""
    numbers = range(first, first + count)
    clients = [Client(number, urls[number % len(urls)], pace_s=pace_s) for number in numbers]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(stop))
        try:
            yield clients
        finally:
            stop.set()


async def require_whole(fleet: Fleet, clusters: tuple[Cluster, Cluster], clients: list[Client]) -> None:
    """Both sides show what the clients know, and the same."""
    owner = await fleet.owner()
    await owner.wait_converged()
    for url in (fleet.old, fleet.new):
        assert await wrong(url, clients) == []
    copy = ";".join(
        f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT" for table in ("accounts", "requests")
    )
    old, new = (
        cluster.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", url, text=copy)
        for cluster, url in zip(clusters, (fleet.old, fleet.new), strict=True)
    )
    assert old == new


@pytest.mark.timeout(280)
async def test_switches_to_and_fro_fail_nothing_on_either_proxy(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    old, new = make_database(pg16, SCHEMA), make_database(pg18, EMPTY_SCHEMA)
    async with Fleet(tmp_path, old, new) as fleet:
        longest_ms: list[float] = []
        calm_ms: list[float] = []  # in as much time before each switch: what the load itself costs
        began_s = time.monotonic()
        urls = [proxy.url() for proxy in fleet.proxies]
        async with working(fleet, urls, CLIENTS, pace_s=0.005) as clients:
            for number in range(SWITCHES):
                to = "old" if number % 2 else "new"
                await fleet.ready()
                fleet.order(to)
                ordered_s = time.monotonic()
                await fleet.settle(to)
                await all_go_on(clients)
                now_s = time.monotonic()
                longest_ms += [client.longest_ms(ordered_s, now_s) for client in clients]
                calm_ms += [client.longest_ms(2 * ordered_s - now_s, ordered_s) for client in clients]
            writes = sum(len(client.done) for client in clients)
            rate = writes / (time.monotonic() - began_s)
        print(f"{CLIENTS} clients, {SWITCHES} switches, {writes} transfers, {rate:.0f}/s")
        print(f"longest wait per client and switch: {histogram(longest_ms)}")
        print(f"in as much time before it:          {histogram(calm_ms)}")
        assert [failure for client in clients for failure in client.failures] == []
        assert [client.lost_count + client.refused_count for client in clients] == [0] * CLIENTS
        await require_whole(fleet, (pg16, pg18), clients)


@pytest.mark.timeout(0 if IS_CAMPAIGN else 280)
async def test_a_proxy_dies_at_any_line_of_a_switch_and_nothing_is_lost(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    """Killed or stopped; the clients come through a balancer, and go on with the other proxy."""
    print(f"SEED={SEED}")
    old, new = make_database(pg16, SCHEMA), make_database(pg18, EMPTY_SCHEMA)
    async with Fleet(tmp_path, old, new, has_traps=True) as fleet, Reaper(fleet) as reaper:
        async with Balancer([proxy.port for proxy in fleet.proxies]) as balancer:
            url = f"postgresql://postgres@127.0.0.1:{balancer.port}/{DATABASE}"
            clients: list[Client] = []
            async with working(fleet, [url], 4, pace_s=0.02) as at_work:
                deaths = chosen(await reaper.deaths())
            clients += at_work
            for batch in (deaths[at : at + BATCH] for at in range(0, len(deaths), BATCH)):
                async with working(fleet, [url], 4, pace_s=0.02, first=len(clients)) as at_work:
                    for death in batch:
                        print(await reaper.kill(death), flush=True)
                        await all_go_on(at_work)
                clients += at_work
                assert [failure for client in clients for failure in client.failures] == []
                await require_whole(fleet, (pg16, pg18), clients)
        done, lost = sum(len(c.done) for c in clients), sum(c.lost_count for c in clients)
        again = sum(client.refused_count for client in clients)
        print(f"{len(deaths)} deaths, {done} transfers, {lost} lost answers, {again} told to run again")


def chosen(deaths: list[Death]) -> list[Death]:
    """Return as many deaths as are asked for, by the seed: of each signal the same number."""
    if "DEATH" in os.environ:
        return [Death.of(os.environ["DEATH"])]
    print(f"{len(deaths)} deaths: {Counter(death.role for death in deaths)}")
    chance = random.Random(SEED)
    chance.shuffle(deaths)
    killed, stopped = (
        [each for each in deaths if each.how is how] for how in (signal.SIGKILL, signal.SIGSTOP)
    )
    return [each for pair in zip(killed, stopped, strict=True) for each in pair][FROM : FROM + DEATHS]


async def all_go_on(clients: list[Client]) -> None:
    """Wait until every client has begun another transfer after this, and has seen it done."""
    counts = [len(client.done) + 1 for client in clients]
    await until(lambda: all(len(c.done) > n for c, n in zip(clients, counts, strict=True)))


def through(url: str, relay: Relay) -> str:
    """Return the URL of a database behind a relay."""
    return url.replace(f":{urlsplit(url).port}/", f":{relay.port}/")


@pytest.mark.timeout(120)
async def test_a_proxy_cut_off_during_the_switch_is_refused_and_learns(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    """A single statement is run again where it belongs; a transaction that has begun gets 40001."""
    old, new = make_database(pg16, SCHEMA), make_database(pg18, EMPTY_SCHEMA)
    (tmp_path / "cut").mkdir()
    async with Relay(pg16.port) as to_old, Relay(pg18.port) as to_new:
        with (
            Running(tmp_path, old, new) as proxy,
            Running(tmp_path / "cut", through(old, to_old), through(new, to_new)) as cut,
        ):
            proxy.command("init")
            await asyncio.to_thread(proxy.start)
            await proxy.wait_converged()
            await asyncio.to_thread(cut.start)
            single, begun = await asyncpg.connect(cut.url()), await asyncpg.connect(cut.url())
            assert await single.execute(PAY, 1, 1) == "UPDATE 1"
            await begun.execute("BEGIN")
            for relay in (to_old, to_new):
                relay.stall()
            alone = asyncio.create_task(single.execute(PAY, 1, 1))
            within = asyncio.create_task(begun.execute(PAY, 2, 1))
            began_s = time.monotonic()
            await proxy.switch("new")
            print(f"switched past it in {time.monotonic() - began_s:.1f} s")
            for relay in (to_old, to_new):
                relay.resume()
            assert await alone == "UPDATE 1"
            with pytest.raises(asyncpg.SerializationError, match="authority moved"):
                await within
            connection = await asyncpg.connect(new)
            assert await connection.fetch("SELECT balance FROM accounts WHERE id <= 2 ORDER BY id") == [
                (2,),
                (0,),
            ]
            await connection.close()
            await cut.wait_for(lambda told: told["authority"] == "new")
            for client in (single, begun):
                client.terminate()
