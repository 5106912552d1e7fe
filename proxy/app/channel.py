"""Calls between the supervisor and its children, over a socket pair.

Frame: four bytes of length, then a pickled (kind, number, value). Both ends are our own
processes, started by one another, so pickle is safe here. Either end may call the
other; a call returns what the other's handler returned, or raises what it raised (as a
`ProxyError` with its text, where the exception itself does not survive pickling).

When one end dies the other sees the end of the stream: a child then exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.errors import ProxyError

Handler = Callable[[Any], Awaitable[Any]]

_LENGTH_BYTES = 4


class PeerGone(Exception):
    """The process at the other end has ended."""


class Channel:
    """One end of the pair.

    Args:
        handle: Serves the calls of the other end.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._numbers = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether the other end can be called."""
        return self._writer is not None and not self._writer.is_closing()

    async def run(self, end: socket.socket, first: Callable[[], Any] | None = None) -> None:
        """Serve until the other end closes.

        Args:
            first: Asked for a value that goes ahead of everything, in the moment from which on the
                other end can be called: no news falls between that value and the first call.
        """
        reader, self._writer = await asyncio.open_connection(sock=end)
        if first is not None:
            self._send(pickle.dumps(first()))
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
                kind, number, value = pickle.loads(await reader.readexactly(length))
                if kind == "call":
                    task = asyncio.get_running_loop().create_task(self._serve(number, value))
                    self._serving.add(task)
                    task.add_done_callback(self._serving.discard)
                else:
                    self._settle(kind, number, value)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(PeerGone())
            self._writer.close()

    async def call(self, value: Any, *, timeout_s: float) -> Any:
        """Return the other end's answer.

        Raises:
            PeerGone: It ended. TimeoutError: It did not answer in time.
        """
        if not self.is_open:
            raise PeerGone()
        number = next(self._numbers)
        packed = _packed("call", number, value)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        self._send(packed)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._calls[number]

    def _settle(self, kind: str, number: int, value: Any) -> None:
        call = self._calls.get(number)
        if call is None or call.done():
            return  # it timed out here
        if kind == "error":
            call.set_exception(value)
        else:
            call.set_result(value)

    async def _serve(self, number: int, value: Any) -> None:
        try:
            packed = _packed("answer", number, await self._handle(value))
        except Exception as error:  # the caller decides what it means
            packed = _packed("error", number, _portable(error))
        with contextlib.suppress(ConnectionError):
            self._send(packed)

    def _send(self, packed: bytes) -> None:
        assert self._writer is not None
        self._writer.write(len(packed).to_bytes(_LENGTH_BYTES, "big") + packed)


def _packed(kind: str, number: int, value: Any) -> bytes:
    return pickle.dumps((kind, number, value))


def _portable(error: Exception) -> Exception:
    """Return an exception that the other end can read: one it could not would end the channel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does while it is copied
        return ProxyError(f"{type(error).__name__}: {error}")
    return error
