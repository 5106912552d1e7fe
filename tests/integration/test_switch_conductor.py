"""One switch: there and back, refused with a reason, undone, and with a target that dies in it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from proxy.crossing.conductor import Conductor
from proxy.demo.clusters import Cluster
from proxy.errors import UpstreamRefused
from proxy.ledger.state import read_state
from proxy.routing.policy import Side
from tests.conftest import start_or_skip
from tests.integration.crossings import Crossing

HISTORY = "SELECT epoch, moved_to, outcome FROM crossfade.switches ORDER BY at"
SEQUENCES = {"users": "users_id_seq", "orders": "orders_id_seq", "countdown": "below"}


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


async def test_there_and_back_with_everything(crossing: Crossing) -> None:
    epoch = (await crossing.reading()).epoch
    for hits, to in enumerate((Side.NEW, Side.OLD, Side.NEW, Side.OLD), start=1):
        await crossing.change(to.other, f"UPDATE users SET hits = {hits} WHERE id <= 5")
        await crossing.change(to.other, f"DELETE FROM users WHERE id = {hits + 5}")
        outcome = await crossing.switch(to)
        assert (outcome.is_done, outcome.authority, outcome.epoch, outcome.reason) == (
            True, to, epoch := epoch + 1, "",
        )  # fmt: skip
        assert await crossing.authority() is to
        assert crossing.proxies.told[-1] == (to, epoch)
        assert not crossing.proxies.is_holding
        assert await crossing.is_equal()
        assert await crossing.entries() == 0
        print(f"to {to}: {outcome.pause_s * 1000:.0f} ms")
    history = await crossing.new.fetch(HISTORY)
    assert [tuple(row) for row in history] == [
        (2, "new", "done"), (3, "old", "done"), (4, "new", "done"), (5, "old", "done")
    ]  # fmt: skip


async def test_sequences_are_ahead_after_the_switch_and_after_the_way_back(crossing: Crossing) -> None:
    """Also of values that were drawn and never used, cached by a session, or counted downwards."""
    drawn: dict[str, list[int]] = {table: [] for table in SEQUENCES}
    inserts = {
        "users": "INSERT INTO users (hits) VALUES (0)",
        "orders": "INSERT INTO orders (user_id) VALUES (1)",
        "countdown": "INSERT INTO countdown DEFAULT VALUES",
    }
    authority = Side.OLD
    for to in (Side.NEW, Side.OLD, Side.NEW):
        for table, insert in inserts.items():
            keys = await crossing.change(authority, insert, table)
            assert not set(keys) & set(drawn[table])
            drawn[table] += keys
        for sequence, table in (
            ("users_id_seq", "users"),
            ("orders_id_seq", "orders"),
            ("below", "countdown"),
        ):
            unused = await crossing.side(authority).fetchval(f"SELECT nextval('{sequence}')")
            assert unused not in drawn[table]
            drawn[table].append(unused)
        assert (await crossing.switch(to)).is_done
        authority = to
    for table, insert in inserts.items():
        (key,) = await crossing.change(authority, insert, table)
        assert key < min(drawn[table]) if table == "countdown" else key > max(drawn[table])


async def refused(crossing: Crossing, *, max_pause_s: float = 5.0) -> str:
    """Order a switch that must not be done, and return why; everything is as it was."""
    before = await crossing.reading()
    outcome = await crossing.switch(Side.NEW, max_pause_s=max_pause_s)
    assert not outcome.is_done
    assert await crossing.reading() == before
    assert await crossing.authority() is Side.OLD
    assert not crossing.proxies.is_holding
    recorded = await crossing.old.fetchval("SELECT reason FROM crossfade.switches ORDER BY at DESC LIMIT 1")
    assert recorded == outcome.reason
    return str(outcome.reason)


async def test_open_write_transactions_of_the_proxies_undo_it(crossing: Crossing) -> None:
    crossing.proxies.open_count = 2
    assert "2 write transactions were still open after 0.1 s" in await refused(crossing, max_pause_s=0.2)


async def test_an_open_write_that_no_proxy_knows_of_undoes_it(crossing: Crossing) -> None:
    async with crossing.old.transaction():
        await crossing.enter("users", [1])
        other = await crossing.side(Side.NEW).fetchval("SELECT 1")  # the other side is not concerned
        assert other == 1
        outcome = await crossing.switch(
            Side.NEW, max_pause_s=0.84
        )  # two tries for the lock, and time to say so
        assert outcome.reason == "a write outside these proxies held the ledger"
    assert await crossing.authority() is Side.OLD
    assert (await crossing.switch(Side.NEW)).is_done


async def test_a_write_that_is_open_for_long_refuses_it_and_nobody_is_held(crossing: Crossing) -> None:
    async with crossing.old.transaction():
        await crossing.enter("users", [1])
        await asyncio.sleep(0.3)
        held = crossing.proxies.hold_count
        outcome = await crossing.switch(Side.NEW, max_pause_s=0.2)
        told = r"a write transaction has been open for \d+ s on the authority \(pid "
        assert re.search(told, outcome.reason)
        assert crossing.proxies.hold_count == held
    assert (await crossing.switch(Side.NEW)).is_done


async def test_a_key_that_the_target_refuses_undoes_it(crossing: Crossing) -> None:
    await crossing.new.execute("ALTER TABLE users ADD CHECK (hits < 10)")
    await crossing.change(Side.OLD, "UPDATE users SET hits = 10 WHERE id = 1")
    assert await refused(crossing) == "1 keys cannot be converged"
    await crossing.new.execute("ALTER TABLE users DROP CONSTRAINT users_hits_check")
    await crossing.old.execute("UPDATE crossfade.ledger SET retry_at = now()")
    assert (await crossing.switch(Side.NEW)).is_done


async def test_a_target_that_is_too_slow_undoes_it(crossing: Crossing) -> None:
    await crossing.change(Side.OLD, "UPDATE users SET hits = 1 WHERE id = 1")
    async with crossing.new.transaction():
        await crossing.new.execute("LOCK TABLE users")
        assert "longer than max_pause (0.5 s)" in await refused(crossing, max_pause_s=0.5)
    await crossing.succeed()  # what may still be in flight ends with the lease
    assert (await crossing.switch(Side.NEW)).is_done
    assert await crossing.is_equal()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Cluster]:
    """A cluster that a test may kill."""
    cluster = start_or_skip(18)
    yield cluster
    cluster.remove()


@contextlib.contextmanager
def dying(cluster: Cluster, step: str) -> Iterator[None]:
    """Kill a cluster, as a crash does, before a step of a conductor."""
    original: Callable[..., Any] = getattr(Conductor, step)

    async def killed(self: Conductor, *args: Any, **kwargs: Any) -> Any:
        await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
        return await original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conductor, step, killed)
        yield


@pytest.fixture
async def mortal_crossing(
    mortal: Cluster, old_db: str, make_database: Callable[..., str]
) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, make_database(mortal)) as crossing:
        await crossing.begin()
        await crossing.change(Side.OLD, "UPDATE users SET hits = 7 WHERE id = 7")
        yield crossing


async def test_a_target_that_dies_after_the_fence_has_its_switch_taken_back(
    mortal: Cluster, mortal_crossing: Crossing
) -> None:
    crossing = mortal_crossing
    with dying(mortal, "_prepare"):
        outcome = await crossing.switch(Side.NEW)
    assert (outcome.is_done, outcome.authority, outcome.epoch) == (False, Side.OLD, 2)
    assert crossing.proxies.told == [(Side.OLD, 2)]
    await crossing.change(Side.OLD, "UPDATE users SET hits = 8 WHERE id = 8")  # the clients go on at once
    mortal.start()
    async with Crossing(crossing.source.url(), crossing.target.url()) as after:
        await after.resume(crossing)
        assert (await after.conductor().recover()).authority is Side.OLD
        assert (await after.switch(Side.NEW)).is_done
        assert await after.is_equal()
        assert await after.new.fetchval("SELECT sum(hits) FROM users") == 15


@pytest.mark.parametrize("step", ["_decide", "_release"])
async def test_a_target_that_dies_in_the_decision_is_waited_for(
    mortal: Cluster, mortal_crossing: Crossing, step: str
) -> None:
    """Nobody can know whether it decided, so nobody reigns until it is asked; then it is finished."""
    crossing = mortal_crossing
    with dying(mortal, step), contextlib.suppress(UpstreamRefused, asyncpg.PostgresError, OSError):
        await crossing.switch(Side.NEW)
    assert not (await read_state(crossing.old)).is_authority
    with pytest.raises(UpstreamRefused):
        await crossing.conductor().recover()
    mortal.start()
    async with Crossing(crossing.source.url(), crossing.target.url()) as after:
        await after.resume(crossing)
        assert (await after.conductor().recover()).authority is Side.NEW
        assert await after.authority() is Side.NEW
        assert await after.old.fetch(HISTORY) == [(2, "new", "done")]  # whoever has finished it
        assert await after.is_equal()
        assert (await after.switch(Side.OLD)).is_done
        assert await after.old.fetch(HISTORY) == [(2, "new", "done"), (3, "old", "done")]
