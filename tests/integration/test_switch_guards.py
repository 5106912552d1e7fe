"""What keeps a switch safe, each taken away: without it, the same course of events goes wrong.

Each race is a function that returns what came of it; one test with the guard, one without.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from proxy.crossing import conductor as conductors
from proxy.crossing.conductor import Conductor
from proxy.crossing.machine import Situation
from proxy.errors import LeaseLost, ProxyError
from proxy.ledger import lease as leases
from proxy.ledger import state as states
from proxy.ledger.connection import connect
from proxy.ledger.lease import Lease
from proxy.routing.policy import Side
from tests.integration.crossings import Crossing
from tests.integration.test_switch_steps import Trap

_PATIENCE_S = 0.5  # with a commit that is in flight: any time will do
FAILURES = (ProxyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost owner's backends survive its successor, as behind a pooler or with another login."""

    async def not_reached(connection: asyncpg.Connection, owner: str) -> None:
        """As above."""

    monkeypatch.setattr(leases, "terminate", not_reached)


@asynccontextmanager
async def asleep(crossing: Crossing, step: str) -> AsyncIterator[Trap]:
    """A conductor on its way to the new side that fell asleep before a step; it wakes up at the end."""
    trap = Trap(step, "before")
    with trap.set(raises=False):
        lost = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=60))
        await trap.reached.wait()
        yield trap
        trap.woken.set()
        await asyncio.wait({lost})
        lost.exception()  # whatever it came to: what counts is what it did to the clusters


# The fence: the ledger of the side that resigned refuses entries.


async def write_of_a_stale_proxy(crossing: Crossing) -> str:
    """A proxy that missed the switch writes to the old side; return what became of the write."""
    assert (await crossing.switch(Side.NEW)).is_done
    try:
        await crossing.change(Side.OLD, "UPDATE users SET hits = 1 WHERE id = 1")
    except asyncpg.PostgresError as error:
        return f"refused: {error.sqlstate}"
    await crossing.change(Side.NEW, "UPDATE users SET email = 'new' WHERE id = 1")
    await crossing.converge(Side.NEW)
    hits = [await crossing.side(side).fetchval("SELECT hits FROM users WHERE id = 1") for side in Side]
    return "lost" if hits == [0, 0] else f"somewhere: {hits}"


async def test_the_fence_refuses_the_write_of_a_stale_proxy(crossing: Crossing) -> None:
    assert await write_of_a_stale_proxy(crossing) == "refused: CF001"


async def test_without_the_fence_an_acknowledged_write_is_lost(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(connection: asyncpg.Connection, *, is_open: bool) -> None:
        if is_open:
            await connection.execute("ALTER TABLE crossfade.ledger DISABLE TRIGGER fence")

    monkeypatch.setattr(states, "set_fence", none)
    assert await write_of_a_stale_proxy(crossing) == "lost"


# The lock: an exact drain of the writes in flight, of proxies known or not.


async def write_in_flight(crossing: Crossing) -> str:
    """A captured write, in no proxy's count, is open while the switch goes on, and commits then."""
    writer = crossing.old.transaction()
    await writer.start()
    await crossing.change(Side.OLD, "UPDATE users SET hits = 1 WHERE id = 1")
    outcome = await crossing.switch(Side.NEW, max_pause_s=0.5)
    await writer.commit()
    await crossing.conductor().recover()
    if not outcome.is_done:
        return "switch undone"
    await crossing.converge(Side.NEW)
    hits = await crossing.new.fetchval("SELECT hits FROM users WHERE id = 1")
    return "arrived" if hits == 1 else "lost"


async def test_a_write_in_flight_is_waited_for(crossing: Crossing) -> None:
    assert await write_in_flight(crossing) == "switch undone"


async def test_without_the_ledgers_lock_a_write_in_flight_is_lost(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_taken(connection: asyncpg.Connection, *, timeout_s: float) -> None:
        """As above."""

    async def state_only(connection: asyncpg.Connection, *, is_open: bool) -> None:
        """ALTER TABLE would take a lock of its own, and wait for the writer."""

    monkeypatch.setattr(states, "lock_ledger", not_taken)
    monkeypatch.setattr(states, "set_fence", state_only)
    assert await write_in_flight(crossing) == "lost"


# The lease: a conductor that wakes up late.


async def late_decision(crossing: Crossing) -> list[Side]:
    """One sleeps between fence and decision; the next finishes it and goes back; it wakes up."""
    async with asleep(crossing, "_prepare"):
        await crossing.succeed()
        assert (await crossing.conductor().recover()).authority is Side.NEW
        assert (await crossing.switch(Side.OLD)).is_done
    return await crossing.accepting()


@pytest.mark.usefixtures("unreachable")
async def test_a_conductor_that_wakes_up_late_cannot_decide(crossing: Crossing) -> None:
    assert await late_decision(crossing) == [Side.OLD]


@pytest.mark.usefixtures("unreachable")
async def test_without_the_lease_a_late_decision_makes_two_authorities(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "guard", lambda self, *, is_target: "SELECT 1;")
    assert await late_decision(crossing) == [Side.OLD, Side.NEW]


async def late_note(crossing: Crossing) -> Situation:
    """One sleeps before it writes its history; two switches later it wakes up behind a fence."""
    async with asleep(crossing, "_record"):
        await crossing.succeed()
        await crossing.conductor().recover()
        assert (await crossing.switch(Side.OLD)).is_done
        trap = Trap("_prepare", "before")
        with trap.set(raises=False):
            dies = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=60))
            await trap.reached.wait()
            dies_with = crossing.lease
    for side in Side:
        await leases.terminate(crossing.side(side), dies_with.owner)
    found = await crossing.reading()
    dies.cancel()
    await asyncio.wait({dies})
    return found.situation


