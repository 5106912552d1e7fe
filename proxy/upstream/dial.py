"""Connect a protocol to a server, encrypted as the server's URL demands.

    sslnegotiation=postgres   SSLRequest, answered with one byte: S, then TLS; N, and `prefer`
                              goes on without
    sslnegotiation=direct     TLS from the first byte

Between our SSLRequest and the handshake a server has nothing to say but that byte. Whatever
else arrives was put there by somebody in between, and would be read as if it had been
encrypted: the connection is refused (CVE-2021-23222).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TypeVar, cast

from proxy.config.dsn import Dsn
from proxy.errors import UpstreamRefused
from proxy.tls.contexts import ALPN, for_server
from proxy.tls.layer import TlsLayer
from proxy.wire import startup

_P = TypeVar("_P", bound=asyncio.Protocol)

_SSL_REQUEST = startup.request(startup.Request.SSL)


async def dial(dsn: Dsn, protocol: _P) -> tuple[_P, TlsLayer | None]:
    """Connect a protocol; its `connection_made` has been called, with what it shall write to.

    The caller bounds the time.

    Returns:
        The protocol, and the encryption if there is any.

    Raises:
        UpstreamRefused: There is no connection, or not an encrypted one.
    """
    try:
        context = for_server(dsn)
        if context is None:
            return await _plain(dsn, protocol), None
        return await _encrypted(dsn, protocol, context)
    except OSError as error:
        place = dsn.socket_path if dsn.is_local else f"{dsn.host}:{dsn.port}"
        raise UpstreamRefused(f"cannot connect to {place}: {_reason(error)}") from error


async def _plain(dsn: Dsn, protocol: _P) -> _P:
    loop = asyncio.get_running_loop()
    if dsn.is_local:
        await loop.create_unix_connection(lambda: protocol, dsn.socket_path)
    else:
        await loop.create_connection(lambda: protocol, dsn.host, dsn.port)
    return protocol


async def _encrypted(dsn: Dsn, protocol: _P, context: ssl.SSLContext) -> tuple[_P, TlsLayer | None]:
    asking = await _plain(dsn, _Asking())
    try:
        if dsn.is_direct or await asking.offers_tls():
            layer = TlsLayer(protocol, asking.transport, context, hostname=dsn.host)
            protocol.connection_made(layer.start())
            asking.transport.resume_reading()
            await layer.established
            if dsn.is_direct and layer.application_protocol != ALPN:
                raise UpstreamRefused("the server speaks TLS, but not PostgreSQL's", hint="correct the port")
            return protocol, layer
        if dsn.tls_mode != "prefer":
            raise UpstreamRefused(
                f"server {dsn.host}:{dsn.port} does not speak TLS, and sslmode={dsn.tls_mode} demands it",
                hint="set ssl = on there",
            )
        asking.transport.set_protocol(protocol)
        protocol.connection_made(asking.transport)
        asking.transport.resume_reading()
        return protocol, None
    except BaseException:
        asking.transport.abort()
        raise


class _Asking(asyncio.Protocol):
    """A connection from the first byte to the answer to SSLRequest."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def offers_tls(self) -> bool:
        """Ask for TLS; return whether the server agrees, having said nothing else."""
        self.transport.write(_SSL_REQUEST)
        answer = await self._answer
        if answer not in (b"S", b"N"):
            # An ErrorResponse is refused too: nobody has proved to be the server yet.
            raise UpstreamRefused("the server answered a request for TLS with something else")
        return answer == b"S"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()  # what follows is for the next protocol
        if not self._answer.done():
            self._answer.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return error.strerror or str(error)
