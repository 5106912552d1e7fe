"""Cancel what servers run.

Rule 1: nothing else may run on a connection before a cancel to it has arrived: it would hit
the next statement. Until then its session sends nothing and its pool does not lend it.

Rule 2: a cancel that overtakes its statement finds nothing to cancel. Who waits for the
answer can ask again. For a client that is gone it is said again until the server has
answered, or its statement would hold its locks for as long as it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import cast

from proxy.config.dsn import Dsn
from proxy.errors import UpstreamRefused
from proxy.upstream.connection import ServerConnection
from proxy.upstream.dial import dial
from proxy.wire import messages, startup

_TIMEOUT_S = 5.0
_AGAIN_S = 0.1  # twice as long each time
_AGAIN_MAX_S = 5.0


class Cancels:
    """The cancels on their way to the servers of one database."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def once(self, server: ServerConnection, on_arrival: Callable[[], None] | None = None) -> None:
        """Cancel what a connection runs, for a client that waits for the answer.

        Args:
            on_arrival: Called when it has arrived, or surely never will.
        """
        server.on_cancelled = on_arrival
        self._begin(server, send_cancel(server.dsn, server.cancel_key, timeout_s=_TIMEOUT_S))

    def for_nobody(self, server: ServerConnection, *, is_copying: bool) -> None:
        """Cancel what a connection runs for a client that is gone, and say goodbye there.

        It keeps its place in the pool till its end, so that what still runs is counted. COPY
        ends when its connection does, whatever became of the cancel.
        """
        if is_copying:
            self.once(server)
            return
        server.is_usable = False
        server.write(messages.TERMINATE)
        self._begin(server, _cancel_until_lost(server))

    def _begin(self, server: ServerConnection, sending: Coroutine[None, None, None]) -> None:
        server.cancels_count += 1
        task = asyncio.get_running_loop().create_task(self._run(server, sending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, server: ServerConnection, sending: Coroutine[None, None, None]) -> None:
        try:
            await sending
        except (UpstreamRefused, OSError, TimeoutError):
            server.is_usable = False  # it may arrive late: nobody else must be hit by it
        finally:
            server.cancels_count -= 1
            if server.on_cancelled is not None:
                server.on_cancelled()


async def _cancel_until_lost(server: ServerConnection) -> None:
    pause_s = _AGAIN_S
    while not server.lost.done():
        await send_cancel(server.dsn, server.cancel_key, timeout_s=_TIMEOUT_S)
        await asyncio.wait({server.lost}, timeout=pause_s)
        pause_s = min(2 * pause_s, _AGAIN_MAX_S)


async def send_cancel(dsn: Dsn, key: bytes, *, timeout_s: float) -> None:
    """Send a CancelRequest and wait until the server has taken it (it closes the connection).

    Raises:
        UpstreamRefused: The server cannot be reached. TimeoutError: It did not close in time.
    """
    async with asyncio.timeout(timeout_s):
        cancelling, _ = await dial(dsn, _Cancelling())
        try:
            cancelling.transport.write(startup.request(startup.Request.CANCEL, key))
            await cancelling.taken
        finally:
            cancelling.transport.abort()


class _Cancelling(asyncio.Protocol):
    """A connection that only carries a CancelRequest; its end is the answer."""

    def __init__(self) -> None:
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.taken.done():
            self.taken.set_result(None)
