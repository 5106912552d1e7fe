"""Borrowing a connection of a pool for one question, and giving it back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import UpstreamLost, UpstreamRefused
from proxy.session.settings import NONE, Settings
from proxy.upstream.connection import ServerConnection, ServerRefusal
from proxy.upstream.exchange import acquire, adopt, ask_text
from proxy.upstream.pool import Pool
from proxy.wire import messages
from proxy.wire.frames import encode
from tests.unit.upstream.sample import Clock, Transport, logged_in, settled
from tests.unit.wire.sample import READY, column, complete, description, failure

ROW = encode(b"D", b"\0\1\0\0\0\6public")
ANSWER = encode(b"T", description(column(b"search_path", 1))) + ROW + complete("SHOW") + READY


class Opener:
    """Opens real connections over fake sockets, as many as there are, then refuses."""

    def __init__(self, count: int = 1) -> None:
        self.servers = [logged_in() for _ in range(count)]
        self.left = list(self.servers)

    async def __call__(self) -> ServerConnection:
        if not self.left:
            raise UpstreamRefused("no more")
        return self.left.pop(0)[0]


def make_pool(opener: Opener) -> Pool:
    return Pool(opener, size_max=1, wait_s=10, is_optional=True, clock=Clock())


async def test_a_free_connection_is_taken_and_else_waited_for() -> None:
    pool = make_pool(Opener())
    server = await acquire(pool)
    waiting = asyncio.create_task(acquire(pool))
    await settled()
    assert not waiting.done()
    pool.release(server)
    assert await waiting is server
    pool.release(server)
    assert await acquire(pool) is server


async def test_a_refusal_reaches_whoever_waits() -> None:
    with pytest.raises(UpstreamRefused, match="no more"):
        await acquire(make_pool(Opener(0)))


@pytest.mark.parametrize("is_granted_first", [True, False])
async def test_a_wait_that_is_cancelled_as_it_is_granted_loses_no_connection(is_granted_first: bool) -> None:
    """Both in one turn of the loop, in either order."""
    pool = make_pool(Opener())
    server = await acquire(pool)
    waiting = asyncio.create_task(acquire(pool))
    await settled()
    if is_granted_first:
        pool.release(server)
        waiting.cancel()
    else:
        waiting.cancel()
        pool.release(server)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.take() is server
    assert pool.statistics().waiting == 0


async def test_a_wait_that_is_cancelled_as_it_is_refused_hurts_nobody() -> None:
    clock = Clock()
    pool = Pool(Opener(1), size_max=1, wait_s=10, is_optional=False, clock=clock)
    await acquire(pool)
    waiting = asyncio.create_task(acquire(pool))
    await settled()
    clock.now_s += 11
    waiting.cancel()
    pool.tend(idle_s=60, lifetime_s=300)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def asked(answer: bytes, *, is_lost: bool = False) -> tuple[str, ServerConnection, Transport]:
    """Ask a server that answers this, byte by byte."""
    server, transport = logged_in()
    asking = asyncio.create_task(ask_text(server, "SHOW search_path"))
    await settled()
    assert transport.take_written() == messages.query(b"SHOW search_path")
    for at in range(len(answer)):
        server.data_received(answer[at : at + 1])
    if is_lost:
        server.connection_lost(None)
    return await asking, server, transport


async def test_the_first_value_of_an_answer() -> None:
    text, server, _ = await asked(ANSWER)
    assert text == "public"
    assert server.owner is None and server.is_usable


@pytest.mark.parametrize(
    "answer", [complete("SELECT 0") + READY, encode(b"D", b"\0\1\xff\xff\xff\xff") + READY]
)
async def test_no_row_or_no_value_is_an_empty_text(answer: bytes) -> None:
    text, _, _ = await asked(answer)
    assert text == ""


async def test_a_question_that_fails_leaves_a_usable_connection() -> None:
    with pytest.raises(ServerRefusal, match="it failed"):
        await asked(failure("42704") + READY)


async def test_a_server_that_is_lost_while_asked() -> None:
    with pytest.raises(UpstreamLost, match="the server closed the connection"):
        await asked(ANSWER[:-1], is_lost=True)


async def test_whoever_gives_up_asking_leaves_the_connection_to_be_closed() -> None:
    server, _ = logged_in()
    asking = asyncio.create_task(ask_text(server, "SELECT pg_sleep(60)"))
    await settled()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not server.is_usable and server.owner is None


async def test_settings_are_adopted_once_and_only_if_taken() -> None:
    server, transport = logged_in()
    wanted = Settings.of({"geqo": "off"})
    adopting = asyncio.create_task(adopt(server, wanted))
    await settled()
    assert transport.take_written() == messages.query(b'SET "geqo" TO off')
    assert server.applied is NONE
    server.data_received(complete("SET") + READY)
    await adopting
    assert server.applied is wanted
    await adopt(server, wanted)
    assert transport.written == b""


async def test_settings_that_are_refused_are_not_there() -> None:
    server, _ = logged_in()
    adopting = asyncio.create_task(adopt(server, Settings.of({"geqo": "maybe"})))
    await settled()
    server.data_received(failure("22023") + READY)
    with pytest.raises(ServerRefusal):
        await adopting
    assert server.applied is NONE
