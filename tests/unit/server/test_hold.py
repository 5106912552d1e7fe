"""The hold: what waits goes on in order, whoever ends it, and the drain is exact."""

from __future__ import annotations

import asyncio

import pytest

from proxy.server.hold import Hold

FOREVER_S = 3600.0


class Session:
    """A session that notes what it was told to go on with."""

    def __init__(self, resumed: list[str]) -> None:
        self._resumed = resumed

    def resume(self, request: str) -> None:
        if request == "fails":
            raise ValueError("this session is broken")
        self._resumed.append(request)


@pytest.fixture
def resumed() -> list[str]:
    return []


@pytest.fixture
def hold() -> Hold[str]:
    return Hold()


async def settled() -> None:
    """Let everything run that is due now."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


async def test_what_was_held_goes_on_in_the_order_in_which_it_came(
    hold: Hold[str], resumed: list[str]
) -> None:
    hold.begin(limit_s=FOREVER_S)
    assert hold.is_on
    for number in range(5):
        hold.queue(Session(resumed), str(number))
    assert hold.queued_count == 5
    hold.end()
    assert not hold.is_on and hold.queued_count == 0
    await settled()
    assert resumed == ["0", "1", "2", "3", "4"]


async def test_a_hold_that_nobody_ends_ends_itself(hold: Hold[str], resumed: list[str]) -> None:
    hold.queue(Session(resumed), "waits")
    hold.begin(limit_s=0.001)
    while hold.is_on or not resumed:
        await settled()
    assert resumed == ["waits"]


async def test_a_second_hold_has_its_own_limit(hold: Hold[str]) -> None:
    hold.begin(limit_s=0.001)
    hold.begin(limit_s=FOREVER_S)
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, ended.set)
    await ended.wait()
    assert hold.is_on


async def test_ending_twice_resumes_once(hold: Hold[str], resumed: list[str]) -> None:
    hold.begin(limit_s=FOREVER_S)
    hold.queue(Session(resumed), "once")
    hold.end()
    hold.end()
    await settled()
    assert resumed == ["once"]


async def test_a_session_that_is_gone_is_not_resumed(hold: Hold[str], resumed: list[str]) -> None:
    stays, leaves = Session(resumed), Session(resumed)
    hold.begin(limit_s=FOREVER_S)
    hold.queue(leaves, "of the one that left")
    hold.queue(stays, "of the one that stayed")
    hold.leave_queue(leaves)
    hold.end()
    await settled()
    assert resumed == ["of the one that stayed"]


async def test_a_session_that_fails_strands_nobody_behind_it(hold: Hold[str], resumed: list[str]) -> None:
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: failures.append(str(context["exception"]))
    )
    hold.begin(limit_s=FOREVER_S)
    hold.queue(Session(resumed), "fails")
    hold.queue(Session(resumed), "behind it")
    hold.end()
    await settled()
    assert (failures, resumed) == (["this session is broken"], ["behind it"])


async def test_the_drain_waits_for_every_writer(hold: Hold[str]) -> None:
    first, second = object(), object()
    hold.enter(first)
    hold.enter(second)
    hold.enter(second)  # its second statement
    drained = asyncio.create_task(hold.wait_drained())
    await settled()
    hold.leave(second)
    await settled()
    assert not drained.done() and hold.writers_count == 1
    hold.leave(first)
    await drained


async def test_nothing_to_drain_is_drained(hold: Hold[str]) -> None:
    await hold.wait_drained()
    hold.leave(object())  # a session that never wrote
    await hold.wait_drained()


async def test_two_wait_for_the_drain_and_one_gives_up(hold: Hold[str]) -> None:
    """A conductor died in its hold; the next one's drain must not end or hang with the first's."""
    writer = object()
    hold.enter(writer)
    first = asyncio.create_task(hold.wait_drained())
    second = asyncio.create_task(hold.wait_drained())
    await settled()
    first.cancel()
    await settled()
    assert first.cancelled() and not second.done()
    hold.leave(writer)
    await second
