"""A client, the proxy and its servers, all in one process: sockets and PostgreSQL are played.

The connection of the client, its session, the pools and the connections to the servers are
the real ones. A test sends the client's bytes and plays the servers' answers.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Coroutine
from typing import cast

from proxy.config.load import loads
from proxy.config.serving import Limits
from proxy.routing.policy import Place, Side
from proxy.server.cancel import CancelKeys
from proxy.server.database import Database
from proxy.server.listener import ClientConnection
from proxy.server.login import Service
from proxy.session.settings import Settings
from proxy.upstream.cancels import Cancels
from proxy.upstream.connection import ServerConnection
from proxy.upstream.pool import Pool
from proxy.wire import messages, startup
from proxy.wire.frames import Frame, FrameDecoder
from tests.unit.capture.sample import catalog, table
from tests.unit.upstream.sample import Transport, logged_in, settled
from tests.unit.wire.sample import READY, complete

OLD, OLD_REPLICA, NEW = Place(Side.OLD, 0), Place(Side.OLD, 1), Place(Side.NEW, 0)

CONFIGURATION = """\
listen: 127.0.0.1:6432
databases:
  app:
    old: {primary: "postgresql://crossfade@old/app", replicas: ["postgresql://crossfade@replica/app"]}
    new: {primary: "postgresql://crossfade@new/app"}
    users: [{name: app, auth: trust}, {name: guarded, password: secret}]
    pool: {size: 1, wait: 10s}
"""


_loaded = functools.cache(loads)  # nothing changes it
_mode = re.compile(rb'(?:RESET "default_transaction_read_only"|SET "default_transaction_read_only" TO on);?')


class Server:
    """One server connection of the proxy, whose server the test plays.

    That reads are made READ ONLY it plays itself.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.connection, self.transport = logged_in(place)
        self._decoder = FrameDecoder()
        self._received: list[Frame] = []
        self._modes_count = 0

    def received(self) -> list[Frame]:
        """Return what the proxy has sent since the last call."""
        self._read()
        received, self._received = self._received, []
        return received

    def answer(self, *said: bytes) -> None:
        """Send the proxy something, all in one packet."""
        self._read()
        modes, self._modes_count = (complete("SET") + READY) * self._modes_count, 0
        self.connection.data_received(modes + b"".join(said))

    def _read(self) -> None:
        for frame in self._decoder.feed(self.transport.take_written()):
            body = _mode.sub(b"", frame.body)
            if body == b"\0" != frame.body:
                self._modes_count += 1
            else:
                self._received.append(Frame(frame.code, body.replace(b";\0", b"\0")))


class PlayedDatabase(Database):
    """A database whose server connections are played; they open at once."""

    opened: list[Server]
    cancels: PlayedCancels

    def _make_pool(self, place: Place, user: str, *, is_read_only: bool) -> Pool:
        async def connect() -> ServerConnection:
            self.opened.append(Server(place))
            return self.opened[-1].connection

        settings = self.configuration.pool
        return Pool(connect, size_max=settings.size, wait_s=settings.wait_s, is_optional=is_read_only)


class PlayedCancels(Cancels):
    """Cancels that arrive when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[ServerConnection] = []
        self.arrive = asyncio.Event()
        self.arrive.set()

    async def _run(self, server: ServerConnection, sending: Coroutine[None, None, None]) -> None:
        sending.close()
        self.told.append(server)
        await self.arrive.wait()
        await super()._run(server, _nothing())


async def _nothing() -> None:
    """A cancel that has been said."""


class Talker:
    """One client."""

    def __init__(self, proxy: Proxy) -> None:
        self.connection = ClientConnection(proxy.service)
        self.transport = Transport()
        self.connection.connection_made(cast(asyncio.Transport, self.transport))

    async def send(self, *said: bytes) -> None:
        """Send bytes, all in one packet, and let happen what follows."""
        self.connection.data_received(b"".join(said))
        await settled()

    async def leave(self) -> None:
        """End the connection."""
        self.transport.is_closed = True
        self.connection.connection_lost(None)
        await settled()

    def seen(self) -> bytes:
        """Return what has arrived since the last call."""
        return self.transport.take_written()

    def seen_frames(self) -> list[Frame]:
        """Return the same as messages."""
        return FrameDecoder().feed(self.seen())


class Proxy:
    """A worker with one database, `app`, of two mirrored tables, a and b."""

    def __init__(self, limits: Limits | None = None, text: str = CONFIGURATION) -> None:
        self.database = PlayedDatabase(
            _loaded(text).databases["app"], Side.OLD, catalog(table(1, "a"), table(2, "b"))
        )
        self.database.opened, self.database.cancels = [], PlayedCancels()
        self.database.servers[OLD].is_up = True
        self.forwarded: list[bytes] = []
        self.service = Service(
            databases={"app": self.database},
            limits=limits or Limits(),
            cancel_keys=CancelKeys(0),
            forward_cancel=self.forwarded.append,
            parameters_of=self.parameters_of,
            verifiers={},
            clients=set(),
        )

    async def parameters_of(self, database: Database, user: str, settings: Settings) -> bytes:
        return messages.parameter_status("server_version", "16.1")

    async def connect(self, **parameters: str) -> Talker:
        """Return a client that is logged in."""
        talker = Talker(self)
        await talker.send(startup.packet({"user": "app", "database": "app", **parameters}))
        assert talker.seen_frames()[-1] == Frame(ord("Z"), b"I")
        return talker

    @property
    def server(self) -> Server:
        """The server connection that was opened last."""
        return self.database.opened[-1]

    def idle_count(self, place: Place = OLD) -> int:
        """Return how many connections to a server are idle."""
        return sum(found.idle for at, _, found in self.database.pools() if at == place)
