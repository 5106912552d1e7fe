"""Calls between two processes, over a real socket pair."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.app.channel import Channel, PeerGone
from proxy.errors import SwitchRefused

LONG_S = 30.0


class Stubborn(Exception):
    """It can be pickled, but not read again: its class asks for more than its text."""

    def __init__(self, table: str, *, row: int) -> None:
        super().__init__(f"{table} {row}")


async def one_turn() -> None:
    """Let everything run that is due now."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


@asynccontextmanager
async def pair(
    near: Callable[[Any], Awaitable[Any]], far: Callable[[Any], Awaitable[Any]]
) -> AsyncIterator[tuple[Channel, Channel, list[asyncio.Task[None]]]]:
    """Yield both ends, running."""
    ends = socket.socketpair()
    channels = [Channel(near), Channel(far)]
    running = []
    for channel, end in zip(channels, ends, strict=True):
        end.setblocking(False)
        running.append(asyncio.create_task(channel.run(end)))
    while not all(channel.is_open for channel in channels):
        await one_turn()
    try:
        yield channels[0], channels[1], running
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def echo(value: Any) -> Any:
    return value


async def test_both_ends_may_call_and_answers_find_their_calls() -> None:
    waits = asyncio.Event()

    async def answer(value: int) -> int:
        if value == 0:
            await waits.wait()  # the first call is answered last
        waits.set()
        return value * 10

    async with pair(echo, answer) as (near, far, _):
        calls = [near.call(number, timeout_s=LONG_S) for number in range(3)]
        assert await asyncio.gather(*calls) == [0, 10, 20]
        assert await far.call("back", timeout_s=LONG_S) == "back"


async def test_a_long_value_arrives_whole() -> None:
    async with pair(echo, echo) as (near, _, _):
        value = b"x" * 3_000_000
        assert await near.call(value, timeout_s=LONG_S) == value


async def test_a_refusal_is_raised_where_it_was_called() -> None:
    async def refuse(value: Any) -> Any:
        raise SwitchRefused("the ledger did not become empty")

    async with pair(echo, refuse) as (near, _, _):
        with pytest.raises(SwitchRefused, match="did not become empty"):
            await near.call(None, timeout_s=LONG_S)


@pytest.mark.parametrize("fails", ["raises", "returns"])
async def test_what_cannot_be_sent_does_not_end_the_channel(fails: str) -> None:
    async def answer(value: Any) -> Any:
        if value == "raises":
            raise Stubborn("users", row=1)
        return lambda: None if value == "returns" else value

    async with pair(echo, answer) as (near, far, _):
        with pytest.raises(Exception, match="users 1" if fails == "raises" else "pickle"):
            await near.call(fails, timeout_s=LONG_S)
        assert await far.call("still there", timeout_s=LONG_S) == "still there"


async def test_an_answer_that_comes_too_late_is_dropped() -> None:
    late = asyncio.Event()

    async def answer(value: Any) -> Any:
        if value == "late":
            await late.wait()
        return value

    async with pair(echo, answer) as (near, _, _):
        with pytest.raises(TimeoutError):
            await near.call("late", timeout_s=0.001)
        late.set()
        assert await near.call("in time", timeout_s=LONG_S) == "in time"


async def test_a_peer_that_ends_fails_the_calls_it_owed() -> None:
    called = asyncio.Event()

    async def never(value: Any) -> Any:
        called.set()
        await asyncio.Event().wait()

    async with pair(echo, never) as (near, _, (_, far_running)):
        call = asyncio.create_task(near.call(None, timeout_s=LONG_S))
        await called.wait()
        far_running.cancel()
        with pytest.raises(PeerGone):
            await call
        with pytest.raises(PeerGone):
            await near.call(None, timeout_s=LONG_S)


async def test_a_channel_that_has_not_begun_has_no_peer() -> None:
    with pytest.raises(PeerGone):
        await Channel(echo).call(None, timeout_s=LONG_S)


async def test_first_value_is_of_the_moment_from_which_on_the_other_end_can_be_called() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(echo)
    was_open: list[bool] = []

    def first() -> str:
        was_open.append(channel.is_open)
        return "first"

    running = asyncio.create_task(channel.run(ours, first))
    while not was_open:
        await one_turn()
    assert was_open == [True]
    length = int.from_bytes(theirs.recv(4), "big")
    assert pickle.loads(theirs.recv(length)) == "first"
    theirs.close()
    await running
