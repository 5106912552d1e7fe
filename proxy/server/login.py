"""Log one client in. It passes these stages, all within `limits.login_timeout`:

    startup packet      SSLRequest begins TLS, where it is offered, and so does its first byte;
                        GSSENCRequest is answered N, CancelRequest is served
    authentication      see `server.authentication`
    server parameters   ParameterStatus as the database's servers send it

A client that asks for TLS sends nothing more until it is answered: bytes behind an SSLRequest
were put there by somebody in between, who wants them to be taken for the client's
(CVE-2021-23214).

It is a coroutine, because it waits for several things. What it needs goes with it: an idle
client holds nothing of its login.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from proxy.config.serving import Limits, User
from proxy.errors import (
    AuthenticationFailed,
    ProtocolViolation,
    ProxyError,
    ReplicationRefused,
    TlsRequired,
    TooManyClients,
    UnknownDatabase,
)
from proxy.server.authentication import PLAIN, Channel, Verifiers, authenticate
from proxy.server.cancel import CancelKeys
from proxy.server.database import Database
from proxy.session.settings import Settings, from_startup
from proxy.tls.contexts import ALPN, ClientTls
from proxy.tls.layer import TlsLayer
from proxy.wire import messages, startup
from proxy.wire.auth import NO_PROOF
from proxy.wire.frames import Frame, FrameDecoder

if TYPE_CHECKING:
    from proxy.server.listener import ClientConnection

_log = structlog.get_logger()
_PASSWORD = 0x70
_TLS_RECORD = 0x16  # a TLS handshake; the first byte of a startup packet is 0
APPLICATION_NAME = "application_name"
_PASSWORD_LENGTH_MAX = 64 * 1024

ParametersOf = Callable[[Database, str, Settings], Awaitable[bytes]]


class Service(NamedTuple):
    """What the sockets of one worker share."""

    databases: dict[str, Database]
    limits: Limits
    cancel_keys: CancelKeys
    forward_cancel: Callable[[bytes], None]  # to the other workers
    # What servers report to this user with these settings at login, but for application_name.
    parameters_of: ParametersOf
    verifiers: Verifiers
    clients: set[ClientConnection]
    tls: ClientTls | None = None  # what clients are offered
    is_tls_required: bool = False


class LoggedIn(NamedTuple):
    """Who has logged in, and what the session begins with."""

    database: Database
    user: str
    settings: Settings
    parameters: bytes  # the ParameterStatus messages
    secret_bytes: int  # of the cancel key
    frames: list[Frame]  # requests that have come with the login
    decoder: FrameDecoder  # which holds the beginning of the next one


class Newcomer(Protocol):
    """The socket of a client that logs in."""

    is_local: bool

    @property
    def peer(self) -> str: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def end(self, problem: ProxyError) -> None: ...
    def encrypt(self, tls: ClientTls, received: bytes) -> TlsLayer: ...
    def begin(self, found: LoggedIn) -> None: ...


_NO = frozenset({"off", "false", "no", "0"})  # what drivers say who want no replication


class Login:
    """What a client has sent so far, and the task that waits for more."""

    def __init__(self, service: Service, client: Newcomer) -> None:
        self._service = service
        self._client = client
        self._channel = PLAIN
        self._startup = bytearray()
        self._is_starting = True
        self._decoder = FrameDecoder(length_max=_PASSWORD_LENGTH_MAX)
        self._frames: deque[Frame] = deque()
        self._arrived: asyncio.Future[None] | None = None  # what the task waits for
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """The client is gone."""
        self._task.cancel()

    def received(self, data: bytes) -> None:
        """Take what the client has sent.

        Raises:
            ProtocolViolation: No login is as long as that.
        """
        if not self._is_starting:
            self._frames.extend(self._decoder.feed(data))
        elif len(self._startup) + len(data) > 2 * startup.STARTUP_LENGTH_MAX:
            raise ProtocolViolation("too many bytes before the login")
        else:
            self._startup += data
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def _run(self) -> None:
        has_begun = False
        try:
            async with asyncio.timeout(self._service.limits.login_timeout_s):
                found = await self._steps()
            if found is not None:
                self._client.begin(found)
                has_begun = True
        except TimeoutError:
            self._client.end(AuthenticationFailed("login took too long"))
        except ProxyError as problem:
            self._client.end(problem)
        finally:
            if not has_begun:  # whatever ended the login: the socket must not stay
                self._client.close()

    async def _steps(self) -> LoggedIn | None:
        packet = await self._startup_packet()
        if packet is None:
            return None
        service = self._service
        if len(service.clients) > service.limits.max_clients:
            raise TooManyClients("sorry, too many clients already", hint="raise limits.max_clients")
        if packet.needs_negotiation:
            self._client.write(startup.negotiate(packet))
        if packet.parameters.get("replication", "off").lower() not in _NO:
            raise ReplicationRefused("replication is not proxied", hint="connect to the server itself")
        user = packet.parameters.get("user", "")
        name = packet.parameters.get("database", user)
        database = service.databases.get(name)
        if database is None:
            raise _unknown(name)
        await self._authenticate(database, user)
        settings = from_startup(packet.parameters)
        # Every client may have another name, and no server need be asked what becomes of it.
        parameters = await service.parameters_of(database, user, settings.without(APPLICATION_NAME))
        if service.databases.get(name) is not database:
            raise _unknown(name)  # it has left while the client logged in
        called = packet.parameters.get(APPLICATION_NAME, "")
        return LoggedIn(
            database, user, settings, parameters + messages.parameter_status(APPLICATION_NAME, called),
            packet.secret_bytes, list(self._frames), self._decoder,
        )  # fmt: skip

    async def _startup_packet(self) -> startup.Startup | None:
        """Return the client's startup packet; None when it wanted something else, now done."""
        service = self._service
        while True:
            if self._startup[:1] == bytes((_TLS_RECORD,)) and service.tls is not None and not self._layer:
                received = bytes(self._startup)
                self._startup.clear()
                await self._encrypt(service.tls, received)
                if self._layer is None or self._layer.application_protocol != ALPN:
                    raise ProtocolViolation("direct TLS without the application protocol postgresql")
            packet, length = startup.read(self._startup)
            if packet is None:
                await self._more()
                continue
            del self._startup[:length]
            if packet.code in (startup.Request.SSL, startup.Request.GSSENC):
                await self._answer_encryption(packet.code)
            elif packet.code == startup.Request.CANCEL:
                if not service.cancel_keys.cancel(packet.cancel_key):
                    service.forward_cancel(packet.cancel_key)
                return None
            else:
                if service.is_tls_required and self._layer is None and not self._client.is_local:
                    raise TlsRequired("this server takes encrypted connections only", hint="sslmode=require")
                self._is_starting = False
                self._frames.extend(self._decoder.feed(bytes(self._startup)))
                return packet

    @property
    def _layer(self) -> TlsLayer | None:
        return self._channel.layer

    async def _answer_encryption(self, code: int) -> None:
        if self._startup:
            raise ProtocolViolation("received unencrypted data after SSL request")
        if self._layer is not None:
            raise ProtocolViolation("asked for encryption inside TLS")
        if code == startup.Request.SSL and self._service.tls is not None and not self._client.is_local:
            self._client.write(b"S")
            await self._encrypt(self._service.tls)
        else:
            self._client.write(b"N")

    async def _encrypt(self, tls: ClientTls, received: bytes = b"") -> None:
        """Go on encrypted; nothing is written before that is certain."""
        layer = self._client.encrypt(tls, received)
        try:
            await layer.established
        except OSError as error:
            raise ProtocolViolation(f"TLS handshake failed: {error}") from error
        self._channel = Channel(layer, tls.binding)

    async def _authenticate(self, database: Database, user: str) -> None:
        account = database.configuration.user(user)
        secret = await database.accounts.secret(user) if account is None else account.secret
        try:
            last, proof = await authenticate(
                account or User.model_construct(name=user, auth="scram"),
                secret,
                self._ask,
                self._channel,
                self._service.verifiers,
            )
        except AuthenticationFailed as refused:
            database.accounts.lookup.forget(user)
            _log.warning("login refused", user=user, database=database.name, client=self._client.peer)
            raise type(refused)(f'{refused} for user "{user}"') from None
        if proof != NO_PROOF:
            database.accounts.proofs[user] = proof
        self._client.write(last)

    async def _ask(self, message: bytes) -> bytes:
        self._client.write(message)
        return await self._password_message()

    async def _password_message(self) -> bytes:
        while not self._frames:
            await self._more()
        frame = self._frames.popleft()
        if frame.code != _PASSWORD:
            raise ProtocolViolation(f"expected password response, got message type {frame.code}")
        return frame.body

    async def _more(self) -> None:
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived


def _unknown(name: str) -> UnknownDatabase:
    return UnknownDatabase(f'database "{name}" does not exist', hint="see databases in the configuration")
