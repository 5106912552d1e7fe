"""A switch holds the clients of every proxy, also of those that it knows through PostgreSQL alone.

Two workers stand before the same pair of databases, each with its own supervisor and peers;
they share nothing but PostgreSQL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from proxy.crossing import peers as peering
from proxy.crossing.peers import Peers
from proxy.errors import UpstreamLost
from proxy.ledger import lease as leases
from proxy.ledger import proxies
from proxy.ledger.connection import connect
from proxy.routing.policy import Side
from tests.integration.crossings import Crossing, Recorder
from tests.integration.stand import Stand

FOREVER_S = 3600.0
ADD = "UPDATE users SET hits = hits + 1 WHERE id = $1 RETURNING hits"


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


def clusters(crossing: Crossing) -> dict[Side, object]:
    return {Side.OLD: crossing.source, Side.NEW: crossing.target}


@asynccontextmanager
async def peering_of(crossing: Crossing, own: object, *, name: str = "") -> AsyncIterator[Peers]:
    """A proxy among the others, known on both clusters."""
    name = name or leases.new_owner()
    peers = Peers(name, clusters(crossing), own)  # type: ignore[arg-type]
    task = asyncio.create_task(peers.run())
    try:
        known = "SELECT EXISTS (SELECT FROM crossfade.proxy WHERE name = $1)"
        for side in Side:
            while not await crossing.side(side).fetchval(known, name):
                await asyncio.sleep(0.01)
        while any(line._connection is None for line in peers._lines):
            await asyncio.sleep(0.01)
        yield peers
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def two(crossing: Crossing, **rollout: object) -> AsyncIterator[tuple[Stand, Stand]]:
    """Two proxies; the first one's engine switches."""
    async with (
        Stand(crossing, **rollout) as here,
        Stand(crossing, **rollout) as there,
        peering_of(crossing, here.proxies) as peers,
        peering_of(crossing, there.proxies),
    ):
        crossing.proxies = peers  # type: ignore[assignment]
        yield here, there


async def wait_answered(crossing: Crossing) -> None:
    """Wait until another proxy has answered to a hold."""
    connection = await connect(crossing.source)
    try:
        while not await connection.fetchval("SELECT max(hold) IS NOT NULL FROM crossfade.proxy"):
            await asyncio.sleep(0.01)
    finally:
        connection.terminate()


async def test_the_clients_of_both_proxies_wait_and_go_on(crossing: Crossing) -> None:
    async with two(crossing, max_pause=FOREVER_S) as (here, there):
        assert await crossing.proxies.hold(limit_s=FOREVER_S, drain_s=5) == 0
        writes = []
        for stand in (here, there):
            for number in range(5):
                client = await stand.connect()
                insert = f"INSERT INTO orders (user_id) VALUES ({number}) RETURNING id"
                writes.append(asyncio.create_task(client.fetchval(insert)))
                await stand.wait_held(number + 1)
            reader = await stand.connect()
            assert await reader.fetchval("SELECT count(*) FROM orders") == 0
        assert (await crossing.switch(Side.NEW)).is_done
        assert len(set(await asyncio.gather(*writes))) == 10
        assert await crossing.old.fetchval("SELECT count(*) FROM orders") == 0
        assert await crossing.new.fetchval("SELECT count(*) FROM orders") == 10
        assert [(await stand.report())["authority"] for stand in (here, there)] == ["new", "new"]


async def test_a_transaction_at_another_proxy_is_waited_for(crossing: Crossing) -> None:
    async with two(crossing) as (_, there):
        client, other = await there.connect(), await there.connect()
        await client.execute("BEGIN")
        switching = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=30))
        await wait_answered(crossing)
        late = asyncio.create_task(other.fetchval(ADD, 9))
        await there.wait_held()
        assert await client.fetchval(ADD, 1) == 1
        assert await client.fetchval(ADD, 2) == 1
        await client.execute("COMMIT")
        assert (await switching).is_done
        assert await late == 1
        hits = await crossing.old.fetch("SELECT hits FROM users WHERE id IN (1, 2, 9) ORDER BY id")
        assert [row["hits"] for row in hits] == [1, 1, 0]
        assert await crossing.new.fetchval("SELECT hits FROM users WHERE id = 9") == 1


async def test_without_the_hold_of_the_others_their_transactions_fail(crossing: Crossing) -> None:
    async with Stand(crossing) as there, peering_of(crossing, there.proxies):
        client = await there.connect()
        await client.execute("BEGIN")
        assert (await crossing.switch(Side.NEW)).is_done  # the others are not asked
        with pytest.raises(asyncpg.SerializationError, match="authority moved"):
            await client.fetchval(ADD, 1)


