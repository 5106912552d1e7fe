"""The sockets of clients: accepted, logged in (`server.login`), then a session's.

After the login the socket's callbacks go straight to the session. There are as many of these
as clients, most of them idle: what only some need is made when they need it.
"""

from __future__ import annotations

import asyncio
import random
from typing import cast

from proxy.errors import ProxyError
from proxy.server.database import Sticky
from proxy.server.login import LoggedIn, Login, Service
from proxy.server.session import Session
from proxy.tls.contexts import ClientTls
from proxy.tls.layer import TlsLayer
from proxy.upstream.connection import ServerRefusal
from proxy.wire import messages
from proxy.wire.frames import FrameDecoder, encode

_WRITE_BUFFER_BYTES = 256 * 1024
_NOT_PAUSED: frozenset[str] = frozenset()
_IDLE = 0x49  # transaction status I


class ClientConnection(asyncio.Protocol):
    """The socket of one client."""

    def __init__(self, service: Service, *, is_local: bool = False) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._login: Login | None = None
        self._decoder: FrameDecoder | None = None  # none before the login is done
        self._cancel_key = b""
        self._readers_paused = _NOT_PAUSED
        self.is_local = is_local  # a Unix socket: never encrypted, and nobody listens
        self.session: Session | None = None
        self.has_asked = False  # anything, since it logged in
        self.was_heard = True  # since the last look of `timeouts`
        self.mood = (True, 0)
        self.quiet_since_s = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._service.clients.add(self)
        self._login = Login(self._service, self)

    def data_received(self, data: bytes) -> None:
        session, decoder = self.session, self._decoder
        self.was_heard = True
        try:
            if session is None or decoder is None:
                if self._login is not None:
                    self._login.received(data)
                return
            self.has_asked = True
            if session.copy is not None:
                data = session.copy_received(decoder.take_pending() + data)
                if not data:
                    return
            elif not decoder.pending and session.take(data):
                return
            frames = decoder.feed(data)
            if frames:
                session.frames_received(frames)
        except ProxyError as violation:
            self.end(violation)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.clients.discard(self)
        self._service.cancel_keys.withdraw(self._cancel_key)
        if self._login is not None:
            self._login.cancel()
        if self.session is not None:
            self.session.closed()

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.client_writable(False)

    def resume_writing(self) -> None:
        if self.session is not None:
            self.session.client_writable(True)

    # What the session calls.

    def write(self, data: bytes) -> None:
        """Send bytes to the client; nothing happens once it is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause_reading(self, reason: str) -> None:
        """Stop reading from the client, for one of several reasons."""
        self._readers_paused |= {reason}
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self, reason: str) -> None:
        """Read again, unless another reason remains."""
        self._readers_paused -= {reason}
        if not self._readers_paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def drain(self, why: str, *, lets_ask: bool) -> None:
        """End the connection if it is between transactions.

        Args:
            why: What the client is told; a clause.
            lets_ask: Leave alone who has asked nothing yet: its first request may be on its way.
        """
        if lets_ask and not self.has_asked:
            return
        if self.session is None:
            self.close()
        else:
            self.session.shut_down(why)

    def close(self) -> None:
        """Send what is buffered, then end the connection."""
        if self._transport is not None:
            self._transport.close()

    # What `timeouts` and the login call.

    def doing(self) -> tuple[bool, int]:
        """Return whether nothing is running, and the transaction status."""
        return (True, 0) if self.session is None else (self.session.is_idle, self.session.status)

    def end(self, problem: ProxyError) -> None:
        """Tell the client why, and end the connection; what it runs is cancelled."""
        if isinstance(problem, ServerRefusal):
            shown = {code: text for code, text in problem.fields.items() if code in "CMDH"}
            self.write(messages.error({"S": "FATAL", "V": "FATAL", **shown}))
        else:
            self.write(messages.error_of(problem))
        self.close()
        if self.session is not None:
            self.session.closed()

    # What the login calls besides.

    @property
    def peer(self) -> str:
        """Where the client is."""
        assert self._transport is not None
        return "local" if self.is_local else str(self._transport.get_extra_info("peername"))

    def encrypt(self, tls: ClientTls, received: bytes) -> TlsLayer:
        """Put encryption between the socket and us; these bytes of it have arrived already."""
        assert self._transport is not None
        layer = TlsLayer(self, self._transport, tls.context)
        self._transport = layer.start(received)
        return layer

    def begin(self, found: LoggedIn) -> None:
        """Begin the session of a client that is logged in.

        Raises:
            TooManyClients: There are as many as there may be.
        """
        database = found.database
        database.accounts.admit(found.user)
        sticky = Sticky(session=str(random.getrandbits(64)), user=found.user)
        session = Session(database, found.user, found.settings, self, sticky)
        self._cancel_key = self._service.cancel_keys.issue(session, found.secret_bytes)
        self.write(found.parameters + encode(b"K", self._cancel_key) + messages.ready(_IDLE))
        self._decoder = found.decoder
        self._decoder.length_max = self._service.limits.message_bytes_max
        self._login = None
        database.sessions.add(session)
        self.session = session
        if found.frames:
            session.frames_received(found.frames)
