"""Connecting to servers that encrypt, that do not, and to somebody in between."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from proxy.config.dsn import Dsn
from proxy.config.serving import Tls
from proxy.errors import UpstreamRefused
from proxy.tls.contexts import for_clients
from proxy.tls.layer import TlsLayer
from proxy.upstream.cancels import send_cancel
from proxy.upstream.connection import open_connection
from proxy.wire import startup
from tests.certificates import Authority
from tests.unit.upstream.sample import OLD, WELCOME, settled

REQUEST = startup.request(startup.Request.SSL)


class Behaviour(NamedTuple):
    """What a played server answers to an SSLRequest, and whether TLS follows."""

    answer: bytes = b"S"
    is_direct: bool = False


class Played(asyncio.Protocol):
    """A server that takes one login, or one cancel request."""

    def __init__(self, context: ssl.SSLContext, behaviour: Behaviour, received: list[bytes]) -> None:
        self._context, self._behaviour, self._received = context, behaviour, received
        self._is_asked = False
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._behaviour.is_direct:
            self._encrypt()

    def data_received(self, data: bytes) -> None:
        if data == REQUEST and not self._is_asked:
            self._is_asked = True
            self.transport.write(self._behaviour.answer)
            if self._behaviour.answer == b"S":
                self._encrypt()
            return
        self._received.append(data)
        packet, _ = startup.read(data)
        if packet is not None and packet.code == startup.Request.CANCEL:
            self.transport.close()
        else:
            self.transport.write(WELCOME)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def _encrypt(self) -> None:
        layer = TlsLayer(self, self.transport, self._context)
        layer.established.add_done_callback(asyncio.Future.exception)
        self.transport = layer.start()


@asynccontextmanager
async def listening(
    folder: Path, query: str, behaviour: Behaviour, received: list[bytes]
) -> AsyncIterator[Dsn]:
    """Yield where a played server listens, as its clients know it."""
    authority = Authority(folder)
    signed = authority.sign("server", host="127.0.0.1")
    context = for_clients(Tls(cert=str(signed.cert), key=str(signed.key))).context
    accepted: list[Played] = []

    def make() -> Played:
        accepted.append(Played(context, behaviour, received))
        return accepted[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        query = query.replace("ROOT", str(authority.cert))
        yield Dsn.parse(f"postgresql://app@127.0.0.1:{port}/shop?{query}")
        for each in accepted:
            await each.ended.wait()
        await settled()


async def login(dsn: Dsn) -> None:
    """Log in and leave."""
    async with asyncio.timeout(30):
        connection = await open_connection(OLD, dsn, {})
    connection.close()


@pytest.mark.parametrize(
    ("query", "behaviour"),
    [
        ("sslmode=verify-full&sslrootcert=ROOT", Behaviour()),
        ("sslmode=require&sslnegotiation=direct", Behaviour(is_direct=True)),
        ("sslmode=prefer", Behaviour()),
        ("sslmode=prefer", Behaviour(answer=b"N")),
    ],
)
async def test_a_login_is_encrypted_as_the_url_demands(
    tmp_path: Path, query: str, behaviour: Behaviour
) -> None:
    received: list[bytes] = []
    async with listening(tmp_path, query, behaviour, received) as dsn:
        await login(dsn)
    packet, _ = startup.read(received[0])
    assert packet is not None and packet.parameters["user"] == "app"


@pytest.mark.parametrize(
    ("query", "behaviour", "said"),
    [
        ("sslmode=require", Behaviour(answer=b"N"), "does not speak TLS, and sslmode=require demands it"),
        ("sslmode=verify-full&sslrootcert=system", Behaviour(), "its certificate is refused"),
        ("sslmode=prefer", Behaviour(answer=b"E\0\0\0\x08no\0\0"), "something else"),
    ],
)
async def test_nothing_is_told_to_a_server_that_does_not_encrypt(
    tmp_path: Path, query: str, behaviour: Behaviour, said: str
) -> None:
    received: list[bytes] = []
    async with listening(tmp_path, query, behaviour, received) as dsn:
        with pytest.raises(UpstreamRefused, match=said):
            await login(dsn)
    assert received == []


@pytest.mark.parametrize("answer", [b"SR\0\0\0\x08\0\0\0\0", b"NR\0\0\0\x08\0\0\0\0"])
async def test_bytes_behind_the_answer_to_an_ssl_request_are_refused(tmp_path: Path, answer: bytes) -> None:
    """Somebody in between would have them taken for the server's; see CVE-2021-23222."""
    received: list[bytes] = []
    async with listening(tmp_path, "sslmode=prefer", Behaviour(answer), received) as dsn:
        with pytest.raises(UpstreamRefused, match="something else"):
            await login(dsn)
    assert received == []


async def test_a_cancel_request_is_encrypted_too(tmp_path: Path) -> None:
    received: list[bytes] = []
    async with listening(tmp_path, "sslmode=require", Behaviour(), received) as dsn:
        await send_cancel(dsn, b"the key!", timeout_s=30)
    assert received == [startup.request(startup.Request.CANCEL, b"the key!")]


async def test_a_server_that_hangs_up_when_asked_is_named(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamRefused, match=f"cannot connect to 127.0.0.1:{port}"):
            await login(Dsn.parse(f"postgresql://app@127.0.0.1:{port}/shop"))
    await settled()
