"""One connection to a server: it logs in, then hands what it receives to its owner.

Rule 1: a connection is lent to at most one owner, who alone may write to it.
Rule 2: it goes back into its pool only when the state of its protocol is exactly
known: between messages, nothing owed, outside a transaction. Otherwise `is_usable`
is False and the pool closes it: rows of one client must never reach another.
Rule 3: flow control passes through. When the owner's client reads too slowly the
owner stops our reading; when the server reads too slowly the owner is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from proxy.clock import now_s
from proxy.config.dsn import Dsn
from proxy.errors import ProtocolViolation, UpstreamRefused
from proxy.routing.policy import Place
from proxy.session import settings
from proxy.session.statements import ServerStatements
from proxy.tls.contexts import binding_of
from proxy.tls.layer import TlsLayer
from proxy.upstream.dial import dial
from proxy.upstream.keepalive import keep_alive
from proxy.wire import auth, messages, startup
from proxy.wire.frames import Mark, ServerScanner

_STATEMENTS_BYTES_MAX = 4 * 1024 * 1024
_WRITE_BUFFER_BYTES = 256 * 1024
_ERROR, _AUTHENTICATION, _READY, _KEY, _PARAMETER = 0x45, 0x52, 0x5A, 0x4B, 0x53
_NOTICE, _NOTIFICATION, _NEGOTIATE = 0x4E, 0x41, 0x76


class Owner(Protocol):
    """The session a connection is lent to."""

    def server_received(self, buffer: bytes, marks: list[Mark]) -> None:
        """Take what the server sent."""

    def server_lost(self, reason: str) -> None:
        """The connection is gone; it is the owner's no more."""

    def server_writable(self, is_writable: bool) -> None:
        """The server reads too slowly (False), or again (True)."""


class ServerConnection(asyncio.Protocol):
    """One connection to a server. Make it with `open_connection`."""

    def __init__(self, place: Place, dsn: Dsn, proof: auth.Proof = auth.NO_PROOF) -> None:
        self.place = place
        self.dsn = dsn
        self.owner: Owner | None = None
        self.is_usable = False
        self.statements = ServerStatements(bytes_max=_STATEMENTS_BYTES_MAX)
        self.applied = settings.NONE
        self.left_by: object = None  # the session whose functions may have made settings here, if any
        self.drawn_by: object = None  # the session that wrote here last: lastval() is of what it drew
        self.parameters: dict[str, str] = {}
        self.cancel_key = b""
        self.cancels_count = 0  # cancel requests on their way; lent again only when they have arrived
        self.on_cancelled: Callable[[], None] | None = None
        self.opened_s = self.idle_since_s = now_s()
        self.logged_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._login: auth.Login | None = auth.Login(
            dsn.user, dsn.password, proof, channel_binding=dsn.options.get("channel_binding", "prefer")
        )
        self._scanner = ServerScanner()
        self._transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = _not_connected

    @property
    def is_between_messages(self) -> bool:
        """Whether the server has sent nothing that is still incomplete."""
        return self._scanner.is_between_messages

    def log_in(self, parameters: dict[str, str], layer: TlsLayer | None) -> None:
        """Send the startup packet; `logged_in` is done when the server has agreed."""
        assert self._login is not None
        if layer is not None:
            self._login.private(binding_of(layer.peer_certificate_der))
        elif self.dsn.is_local:
            self._login.private(None)
        version = startup.PROTOCOL_MAX if self.dsn.is_newest_protocol else startup.PROTOCOL_3_0
        login = {"user": self.dsn.user, "database": self.dsn.database}
        self.write(startup.packet({**login, **parameters}, version))

    def close(self) -> None:
        """End the connection politely; safe to call at any time."""
        self.is_usable = False
        self.owner = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(messages.TERMINATE)
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection without a word: its state is not known."""
        self.is_usable = False
        self.owner = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading: the client cannot take more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        keep_alive(transport.get_extra_info("socket"))
        self.write = self._transport.write

    def data_received(self, data: bytes) -> None:
        try:
            buffer, marks = self._scanner.feed(data)
            if self.owner is not None:
                self.owner.server_received(buffer, marks)
            else:
                for code, start, end in marks:
                    self._unowned(code, buffer[start + 5 : end])
        except ProtocolViolation as violation:
            self._lose(str(violation))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        if self.owner is not None:
            self.owner.server_writable(False)

    def resume_writing(self) -> None:
        if self.owner is not None:
            self.owner.server_writable(True)

    def _lose(self, reason: str) -> None:
        self.is_usable = False
        owner, self.owner = self.owner, None
        if self._transport is not None:
            self._transport.abort()
        if not self.lost.done():
            self.lost.set_result(None)
        if not self.logged_in.done():
            self.logged_in.set_exception(UpstreamRefused(reason))
        if owner is not None:
            owner.server_lost(reason)

    def _unowned(self, code: int, body: bytes) -> None:
        """Take a message while nobody owns the connection: login, or idle in the pool."""
        if code == _PARAMETER:
            name, value = messages.read_parameter_status(body)
            self.parameters[name] = value
        elif code in (_NOTICE, _NOTIFICATION, _NEGOTIATE):
            pass
        elif self._login is None:
            self._lose("unexpected message while idle")  # for example an administrator's FATAL
        else:
            try:
                self._login_step(code, body, self._login)
            except UpstreamRefused as refused:
                self.logged_in.set_exception(refused)
                self.abort()

    def _login_step(self, code: int, body: bytes, login: auth.Login) -> None:
        if code == _AUTHENTICATION:
            answer = login.answer(body)
            if answer:
                self.write(answer)
        elif code == _KEY:
            self.cancel_key = body
        elif code == _READY:
            self._login = None
            self.is_usable = True
            if not self.logged_in.done():
                self.logged_in.set_result(None)
        elif code == _ERROR:
            raise ServerRefusal(messages.read_error(body))
        else:
            raise UpstreamRefused(f"unexpected message {bytes((code,))!r} during login")


class ServerRefusal(UpstreamRefused):
    """The server answered a login with an error of its own, kept to be shown to the client."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields.get("M", "login refused"))
        self.fields = fields

    @property
    def is_final(self) -> bool:
        """Whether trying again is pointless: wrong password, database or role."""
        return self.fields.get("C", "")[:2] in ("28", "3D", "42")


def _not_connected(_data: bytes) -> None:
    raise AssertionError("written to before it was connected")


async def open_connection(
    place: Place, dsn: Dsn, parameters: dict[str, str], proof: auth.Proof = auth.NO_PROOF
) -> ServerConnection:
    """Return a connection that is logged in and idle. The caller bounds the time.

    Args:
        proof: What opens the server where the URL has no password.

    Raises:
        UpstreamRefused: Unreachable, or the login failed; a ServerRefusal if the server said why.
    """
    connection, layer = await dial(dsn, ServerConnection(place, dsn, proof))
    connection.log_in(parameters, layer)
    try:
        await connection.logged_in
    except BaseException:
        connection.abort()
        raise
    return connection
