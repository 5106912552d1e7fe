"""Pinned sessions when the authority moves: who can follow does so unseen, who cannot is ended in the end."""

from __future__ import annotations

import pytest

from proxy.errors import PoolTimeout
from proxy.routing.policy import Side
from proxy.wire import messages
from proxy.wire.frames import Frame, encode
from tests.unit.server.sample import frames
from tests.unit.server.talk import NEW, OLD, Proxy, Talker
from tests.unit.upstream.sample import settled
from tests.unit.wire.sample import NOTIFICATION, READY, ROW, column, complete, description, failure

SELECT, WRITE = messages.query(b"SELECT 1 FROM a"), messages.query(b"DELETE FROM aside")
LISTEN, EMPTY = messages.query(b'LISTEN "news"'), messages.query(b"")
LISTENED, NOTHING = complete("LISTEN") + READY, messages.EMPTY_QUERY + READY
ROWS = encode(b"T", description(column(b"id", 23))) + ROW + complete("SELECT 1") + READY
DELETED = complete("DELETE 1") + READY
IN_TRANSACTION = messages.ready(ord("T"))


@pytest.fixture
async def proxy() -> Proxy:
    return Proxy()


async def pinned(proxy: Proxy, text: bytes, answer: bytes) -> Talker:
    talker = await proxy.connect()
    await talker.send(messages.query(text))
    proxy.server.received()
    proxy.server.answer(answer)
    await settled()
    talker.seen()
    return talker


async def listening(proxy: Proxy) -> Talker:
    return await pinned(proxy, b"LISTEN news", LISTENED)


async def basket(proxy: Proxy) -> Talker:
    talker = await pinned(proxy, b"CREATE TEMP TABLE basket (id int)", complete("CREATE TABLE") + READY)
    (question,) = proxy.server.received()
    assert b"pg_my_temp_schema" in question.body
    proxy.server.answer(encode(b"D", b"\0\1\0\0\0\1t"), complete("SELECT 1"), READY)
    return talker


async def move(proxy: Proxy, side: Side, epoch: int) -> None:
    proxy.database.move_authority(side, epoch)
    await settled()


def said(talker: Talker) -> str:
    """Return the SQLSTATE and message of the error that the client got last."""
    error = messages.read_error(talker.seen_frames()[-1].body)
    return f"{error['S']} {error['C']} {error['M']}"


async def test_who_listens_follows_and_sees_only_what_it_listens_to(proxy: Proxy) -> None:
    talker = await listening(proxy)
    old = proxy.server
    await move(proxy, Side.NEW, 2)
    assert (proxy.server.place, proxy.server.received()) == (NEW, frames(LISTEN + EMPTY))
    assert not old.connection.is_usable and old.received()[-1:] == [Frame(ord("X"), b"")]
    proxy.server.answer(complete("LISTEN"), NOTIFICATION, READY)
    proxy.server.answer(messages.EMPTY_QUERY, NOTIFICATION, READY, NOTIFICATION)
    assert talker.seen() == NOTIFICATION * 3
    await talker.send(WRITE)
    assert proxy.server.received() == frames(WRITE)
    proxy.server.answer(DELETED)
    assert talker.seen() == DELETED


async def test_a_request_that_comes_meanwhile_waits_for_the_move(proxy: Proxy) -> None:
    talker = await listening(proxy)
    await move(proxy, Side.NEW, 2)
    proxy.server.received()
    await talker.send(SELECT)
    assert proxy.server.received() == []
    proxy.server.answer(LISTENED, NOTHING)
    assert proxy.server.received() == frames(SELECT)
    proxy.server.answer(ROWS)
    assert talker.seen() == ROWS


async def test_who_runs_something_moves_when_it_has_ended(proxy: Proxy) -> None:
    talker = await listening(proxy)
    await talker.send(SELECT)
    old = proxy.server
    await move(proxy, Side.NEW, 2)
    assert proxy.server is old
    old.answer(ROWS)
    await settled()
    assert talker.seen() == ROWS
    assert (proxy.server.place, proxy.server.received()) == (NEW, frames(LISTEN + EMPTY))


async def test_who_is_in_a_transaction_moves_after_it(proxy: Proxy) -> None:
    talker = await listening(proxy)
    await talker.send(messages.query(b"BEGIN READ ONLY"))
    old = proxy.server
    old.answer(complete("BEGIN") + IN_TRANSACTION)
    await move(proxy, Side.NEW, 2)
    assert proxy.server is old
    await talker.send(messages.query(b"COMMIT"))
    old.answer(complete("COMMIT") + READY)
    await settled()
    assert proxy.server.place == NEW


async def test_behind_the_fence_who_listens_is_run_again_and_listens_there(proxy: Proxy) -> None:
    talker = await listening(proxy)
    await talker.send(WRITE)
    proxy.server.answer(failure("CF001") + READY)
    assert talker.seen() == b""
    await move(proxy, Side.NEW, 2)
    proxy.database.hold.end()
    await settled()
    assert (proxy.server.place, proxy.server.received()) == (NEW, frames(LISTEN + WRITE))
    proxy.server.answer(LISTENED, DELETED)
    assert talker.seen() == DELETED


async def test_a_cancel_request_does_not_hit_the_move(proxy: Proxy) -> None:
    talker = await listening(proxy)
    await move(proxy, Side.NEW, 2)
    session = talker.connection.session
    assert session is not None
    session.cancel()
    await settled()
    assert proxy.database.cancels.told == []


async def test_who_gets_no_server_is_ended_and_told_why(proxy: Proxy) -> None:
    talker = await listening(proxy)
    session = talker.connection.session
    assert session is not None
    proxy.database.move_authority(Side.NEW, 2)  # it waits for a connection now
    session.server_refused(PoolTimeout("no connection became free"))
    assert said(talker) == "FATAL 57P01 the authority moved and this session cannot: LISTEN"


@pytest.mark.parametrize("is_back", [False, True])
async def test_who_cannot_move_is_ended_when_the_grace_is_over(proxy: Proxy, is_back: bool) -> None:
    talker = await basket(proxy)
    await move(proxy, Side.NEW, 2)
    await talker.send(SELECT)
    assert (proxy.server.place, proxy.server.received()) == (OLD, frames(SELECT))
    proxy.server.answer(ROWS)
    assert talker.seen() == ROWS
    if is_back:
        await move(proxy, Side.OLD, 3)
    proxy.database.end_grace()
    await settled()
    if is_back:
        assert talker.seen() == b"" and not talker.transport.is_closed
    else:
        reason = "the authority moved and this session cannot: temporary object"
        assert said(talker) == f"FATAL 57P01 {reason}"
        assert not proxy.server.connection.is_usable


async def test_who_cannot_move_is_ended_when_it_writes(proxy: Proxy) -> None:
    talker = await basket(proxy)
    await move(proxy, Side.NEW, 2)
    await talker.send(WRITE)
    assert said(talker).startswith("FATAL 57P01")


async def test_the_grace_runs_from_the_last_switch(proxy: Proxy) -> None:
    await basket(proxy)
    await move(proxy, Side.NEW, 2)
    first = proxy.database.grace
    await move(proxy, Side.OLD, 3)
    second = proxy.database.grace
    assert first is not None and first.cancelled()
    assert second is not None and not second.cancelled()
    proxy.database.close()
    assert second.cancelled()
