"""What a request on the fast lane leaves of the one before it: nothing."""

from __future__ import annotations

import pytest

from proxy.wire import messages
from tests.unit.server.sample import SYNC, bind, parse
from tests.unit.server.talk import Proxy
from tests.unit.server.test_session import (
    DELETED,
    EXECUTE,
    IN_TRANSACTION,
    ROWS,
    SELECT,
    WRITE,
    ask,
    error_of,
)
from tests.unit.wire.sample import READY, complete, failure

Q = messages.query
BC, PC = messages.BIND_COMPLETE, messages.PARSE_COMPLETE


@pytest.fixture
async def proxy() -> Proxy:
    return Proxy()


async def test_position_of_plain_query_behind_a_captured_bind(proxy: Proxy) -> None:
    """`aside` is not mirrored: that statement is sent as it came, so its position is the client's own."""
    talker = await proxy.connect()
    captured = parse(b"s", "DELETE FROM a WHERE id = 1")
    answer = BC + complete("INSERT 0 1") + READY
    await ask(proxy, talker, captured, bind(b"s"), EXECUTE, SYNC, answer=PC + answer)
    await ask(proxy, talker, WRITE, answer=DELETED)  # known to the fast lane from here on
    await ask(proxy, talker, bind(b"s"), EXECUTE, SYNC, answer=answer)
    talker.seen()
    await ask(proxy, talker, WRITE, answer=failure("42P01", P="13") + READY)
    assert error_of(talker.seen_frames()[0]).get("P") == "13"


async def test_commit_waits_for_the_mirror_each_time(proxy: Proxy) -> None:
    proxy.database.acks.timeout_s = 20.0
    talker = await proxy.connect()
    for number in range(3):
        await ask(proxy, talker, Q(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
        await ask(proxy, talker, WRITE, answer=complete("DELETE 1") + IN_TRANSACTION)
        talker.seen()
        await ask(proxy, talker, Q(b"COMMIT"), answer=complete("COMMIT") + READY)
        assert talker.seen() == b"", number
        proxy.database.acks.settle(fresh_until_s=1e12, now_s=0)
        assert talker.seen() == complete("COMMIT") + READY


async def test_last_write_of_a_transaction(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = await proxy.connect()
    state = talker.connection.session.state
    for number in range(3):
        await ask(proxy, talker, Q(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
        began = state.last_write_s
        await ask(proxy, talker, SELECT, answer=ROWS[:-6] + IN_TRANSACTION)
        await ask(proxy, talker, Q(b"COMMIT"), answer=complete("COMMIT") + READY)
        print(number, began, state.last_write_s)
        assert state.last_write_s > began, number
