"""One server connection: its login, what it hands to its owner, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.config.dsn import Dsn
from proxy.errors import UpstreamRefused
from proxy.upstream.cancels import send_cancel
from proxy.upstream.connection import ServerConnection, ServerRefusal, open_connection
from proxy.wire import messages, startup
from proxy.wire.frames import Frame, FrameDecoder, Mark, encode
from proxy.wire.scram import ScramVerifier
from tests.unit.upstream.sample import DSN, OLD, READY, WELCOME, connected, logged_in, settled

SASL_REQUEST = ScramVerifier.decoy("app").conversation().request()
FATAL = messages.error({"S": "FATAL", "C": "57P01", "M": "terminating connection"})


class Owner:
    """A session that notes what it is given."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, list[Mark]]] = []
        self.lost: list[str] = []
        self.writable: list[bool] = []

    def server_received(self, buffer: bytes, marks: list[Mark]) -> None:
        self.received.append((buffer, marks))

    def server_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def server_writable(self, is_writable: bool) -> None:
        self.writable.append(is_writable)


def frames(data: bytes) -> list[Frame]:
    return FrameDecoder().feed(data)


# Logging in.


async def test_a_login_leaves_what_the_server_told_and_a_usable_connection() -> None:
    server, transport = connected()
    answer = messages.AUTHENTICATION_OK + messages.parameter_status("server_version", "16.1")
    server.data_received(answer + encode(b"N", b"SNOTICE\0\0") + encode(b"K", b"key"))
    assert not server.is_usable and not server.logged_in.done()
    server.data_received(READY)
    await server.logged_in
    assert server.is_usable and server.cancel_key == b"key"
    assert server.parameters == {"server_version": "16.1"}
    assert transport.written == b""


async def test_a_password_is_proved_with_scram() -> None:
    server, transport = connected(dsn=DSN.as_user("app", "secret"))
    conversation = ScramVerifier.of("secret").conversation()
    server.data_received(SASL_REQUEST)
    server.data_received(conversation.first(frames(transport.take_written())[0].body))
    server.data_received(conversation.final(frames(transport.take_written())[0].body) + WELCOME)
    await server.logged_in


@pytest.mark.parametrize(
    ("sqlstate", "is_final"),
    [("28P01", True), ("3D000", True), ("42501", True), ("57P03", False), ("53300", False)],
)
async def test_what_the_server_says_against_a_login_is_kept_and_sometimes_final(
    sqlstate: str, is_final: bool
) -> None:
    server, transport = connected()
    server.data_received(messages.error({"S": "FATAL", "C": sqlstate, "M": "no"}))
    with pytest.raises(ServerRefusal, match="no") as caught:
        await server.logged_in
    assert caught.value.fields == {"S": "FATAL", "C": sqlstate, "M": "no"}
    assert caught.value.is_final == is_final
    assert transport.is_aborted and not server.is_usable


@pytest.mark.parametrize("answer", [encode(b"T", b"\0\0"), SASL_REQUEST, b"HTTP/1.1 400 Bad Request\r\n"])
async def test_an_answer_that_is_no_login_ends_the_attempt(answer: bytes) -> None:
    """The second one wants a password, and there is none."""
    server, transport = connected()
    server.data_received(answer)
    with pytest.raises(UpstreamRefused):
        await server.logged_in
    assert transport.is_aborted


async def test_a_server_that_hangs_up_during_the_login_refuses() -> None:
    server, _ = connected()
    server.connection_lost(None)
    with pytest.raises(UpstreamRefused, match="the server closed the connection"):
        await server.logged_in


# Idle in the pool.


@pytest.mark.parametrize("message", [encode(b"N", b"\0"), encode(b"A", bytes(6)), encode(b"v", bytes(8))])
async def test_an_idle_connection_takes_notices(message: bytes) -> None:
    server, _ = logged_in()
    server.data_received(message)
    assert server.is_usable


async def test_an_idle_connection_follows_parameters() -> None:
    server, _ = logged_in()
    server.data_received(messages.parameter_status("default_transaction_read_only", "on"))
    assert server.parameters == {"default_transaction_read_only": "on"}


@pytest.mark.parametrize("message", [FATAL, READY, encode(b"C", b"SELECT 1\0"), b"\xff\0\0\0\0"])
async def test_anything_else_while_idle_makes_it_unusable(message: bytes) -> None:
    server, transport = logged_in()
    server.data_received(message)
    assert not server.is_usable and transport.is_aborted


# Lent.


async def test_what_arrives_goes_to_the_owner_alone() -> None:
    server, _ = logged_in()
    server.owner = owner = Owner()
    server.data_received(FATAL + READY[:3])
    server.data_received(READY[3:])
    assert owner.received == [(FATAL, [(ord("E"), 0, len(FATAL))]), (READY, [(ord("Z"), 0, len(READY))])]
    assert server.is_usable


