"""Servers without sockets, and a clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.config.dsn import Dsn
from proxy.routing.policy import Place, Side
from proxy.session.settings import NONE
from proxy.upstream.connection import ServerConnection
from proxy.wire import messages
from proxy.wire.frames import encode

OLD = Place(Side.OLD, 0)
DSN = Dsn("server", 5432, "app", "app", None)
READY = messages.ready(ord("I"))
WELCOME = messages.AUTHENTICATION_OK + encode(b"K", b"\0\0\0\1\0\0\0\2") + READY


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Transport:
    """What a connection does to its socket."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False
        self.is_aborted = False
        self.is_paused = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "written to after it was closed"
        self.written += data

    def take_written(self) -> bytes:
        """Return, and forget, what was written."""
        written, self.written = self.written, b""
        return written

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None


def connected(place: Place = OLD, dsn: Dsn = DSN) -> tuple[ServerConnection, Transport]:
    """Return a connection whose server has not answered yet."""
    server, transport = ServerConnection(place, dsn), Transport()
    server.connection_made(cast(asyncio.Transport, transport))
    return server, transport


def logged_in(place: Place = OLD) -> tuple[ServerConnection, Transport]:
    """Return an idle connection."""
    server, transport = connected(place)
    server.data_received(WELCOME)
    return server, transport


class FakeServer:
    """What a pool looks at in a server connection."""

    def __init__(self, opened_s: float = 100.0) -> None:
        self.is_usable = True
        self.is_between_messages = True
        self.is_closed = False
        self.owner: object | None = None
        self.applied = NONE
        self.cancels_count = 0
        self.on_cancelled: Callable[[], None] | None = None
        self.opened_s = self.idle_since_s = opened_s

    def close(self) -> None:
        self.is_usable = False
        self.is_closed = True

    def die(self) -> None:
        """Lose the connection, as the other side may end it at any time."""
        self.close()


async def settled(turns: int = 6) -> None:
    """Let everything run that is due now, and what becomes due by that."""
    for _ in range(turns):
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(done.set)
        await done.wait()
