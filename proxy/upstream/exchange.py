"""Ask a pooled server connection simple queries, outside any session."""

from __future__ import annotations

import asyncio

from proxy.errors import ProxyError, UpstreamLost
from proxy.session.replies import ready_in
from proxy.session.settings import Settings
from proxy.upstream.connection import ServerConnection, ServerRefusal
from proxy.upstream.pool import Pool
from proxy.wire import messages
from proxy.wire.frames import Mark

_ERROR, _DATA_ROW = 0x45, 0x44


class Borrower:
    """Wait for a connection of a pool like any session does."""

    def __init__(self, pool: Pool) -> None:
        self.server: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self._pool = pool

    def server_granted(self, server: ServerConnection) -> None:
        """Take the connection, unless the wait was cancelled and has not left the queue yet."""
        if self.server.done():
            self._pool.release(server)
        else:
            self.server.set_result(server)

    def server_refused(self, problem: ProxyError) -> None:
        """There is none."""
        if not self.server.done():
            self.server.set_exception(problem)


class _Exchange:
    """Collect an answer up to ReadyForQuery."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""

    def server_received(self, buffer: bytes, marks: list[Mark]) -> None:
        self._received += buffer
        if ready_in(buffer, marks) is not None and not self.answer.done():
            self.answer.set_result(self._received)

    def server_lost(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(UpstreamLost(reason))

    def server_writable(self, is_writable: bool) -> None:
        """One small query never fills a buffer."""


async def acquire(pool: Pool) -> ServerConnection:
    """Return a connection of the pool, which the caller must release.

    Raises:
        ProxyError: None became free in the pool's time, or none can be opened.
    """
    server = pool.take()
    if server is not None:
        return server
    borrower = Borrower(pool)
    pool.wait(borrower)
    try:
        return await borrower.server
    except asyncio.CancelledError:
        # The grant can land in the same iteration as the cancellation: give it back.
        if borrower.server.done() and not borrower.server.cancelled() and not borrower.server.exception():
            pool.release(borrower.server.result())
        pool.leave(borrower)
        raise


async def adopt(server: ServerConnection, wanted: Settings) -> None:
    """Give a server these settings instead of those it has.

    Raises:
        ServerRefusal: It refuses one of them, and has none of them.
        UpstreamLost: The connection ended.
    """
    script = wanted.script_from(server.applied)
    if script:
        _find_row(await _answer(server, script))
    server.applied = wanted


async def ask_text(server: ServerConnection, sql: str) -> str:
    """Return the first column of the first row of a query, as text; empty if there is none.

    Raises:
        ServerRefusal: The query failed.
        UpstreamLost: The connection ended; release closes it.
    """
    row = await ask_row(server, sql)
    return row[0] or "" if row else ""


async def ask_row(server: ServerConnection, sql: str) -> list[str | None]:
    """Return the first row of a query, as text; empty if there is none. Otherwise as `ask_text`."""
    return _find_row(await _answer(server, sql))


async def _answer(server: ServerConnection, sql: str) -> bytes:
    exchange = _Exchange()
    server.owner = exchange
    server.write(messages.query(sql.encode()))
    try:
        return await exchange.answer
    except asyncio.CancelledError:
        server.is_usable = False
        raise
    finally:
        server.owner = None


def _find_row(answer: bytes) -> list[str | None]:
    """Return the first row of an answer; empty if it has none."""
    at = 0
    while at < len(answer):
        end = at + 1 + int.from_bytes(answer[at + 1 : at + 5], "big")
        if answer[at] == _ERROR:
            raise ServerRefusal(messages.read_error(answer[at + 5 : end]))
        if answer[at] == _DATA_ROW:
            return messages.read_data_row(answer[at + 5 : end])
        at = end
    return []