async def test_a_connection_in_the_middle_of_a_message_says_so() -> None:
    server, _ = logged_in()
    server.owner = Owner()
    server.data_received(encode(b"D", bytes(100))[:50])
    assert not server.is_between_messages
    server.data_received(bytes(55))
    assert server.is_between_messages


@pytest.mark.parametrize("reason", [None, OSError("reset by peer")])
async def test_an_owner_is_told_once_that_its_server_is_gone(reason: Exception | None) -> None:
    server, transport = logged_in()
    server.owner = owner = Owner()
    server.connection_lost(reason)
    server.connection_lost(reason)
    assert owner.lost == ["reset by peer" if reason else "the server closed the connection"]
    assert server.owner is None and not server.is_usable and transport.is_aborted


async def test_bytes_that_are_no_message_end_the_connection_and_the_owner_knows_why() -> None:
    server, transport = logged_in()
    server.owner = owner = Owner()
    server.data_received(b"Z\0\0\0\1")
    assert owner.received == [] and transport.is_aborted
    assert owner.lost == ["server sent length 1 for message b'Z'"]


async def test_a_slow_server_is_felt_by_its_owner() -> None:
    server, _ = logged_in()
    server.pause_writing()  # nobody to tell
    server.owner = owner = Owner()
    server.pause_writing()
    server.resume_writing()
    assert owner.writable == [False, True]


async def test_reading_stops_and_goes_on_but_not_after_the_end() -> None:
    server, transport = logged_in()
    server.pause_reading()
    assert transport.is_paused
    server.resume_reading()
    assert not transport.is_paused
    server.close()
    server.pause_reading()
    assert not transport.is_paused


async def test_closing_says_goodbye_once_and_aborting_does_not() -> None:
    server, transport = logged_in()
    server.close()
    server.close()
    assert transport.written == messages.TERMINATE and transport.is_closed and not server.is_usable
    server, transport = logged_in()
    server.owner = Owner()
    server.abort()
    assert transport.written == b"" and transport.is_aborted and server.owner is None


async def test_nothing_can_be_written_before_it_is_connected() -> None:
    with pytest.raises(AssertionError):
        ServerConnection(OLD, DSN).write(b"")


# Opening one.


@asynccontextmanager
async def listening(answer: bytes, received: list[bytes], path: Path | None = None) -> AsyncIterator[Dsn]:
    """Yield where a server listens that takes one packet, answers and, without an answer, hangs up.

    At the end it waits until what was accepted is closed on both sides.
    """
    ended = asyncio.Semaphore(0)
    accepted: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readexactly(4)
            received.append(head + await reader.readexactly(int.from_bytes(head, "big") - 4))
            writer.write(answer)
            if answer:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        ended.release()

    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        dsn = Dsn("127.0.0.1", port, "app", "shop", options={"sslmode": "disable"})
    else:
        server = await asyncio.start_unix_server(serve, path / ".s.PGSQL.5432")
        dsn = Dsn(str(path), 5432, "app", "shop")
    async with server:
        yield dsn
        for _ in accepted:
            await ended.acquire()
        await settled()


@pytest.mark.parametrize("is_local", [False, True])
async def test_a_connection_is_opened_over_either_kind_of_socket(is_local: bool, tmp_path: Path) -> None:
    received: list[bytes] = []
    async with listening(WELCOME, received, tmp_path if is_local else None) as dsn:
        connection = await open_connection(OLD, dsn, {"client_encoding": "UTF8"})
        assert connection.is_usable and connection.place == OLD
        packet, _ = startup.read(received[0])
        assert packet is not None
        assert packet.parameters == {"user": "app", "database": "shop", "client_encoding": "UTF8"}
        connection.close()


async def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with listening(b"", []) as dsn:
        pass
    with pytest.raises(UpstreamRefused, match=f"cannot connect to 127.0.0.1:{dsn.port}: ") as caught:
        await open_connection(OLD, dsn, {})
    assert caught.value.sqlstate == "08001"
    with pytest.raises(UpstreamRefused, match="cannot connect to"):
        await open_connection(OLD, Dsn(str(tmp_path), 1, "app", "app"), {})


async def test_a_refused_login_leaves_no_socket_behind() -> None:
    async with listening(messages.error({"C": "28P01", "M": "no"}), []) as dsn:
        with pytest.raises(ServerRefusal):
            await open_connection(OLD, dsn, {})


@pytest.mark.parametrize("is_local", [False, True])
async def test_a_cancel_is_over_when_the_server_has_hung_up(is_local: bool, tmp_path: Path) -> None:
    received: list[bytes] = []
    async with listening(b"", received, tmp_path if is_local else None) as dsn:
        await send_cancel(dsn, b"the key!", timeout_s=30)
    assert received == [startup.request(startup.Request.CANCEL, b"the key!")]


async def test_a_cancel_that_nobody_takes_ends_in_its_time() -> None:
    async with listening(b"never hangs up", []) as dsn:
        with pytest.raises(TimeoutError):
            await send_cancel(dsn, b"the key!", timeout_s=0.01)