async def test_a_transaction_at_another_proxy_that_does_not_end_undoes_the_switch(crossing: Crossing) -> None:
    async with two(crossing) as (here, there):
        client = await there.connect()
        await client.execute("BEGIN")
        await client.fetchval(ADD, 1)
        outcome = await crossing.switch(Side.NEW, max_pause_s=0.5)
        assert not outcome.is_done
        assert outcome.reason == "1 write transactions were still open after 0.25 s"
        for stand in (here, there):
            writer = await stand.connect()
            assert await writer.fetchval(ADD, 2)  # nobody is held any more, on either proxy
        await client.execute("COMMIT")
        assert await crossing.authority() is Side.OLD


async def test_a_held_statement_can_be_cancelled_at_another_proxy(crossing: Crossing) -> None:
    async with two(crossing, max_pause=FOREVER_S) as (_, there):
        await crossing.proxies.hold(limit_s=FOREVER_S, drain_s=5)
        client = await there.connect()
        with pytest.raises(TimeoutError):
            await client.execute("UPDATE users SET hits = 7 WHERE id = 1", timeout=0.2)
        while (await there.report())["held"]:
            await asyncio.sleep(0.01)
        await crossing.proxies.release(None, None)
        assert await client.fetchval(ADD, 1) == 1


async def test_whoever_asked_dies_and_the_hold_ends_by_its_own_limit(crossing: Crossing) -> None:
    async with Stand(crossing) as there, peering_of(crossing, there.proxies):
        async with peering_of(crossing, Recorder()) as conductor:
            await conductor.hold(limit_s=0.6, drain_s=0.1)
            client = await there.connect()
            late = asyncio.create_task(client.fetchval(ADD, 1))
            await there.wait_held()
        assert await late == 1
        assert await crossing.authority() is Side.OLD


async def test_a_proxy_that_does_not_answer_is_fenced_and_not_waited_for(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands before the database, and its line is up; it only never does what it is asked for."""
    async with (
        Stand(crossing, is_deaf=True) as there,
        peering_of(crossing, there.proxies) as deaf,
        peering_of(crossing, Recorder()) as conductor,
    ):
        client = await there.connect()
        assert await client.fetchval(ADD, 1) == 1

        async def ignore(asked: object) -> None:
            return

        for line in deaf._lines:
            monkeypatch.setattr(line, "_obey", ignore)
        crossing.proxies = conductor  # type: ignore[assignment]
        began_s = time.monotonic()
        assert (await crossing.switch(Side.NEW, max_pause_s=30)).is_done
        print(f"a switch past a silent proxy took {(time.monotonic() - began_s) * 1000:.0f} ms")
        assert (await there.report())["authority"] == "old"
        assert await client.fetchval(ADD, 1) == 2  # refused by the fence, learned, and run again


async def test_a_proxy_that_has_ended_is_not_waited_for(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peering, "_ANSWER_TIMEOUT_S", FOREVER_S)
    async with peering_of(crossing, Recorder()) as conductor:
        async with peering_of(crossing, Recorder(), name="gone"):
            pass
        await crossing.old.execute("UPDATE crossfade.proxy SET until = now() + interval '1 h'")
        assert await conductor.hold(limit_s=FOREVER_S, drain_s=FOREVER_S) == 0


async def test_a_proxy_that_starts_during_a_hold_keeps_it(crossing: Crossing) -> None:
    async with peering_of(crossing, Recorder()) as conductor:
        await conductor.hold(limit_s=FOREVER_S, drain_s=1)
        late = Recorder()
        async with peering_of(crossing, late):
            while not late.is_holding:
                await asyncio.sleep(0.01)
            await conductor.release(Side.NEW, 2)
            while late.is_holding:
                await asyncio.sleep(0.01)
        assert late.told == [(Side.NEW, 2)]


async def test_without_a_line_to_the_authority_nothing_is_switched(crossing: Crossing) -> None:
    peers = Peers(leases.new_owner(), clusters(crossing), Recorder())  # type: ignore[arg-type]
    with pytest.raises(UpstreamLost, match="cannot be told"):
        await peers.hold(limit_s=1, drain_s=1)


async def test_a_line_that_was_cut_comes_back(crossing: Crossing) -> None:
    here = Recorder()
    async with peering_of(crossing, here, name="here"), peering_of(crossing, Recorder()) as conductor:
        connection = await connect(crossing.source)
        await leases.terminate(connection, "here")
        connection.terminate()
        while not here.is_holding:
            await conductor.hold(limit_s=FOREVER_S, drain_s=1)
            await asyncio.sleep(0.05)


async def test_a_fault_of_ours_on_a_line_does_not_end_it(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, faults = proxies.read_hold, []

    async def faulty(line: asyncpg.Connection) -> proxies.Hold:
        if not faults:
            faults.append(line)
            raise AssertionError("what cannot be")
        return await original(line)

    monkeypatch.setattr(proxies, "read_hold", faulty)
    async with peering_of(crossing, Recorder()) as peers:
        while any(line._connection in (None, *faults) for line in peers._lines):
            await asyncio.sleep(0.01)
    assert faults
