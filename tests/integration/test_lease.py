"""One owner at a time, and a dead one is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.errors import LeaseLost
from proxy.ledger import lease
from proxy.ledger.connection import connect
from tests.integration.mirrors import Mirror


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start("CREATE TABLE users (id int PRIMARY KEY)")
        yield mirror


async def epochs(mirror: Mirror) -> list[tuple[str, int]]:
    query = "SELECT owner, epoch FROM crossfade.lease WHERE name = 'engine'"
    return [tuple(await side.fetchrow(query) or ()) for side in (mirror.old, mirror.new)]  # type: ignore[misc]


async def backends(mirror: Mirror, held: lease.Lease) -> int:
    return int(
        await mirror.old.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", held.application_name
        )
    )


async def test_a_living_owner_is_not_replaced(mirror: Mirror) -> None:
    with pytest.raises(LeaseLost, match=f"the engine is run by {mirror.lease.owner}"):
        await mirror.take()
    for side in (mirror.old, mirror.new):
        await lease.renew(side, mirror.lease)
        await lease.check(side, mirror.lease)
    assert await epochs(mirror) == [(mirror.lease.owner, 1), (mirror.lease.owner, 1)]


async def test_the_same_owner_may_take_it_again(mirror: Mirror) -> None:
    again = await mirror.take(mirror.lease.owner)
    assert again == lease.Lease(mirror.lease.owner, 2)
    with pytest.raises(LeaseLost):
        await lease.check(mirror.new, mirror.lease, is_target=True)


async def test_an_owner_without_backends_is_replaced_at_once(mirror: Mirror) -> None:
    for side in (mirror.old, mirror.new):
        await lease.terminate(side, mirror.lease.owner)
    while await backends(mirror, mirror.lease):
        pass
    successor = await mirror.take()
    assert successor.epoch == 2
    with pytest.raises(LeaseLost, match="another process took the lease"):
        await lease.renew(mirror.old, mirror.lease)


async def test_an_expired_owner_loses_its_backends_with_the_lease(mirror: Mirror) -> None:
    stuck = await connect(mirror.source, application_name=mirror.lease.application_name)
    await stuck.execute(f"BEGIN; {mirror.lease.guard(is_target=False)}")
    await mirror.old.execute("UPDATE crossfade.heartbeat SET until = now() - interval '1 s'")
    successor = await mirror.take()
    assert successor.epoch == 2
    assert await backends(mirror, mirror.lease) == 0
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await stuck.execute("COMMIT")


async def test_a_released_lease_is_free_and_its_epoch_stays_used(mirror: Mirror) -> None:
    for side in (mirror.old, mirror.new):
        await lease.release(side, mirror.lease)
    assert (await mirror.take()).epoch == 2


async def test_epoch_grows_past_a_takeover_that_died_half_way(mirror: Mirror) -> None:
    await mirror.new.execute("UPDATE crossfade.lease SET epoch = 9")
    for side in (mirror.old, mirror.new):
        await lease.release(side, mirror.lease)
    assert (await mirror.take()).epoch == 10
    assert [epoch for _, epoch in await epochs(mirror)] == [10, 10]


async def test_of_two_candidates_one_wins(mirror: Mirror) -> None:
    for side in (mirror.old, mirror.new):
        await lease.release(side, mirror.lease)
    taken = await asyncio.gather(*(mirror.take() for _ in range(4)), return_exceptions=True)
    won = [result for result in taken if isinstance(result, lease.Lease)]
    assert [type(result) for result in taken if result not in won] == [LeaseLost] * (4 - len(won))
    assert len(won) >= 1
    newest = max(won, key=lambda held: held.epoch)
    assert await epochs(mirror) == [(newest.owner, newest.epoch)] * 2


async def test_keep_renews_until_somebody_else_takes_over(mirror: Mirror) -> None:
    until = "SELECT until FROM crossfade.heartbeat WHERE name = 'engine'"
    before = await mirror.new.fetchval(until)
    keeping = asyncio.create_task(lease.keep(mirror.lease, mirror.source, mirror.target))
    async with asyncio.timeout(20):
        while await mirror.new.fetchval(until) == before:
            await asyncio.sleep(0.01)
        await mirror.old.execute("UPDATE crossfade.heartbeat SET owner = 'somebody else'")
        with pytest.raises(LeaseLost):
            await keeping