async def test_history_that_is_written_late_leaves_a_newer_note_alone(crossing: Crossing) -> None:
    assert await late_note(crossing) is Situation.FINISH


async def test_without_the_lease_late_history_wipes_out_a_newer_note(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unchecked(self: Conductor, connection: asyncpg.Connection, epoch: int) -> None:
        await states.follow(connection, epoch)

    monkeypatch.setattr(Conductor, "_follow", unchecked)
    assert await late_note(crossing) is Situation.IMPOSSIBLE


@pytest.mark.usefixtures("unreachable")
async def test_nobody_takes_over_while_sequences_are_being_set(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set after the takeover, they could go back behind what the new authority has given out."""
    reached, woken = asyncio.Event(), asyncio.Event()
    original = conductors.set_sequences

    async def slow(*args: Any, **kwargs: Any) -> int:
        reached.set()
        await woken.wait()
        return await original(*args, **kwargs)

    monkeypatch.setattr(conductors, "set_sequences", slow)
    switching = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=60))
    await reached.wait()
    with pytest.raises(LeaseLost, match="still running"):
        await crossing.succeed()
    woken.set()
    assert (await switching).is_done


# Reading the state: only when nothing is in flight.


async def fence_in_flight(crossing: Crossing) -> tuple[bool, list[Side]]:
    """The fence's commit is on its way to a backend that hangs, until patience is lost; then it lands.

    Returns:
        What the conductor took it for, and who accepts writes in the end.
    """
    resign, fence = Conductor._resign, Conductor._fence
    hanging: list[int] = []
    reached = asyncio.Event()

    async def noted(self: Conductor, source: asyncpg.Connection, note: Any) -> None:
        hanging.append(source.get_server_pid())
        await resign(self, source, note)

    async def stuck(self: Conductor, transaction: Any) -> None:
        os.kill(hanging[0], signal.SIGSTOP)
        reached.set()
        async with asyncio.timeout(_PATIENCE_S):
            await fence(self, transaction)

    watcher = await connect(crossing.source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conductor, "_resign", noted)
        patch.setattr(Conductor, "_fence", stuck)
        switching = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=60))
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%crossfade.state FOR SHARE%')"
        )
        try:
            await reached.wait()
            while not switching.done() and not await watcher.fetchval(waits):
                await asyncio.sleep(0.01)
        finally:
            # A stopped backend would block every DROP DATABASE of the whole cluster.
            for pid in hanging:
                os.kill(pid, signal.SIGCONT)
    outcome = await switching
    while await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", hanging[0]):
        await asyncio.sleep(0.01)
    watcher.terminate()
    return outcome.is_done, await crossing.accepting()


async def test_a_fence_that_lands_after_patience_was_lost_is_finished(crossing: Crossing) -> None:
    assert await fence_in_flight(crossing) == (True, [Side.NEW])


async def test_without_waiting_for_what_is_in_flight_nobody_reigns(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "read_certain_state", states.read_state)
    assert await fence_in_flight(crossing) == (False, [])
