"""What is fuzzed: a client that says anything, and a server that says anything.

Both talk to the real connection, session and pools (`tests.unit.server.talk`). Whatever they say,
no exception may escape, and another client must be served as if nothing had happened.
"""

from __future__ import annotations

from proxy.wire import messages, startup
from proxy.wire.frames import encode
from tests.unit.server.sample import FLUSH, SYNC, bind, parse
from tests.unit.server.talk import Proxy, Talker
from tests.unit.upstream.sample import settled
from tests.unit.wire.sample import NOTICE, NOTIFICATION, READY, ROW, column, complete, description, failure

SELECT = messages.query(b"SELECT * FROM a")
OTHER = messages.query(
    b"SELECT id FROM b"
)  # refused by no server, hence known to be a read whatever they say
ROWS = encode(b"T", description(column(b"id", 23))) + ROW + complete("SELECT 1") + READY
LOGIN = startup.packet({"user": "app", "database": "app"})
_TURNS_MAX = 20

REQUESTS = (
    SELECT,
    messages.query(b"BEGIN"),
    messages.query(b"UPDATE a SET x = 1 RETURNING id"),
    messages.query(b"COPY aside FROM STDIN"),
    messages.query(b"SET geqo TO off; SELECT 1"),
    parse(b"", "SELECT 1") + bind(b"") + messages.execute() + SYNC,
    parse(b"one", "DELETE FROM a RETURNING id") + bind(b"one") + messages.execute() + SYNC,
)

# What else clients and servers are known to say.
PIECES = (SYNC, FLUSH, messages.execute(), bind(b"one"), parse(b"one", "SELECT 1"), encode(b"X"))
ANSWERS = (
    ROWS, READY, NOTICE, NOTIFICATION, complete("COMMIT"), encode(b"G", b"\0\0\0"), encode(b"1"),
    encode(b"2"), encode(b"n"), *map(failure, ("25006", "CF001", "57P01", "0A000")),
)  # fmt: skip


async def client_says(pieces: list[bytes], *, is_logged_in: bool) -> None:
    """Let a client say these pieces, and a server answer as one does."""
    proxy = Proxy()
    innocent = await proxy.connect()
    hostile = await proxy.connect() if is_logged_in else Talker(proxy)
    for piece in pieces:
        if hostile.transport.is_closed:
            break
        if piece:
            await hostile.send(piece)
        await _answer(proxy)
    await hostile.leave()
    await _is_served(proxy, innocent)


async def server_says(request: bytes, pieces: list[bytes]) -> None:
    """Let a server answer a request with these pieces, and then be gone."""
    proxy = Proxy()
    innocent, victim = await proxy.connect(), await proxy.connect()
    await victim.send(request)
    hostile = proxy.server
    for piece in pieces:
        if hostile.transport.is_closed or not piece:
            break
        hostile.answer(piece)
        await settled()
    if not hostile.transport.is_closed:
        hostile.transport.is_closed = True
        hostile.connection.connection_lost(None)
    await settled()
    await victim.leave()
    await _is_served(proxy, innocent)


async def _answer(proxy: Proxy) -> None:
    """Answer what the servers were asked, until they are asked nothing more."""
    for _ in range(_TURNS_MAX):
        asked = [server for server in proxy.database.opened if not server.transport.is_closed]
        answers = [(server, _answers(server.transport.take_written())) for server in asked]
        for server, answer in answers:
            if answer:
                server.connection.data_received(answer)
        await settled()
        if not any(answer for _, answer in answers):
            return


def _answers(said: bytes) -> bytes:
    """Return an error for everything that has an end; the rest of a broken message has none."""
    answer, at = b"", 0
    while at + 5 <= len(said):
        answer += failure("42601") + READY if said[at] in b"QSF" else b""
        at += 1 + max(4, int.from_bytes(said[at + 1 : at + 5], "big"))
    return answer


async def _is_served(proxy: Proxy, innocent: Talker) -> None:
    innocent.seen()
    await _answer(proxy)
    await innocent.send(OTHER)
    server = proxy.server
    assert not server.transport.is_closed
    server.received()
    server.answer(ROWS)
    await settled()
    assert innocent.seen() == ROWS, "an innocent client was not served as it should be"
