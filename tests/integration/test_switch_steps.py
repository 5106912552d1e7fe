"""A conductor fails, dies or falls asleep at every step of a switch: one authority, nothing lost.

    fails            the step raises, and the conductor itself goes on as it thinks right
    dies, or sleeps  it stops; the next owner of the lease ends its backends, recovers and goes
                     on; and then the lost one wakes up and goes on, too

Each way at each step, before the step and after it, in the direction that is due.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.crossing.conductor import Conductor
from proxy.errors import ProxyError
from proxy.routing.policy import Side
from tests.integration.crossings import Crossing

STEPS = (
    "_hold", "_lock", "_drain", "_set_sequences", "_resign", "_fence", "_prepare", "_decide", "_release",
    "_record",
)  # fmt: skip
FAILURES = (ProxyError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
MAX_PAUSE_S = 30.0  # nothing here is meant to run into it


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


class Trap:
    """Something that happens once, at one step of a conductor."""

    def __init__(self, step: str, moment: str) -> None:
        self._step = step
        self._moment = moment
        self.reached = asyncio.Event()
        self.woken = asyncio.Event()

    @contextlib.contextmanager
    def set(self, *, raises: bool) -> Any:
        """Set the trap: the step raises, or waits until it is woken."""
        original = getattr(Conductor, self._step)
        trap = self

        async def spring() -> None:
            trap.reached.set()
            if raises:
                raise OSError("injected")
            await trap.woken.wait()

        async def trapped(self: Conductor, *args: Any, **kwargs: Any) -> Any:
            if trap.reached.is_set():
                return await original(self, *args, **kwargs)
            if trap._moment == "before":
                await spring()
                return await original(self, *args, **kwargs)
            result = await original(self, *args, **kwargs)
            await spring()
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Conductor, self._step, trapped)
            yield


async def changed(crossing: Crossing, hits: int) -> Side:
    """Write to the authority, so that the switch has something to drain; return the authority."""
    authority = await crossing.authority()
    await crossing.change(authority, f"UPDATE users SET hits = {hits} WHERE id <= 5")
    return authority


async def require_whole(crossing: Crossing, hits: int) -> None:
    """There is one authority, it has every write, and the other side can follow it."""
    authority = await crossing.authority()
    rows = await crossing.side(authority).fetch("SELECT hits FROM users WHERE id <= 5")
    assert [row["hits"] for row in rows] == [hits] * 5
    await crossing.converge(authority)
    assert await crossing.is_equal()


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_leaves_one_authority(crossing: Crossing, step: str) -> None:
    for hits, moment in enumerate(("before", "after"), start=1):
        trap = Trap(step, moment)
        authority = await changed(crossing, hits)
        with trap.set(raises=True):
            try:
                outcome = await crossing.switch(authority.other, max_pause_s=MAX_PAUSE_S)
            except FAILURES:
                outcome = None
        assert trap.reached.is_set()
        assert len(await crossing.accepting()) <= 1
        if outcome is not None and not outcome.is_done:
            assert outcome.reason == "injected"
        await crossing.conductor().recover()
        if outcome is not None:
            assert await crossing.authority() is outcome.authority
        await crossing.succeed()  # as the engine does after a switch that was undone
        await require_whole(crossing, hits)


@pytest.mark.parametrize("step", STEPS)
async def test_the_next_owner_finishes_what_a_lost_one_began(crossing: Crossing, step: str) -> None:
    hits = 0
    for moment in ("before", "after"):
        trap = Trap(step, moment)
        authority = await changed(crossing, hits := hits + 1)
        with trap.set(raises=False):
            lost = asyncio.create_task(crossing.switch(authority.other, max_pause_s=MAX_PAUSE_S))
            await trap.reached.wait()
            assert len(await crossing.known_to_accept()) <= 1
            await crossing.succeed()
            await crossing.conductor().recover()
            await require_whole(crossing, hits)
            authority = await changed(crossing, hits := hits + 1)
            trap.woken.set()
            await asyncio.wait({lost})
        assert isinstance(lost.exception(), FAILURES) or lost.result() is not None
        assert await crossing.authority() is authority
        await require_whole(crossing, hits)
