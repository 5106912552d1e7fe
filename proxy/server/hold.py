"""Hold back new write transactions while the authority moves, and tell when none is left.

Reads and transactions that have begun go on. What is held waits in the order in which
it came, and is resumed when the hold ends: because the switch is done, because it was
given up, or because the limit of the hold has passed, whoever forgot to end it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar

RequestT = TypeVar("RequestT", contravariant=True)


class Held(Protocol[RequestT]):
    """A session whose request waits."""

    def resume(self, request: RequestT) -> None:
        """Go on with the request."""


class Hold(Generic[RequestT]):
    """The hold of one database in this process."""

    def __init__(self) -> None:
        self.is_on = False
        self._queue: deque[tuple[Held[RequestT], RequestT]] = deque()
        self._writers: set[object] = set()
        self._drained: asyncio.Future[None] | None = None
        self._limit: asyncio.TimerHandle | None = None

    @property
    def queued_count(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def writers_count(self) -> int:
        """How many sessions are inside a write transaction."""
        return len(self._writers)

    def enter(self, session: object) -> None:
        """Note that a session begins a write transaction."""
        self._writers.add(session)

    def leave(self, session: object) -> None:
        """Note that a session's write transaction is over."""
        self._writers.discard(session)
        if not self._writers and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def queue(self, session: Held[RequestT], request: RequestT) -> None:
        """Let a request wait for the end of the hold."""
        self._queue.append((session, request))

    def leave_queue(self, session: object) -> None:
        """Forget what a session has waiting; it is gone, or its statement was cancelled."""
        if self._queue:
            self._queue = deque(entry for entry in self._queue if entry[0] is not session)

    def begin(self, *, limit_s: float) -> None:
        """Hold from now on, for `limit_s` seconds at most."""
        self.is_on = True
        if self._limit is not None:
            self._limit.cancel()
        self._limit = asyncio.get_running_loop().call_later(limit_s, self.end)

    async def wait_drained(self) -> None:
        """Wait until no write transaction is left. The caller bounds the time."""
        while self._writers:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            # Two may wait: the conductor that died and the next one. Neither's end ends the other's.
            await asyncio.shield(self._drained)

    def end(self) -> None:
        """Stop holding and resume what waits, oldest first."""
        self.is_on = False
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        waiting, self._queue = self._queue, deque()
        loop = asyncio.get_running_loop()
        for session, request in waiting:
            loop.call_soon(session.resume, request)  # each for itself: one that fails strands no other
