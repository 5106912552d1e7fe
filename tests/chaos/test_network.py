"""The network between the engine and a cluster fails: what is not known to be committed is not cleared.

A relay of the test's own stands between them, and loses what it is told to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.backfill.backfill import Backfill
from proxy.config.dsn import Dsn
from proxy.config.model import Backfill as Settings
from proxy.converge import apply
from proxy.converge.engine import Converger
from proxy.errors import LeaseLost, UpstreamLost, UpstreamRefused
from proxy.ledger import connection
from proxy.ledger.connection import connect
from tests.chaos.relay import Relay
from tests.integration.mirrors import Mirror
from tests.seeds import seeds

APPLY = ", true);"  # the guard of a target's transaction: crossfade.own(epoch, true)
CLEAR = "DELETE FROM crossfade.ledger"


class Apart(Mirror):
    """Two databases, each behind a relay for the converger; the test itself is next to them."""

    source_relay: Relay
    target_relay: Relay

    async def begin(self, seed: int = 0) -> None:
        """Fill both sides, and make a converger whose connections go through the relays."""
        await self.start("CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int)")
        self.source_relay, self.target_relay = [
            await self._stack.enter_async_context(Relay(dsn.port, seed=seed))
            for dsn in (self.source, self.target)
        ]
        self.converger = self.distant()
        await self.write(
            "INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, 9) i", users=range(1, 10)
        )
        assert (await self.converger.converge_entries()).is_complete

    def distant(self, **arguments: Any) -> Converger:
        """Return a converger that is behind the relays."""
        return self.make(
            source=_at(self.source, self.source_relay.port),
            target=_at(self.target, self.target_relay.port),
            **arguments,
        )

    async def hits(self, value: int) -> None:
        """Write every row."""
        await self.write(f"UPDATE users SET hits = {value}", users=range(1, 10))


def _at(dsn: Dsn, port: int) -> Dsn:
    return Dsn.parse(dsn.url().replace(f":{dsn.port}/", f":{port}/"))


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Apart]:
    async with Apart(old_db, new_db) as mirror:
        await mirror.begin()
        yield mirror


async def is_applied(mirror: Apart, value: int) -> bool:
    return bool(await mirror.new.fetchval("SELECT bool_and(hits = $1) FROM users", value))


async def test_when_the_answer_to_a_commit_is_lost_nothing_is_cleared(mirror: Apart) -> None:
    await mirror.hits(1)
    mirror.target_relay.lose_answer(APPLY)
    with pytest.raises(UpstreamLost):
        await mirror.converger.converge_entries()
    assert mirror.target_relay.lost_count == 1
    assert await is_applied(mirror, 1), "the target has committed"
    assert await mirror.entries() == 9
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0


async def lost_on_its_way(mirror: Apart) -> list[str]:
    """The commit never reaches the target; return what differs in the end."""
    await mirror.hits(2)
    mirror.target_relay.lose_query(APPLY)
    for _ in range(2):
        try:
            await mirror.converger.converge_entries()
        except UpstreamLost:
            continue
    assert mirror.target_relay.lost_count == 1
    return await mirror.differences("users")


async def test_a_commit_that_never_arrived_is_done_again(mirror: Apart) -> None:
    assert await lost_on_its_way(mirror) == []


async def test_taking_a_lost_commit_for_done_loses_a_write(
    mirror: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = apply.apply

    async def hopeful(*args: Any, **kwargs: Any) -> None:
        try:
            await original(*args, **kwargs)
        except asyncpg.PostgresConnectionError:
            pass

    monkeypatch.setattr(apply, "apply", hopeful)
    assert await lost_on_its_way(mirror) == ["users"]


async def test_when_the_answer_to_clearing_is_lost_the_next_pass_finds_less(mirror: Apart) -> None:
    await mirror.hits(3)
    mirror.source_relay.lose_answer(CLEAR)
    await mirror.hits(4)
    try:
        await mirror.converger.converge_entries()
    except UpstreamLost:
        pass
    assert (await mirror.converger.converge_entries()).is_complete
    assert mirror.source_relay.lost_count == 1
    assert await mirror.differences("users") == []
    assert await mirror.entries() == 0


async def test_a_chunk_whose_commit_is_in_doubt_is_marked_if_and_only_if_it_is_there(mirror: Apart) -> None:
    await mirror.new.execute("DELETE FROM users")
    for number, lose in enumerate((mirror.target_relay.lose_query, mirror.target_relay.lose_answer)):
        backfill = Backfill(
            mirror.source, mirror.target, mirror.converger, tables=mirror.tables, settings=Settings()
        )
        lose("UPDATE crossfade.chunk SET migrated_at")
        with pytest.raises(UpstreamLost):
            while await backfill.step() is not None:
                pass
        await backfill.close()
        seen = await mirror.new.fetchrow(
            "SELECT (SELECT count(*) FROM users) AS rows, count(migrated_at) AS marked FROM crossfade.chunk"
        )
        assert tuple(seen) == (9 * number, number)
    assert mirror.target_relay.lost_count == 2


async def test_a_network_that_is_silent_is_given_up(mirror: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_S", 0.5)
    converger = mirror.distant()
    assert (await converger.converge_entries()).is_complete
    for relay in (mirror.target_relay, mirror.source_relay):
        await mirror.hits(5)
        relay.stall()
        with pytest.raises(UpstreamLost):
            await converger.converge_entries()
        assert await mirror.entries() == 9
        relay.resume()
        assert (await converger.converge_entries()).is_complete


async def test_an_end_that_is_half_closed_is_given_up(mirror: Apart) -> None:
    for relay in (mirror.target_relay, mirror.source_relay):
        await mirror.hits(6)
        relay.half_close()
        with pytest.raises(UpstreamLost):
            await mirror.converger.converge_entries()
        assert (await mirror.converger.converge_entries()).is_complete
        assert await mirror.differences("users") == []


@pytest.mark.parametrize("seed", seeds(1))
async def test_a_network_that_delays_and_cuts_at_random_loses_nothing(
    old_db: str, new_db: str, seed: int
) -> None:
    print(f"SEED={seed}")
    chance = random.Random(seed)
    async with Apart(old_db, new_db) as mirror:
        await mirror.begin(seed)
        relays = (mirror.source_relay, mirror.target_relay)
        for relay in relays:
            relay.delay_s = 0.002
        done = asyncio.Event()

        async def disturb() -> None:
            while not done.is_set():
                await asyncio.sleep(chance.uniform(0.0, 0.15))
                chance.choice(relays).go_wrong(APPLY)

        async def converge() -> None:
            while not done.is_set():
                try:
                    await mirror.converger.converge_entries()
                except (UpstreamLost, UpstreamRefused):
                    # As the engine does: what is in doubt may still commit, so with a new lease.
                    await take_again(mirror)

        async with asyncio.TaskGroup() as group:
            group.create_task(disturb())
            group.create_task(converge())
            for value in range(1, 60):
                await mirror.hits(value)
                await asyncio.sleep(0.02)
            done.set()
        for relay in relays:
            relay.heal()
        await take_again(mirror)
        while not (await mirror.converger.converge_entries()).is_complete:
            pass
        assert await mirror.differences("users") == []
        assert await mirror.entries() == 0


async def take_again(mirror: Apart) -> None:
    """Take the lease anew, from the backends that may still be at work."""
    await mirror.converger.close()
    for dsn in (mirror.source, mirror.target):
        side = await connect(dsn)
        await side.execute("UPDATE crossfade.heartbeat SET until = now() - interval '1 s'")
        side.terminate()
    async with asyncio.timeout(20):
        while True:
            try:
                mirror.converger = mirror.distant(held=await mirror.take())
                return
            except LeaseLost:
                await asyncio.sleep(0.01)
