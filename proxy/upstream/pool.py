"""A bounded pool of connections to one server, for one database and user.

`_grant` is the only function that decides who gets which connection. It never
awaits, so it always sees a consistent pool; the slow part, opening a connection,
is a task whose result comes back through `_opened` or `_refused`.

A session that finds an idle connection takes it without a task or a future: that
is the hot path. Otherwise it waits in a queue, and is called back.

    idle       logged in, lent to nobody; last in first out keeps few of them hot
    lent       owned by a session
    opening    being connected; counts towards the size, so the size is a bound
    waiters    sessions that want one, oldest first

The size is `size_max`, and `reserve` more once somebody has waited for `reserve_timeout`;
`size_min` are kept open, once there were any. A server that cannot be reached is tried again
ever more rarely, and not by all pools and proxies at the same instant.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.clock import Clock, now_s
from proxy.errors import PoolTimeout, ProxyError, UpstreamRefused
from proxy.session.settings import NONE, Settings
from proxy.upstream.connection import ServerConnection, ServerRefusal

_RETRY_S_MIN, _RETRY_S_MAX = 0.05, 1.0


class Waiter(Protocol):
    """A session waiting for a connection."""

    def server_granted(self, server: ServerConnection) -> None:
        """The connection is this session's now."""

    def server_refused(self, problem: ProxyError) -> None:
        """There will be none."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """The pool at one instant; counts of connections, except `waiting` (sessions)."""

    idle: int
    lent: int
    opening: int
    waiting: int
    waited_s_max: float


class Pool:
    """Lend server connections to sessions, first come, first served.

    Args:
        connect: Open one connection; it raises UpstreamRefused and bounds its own time.
        size_max: Most connections open at once: lent, idle or being opened.
        wait_s: How long a session may wait.
        size_min: How many are kept open, however long they idle.
        reserve: How many more may be opened when somebody has waited for `reserve_timeout_s`.
        spare: How many more connections all pools of the server may open together; asked with
            True when somebody waits, who is worth closing one that idles.
        jitter: Returns a number from 0 to 1, another one each time.
        is_optional: Whether there is a substitute (a read has the authority): then an
            unreachable server is reported at once, else it is waited for.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[ServerConnection]],
        *,
        size_max: int,
        wait_s: float,
        is_optional: bool,
        size_min: int = 0,
        reserve: int = 0,
        reserve_timeout_s: float = 0.0,
        spare: Callable[[bool], int] | None = None,
        jitter: Callable[[], float] = random.random,
        clock: Clock = now_s,
    ) -> None:
        self._connect = connect
        self.size_max = size_max
        self.wait_s = wait_s
        self.size_min = size_min
        self.reserve = reserve
        self.reserve_timeout_s = reserve_timeout_s
        self.is_optional = is_optional
        self._spare = spare
        self._jitter = jitter
        self._clock = clock
        self._idle: list[ServerConnection] = []
        self._lent_count = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._waiters: deque[tuple[Waiter, float]] = deque()
        self._retry_s = _RETRY_S_MIN
        self._retry_at_s = 0.0
        self._last_refusal: UpstreamRefused | None = None
        self._has_opened = False
        self.is_closed = False

    def take(self, wanted: Settings = NONE, drawer: object = None) -> ServerConnection | None:
        """Return an idle connection at once; or None: then `wait`.

        Args:
            wanted: One that has these settings is better.
            drawer: And best is the one on which this session wrote last.
        """
        is_found = drawer is not None and self._bring_up_drawn(drawer)
        if not is_found and self._idle and self._idle[-1].applied is not wanted:
            self._bring_up(wanted)
        while self._idle and not self._waiters:
            server = self._idle.pop()
            if server.is_usable:
                self._lent_count += 1
                return server
        return None

    def _bring_up_drawn(self, drawer: object) -> bool:
        """Put the connection on which a session wrote last where the next one is taken from."""
        for at, server in enumerate(self._idle):
            if server.drawn_by is drawer:
                self._idle.append(self._idle.pop(at))
                return True
        return False

    def _bring_up(self, wanted: Settings) -> None:
        """Put a connection that needs no SET where the next one is taken from.

        Where reads and writes take turns on too few connections, each would need one: one more is opened.
        """
        for best in (wanted, NONE):
            for at in range(len(self._idle) - 1, -1, -1):
                if self._idle[at].applied is best:
                    self._idle.append(self._idle.pop(at))
                    return
        applied = self._idle[-1].applied
        if (applied.reading is wanted or wanted.reading is applied) and not self._opening and self._room > 0:
            self._begin_opening()

    def wait(self, waiter: Waiter) -> None:
        """Queue for a connection; the waiter is called back exactly once, unless it leaves."""
        self._waiters.append((waiter, self._clock()))
        self._grant()

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting; nothing happens if it does not wait."""
        self._waiters = deque(entry for entry in self._waiters if entry[0] is not waiter)

    def release(self, server: ServerConnection) -> None:
        """Take a connection back. One that is not usable is closed, never lent again."""
        server.owner = None
        if server.cancels_count:
            # A cancel is on its way to it: it must not hit the next statement, or ends it.
            server.on_cancelled = lambda: self._cancel_arrived(server)
            return
        self._lent_count -= 1
        if server.is_usable and not self.is_closed and server.is_between_messages:
            server.idle_since_s = self._clock()
            self._idle.append(server)
        else:
            server.close()
        if self._waiters:
            self._grant()

    def _cancel_arrived(self, server: ServerConnection) -> None:
        if not server.cancels_count:
            server.on_cancelled = None
            self.release(server)

    def tend(self, *, idle_s: float, lifetime_s: float, asleep_s: float = 0.0) -> None:
        """Do what is due: end waits that took too long, retry, close what idled or lived too long.

        Args:
            asleep_s: How long this process did not run since the last call; nobody was waiting for a
                server then.
        """
        now = self._clock()
        if asleep_s:
            self._waiters = deque((waiter, began_s + asleep_s) for waiter, began_s in self._waiters)
        while self._waiters and now - self._waiters[0][1] > self.wait_s:
            waiter, _ = self._waiters.popleft()
            waiter.server_refused(self._timeout())
        # Those that idle longest come first in the list.
        surplus = self.count - self.size_min
        keep = []
        for server in self._idle:
            has_idled = now - server.idle_since_s > idle_s and surplus > 0
            if server.is_usable and not has_idled and now - server.opened_s <= lifetime_s:
                keep.append(server)
            else:
                surplus -= 1
                server.close()
        self._idle = keep
        self._grant()
        if self._has_opened and not self.is_closed and now >= self._retry_at_s:
            for _ in range(min(self.size_min - self.count, self._room)):
                self._begin_opening()

    @property
    def count(self) -> int:
        """How many connections there are, or soon will be."""
        return len(self._idle) + self._lent_count + len(self._opening)

    @property
    def idle_since_s(self) -> float | None:
        """Since when the connection idles that idles longest; None: none is idle."""
        return self._idle[0].idle_since_s if self._idle else None

    def evict(self) -> None:
        """Close the connection that idles longest: another pool needs its place."""
        self._idle.pop(0).close()

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing would be lost with this pool."""
        return not (self.count or self._waiters or self.size_min) and self._clock() >= self._retry_at_s

    def close(self) -> None:
        """Close what is idle and send away who waits; what is lent is closed when it comes back."""
        self.is_closed = True
        for server in self._idle:
            server.close()
        self._idle.clear()
        for task in self._opening:
            task.cancel()
        waiters, self._waiters = self._waiters, deque()
        for waiter, _ in waiters:
            waiter.server_refused(UpstreamRefused("the server is not used any more"))

    def statistics(self) -> PoolStatistics:
        """Return the pool's counts."""
        waited_s = self._clock() - self._waiters[0][1] if self._waiters else 0.0
        return PoolStatistics(
            len(self._idle), self._lent_count, len(self._opening), len(self._waiters), waited_s
        )

    def _grant(self) -> None:
        """Give what is free to those who wait, oldest first, and open what is missing."""
        if not self._waiters:
            return
        while self._waiters and self._idle:
            server = self._idle.pop()
            if not server.is_usable:
                continue
            waiter, _ = self._waiters.popleft()
            self._lent_count += 1
            waiter.server_granted(server)
        if self.is_closed or self._clock() < self._retry_at_s:
            return
        missing = len(self._waiters) - len(self._opening)
        for _ in range(min(missing, self._room) if missing > 0 else 0):
            self._begin_opening()

    @property
    def _room(self) -> int:
        """How many more connections may be opened now."""
        size = self.size_max
        if self.reserve and self._waiters and self._clock() - self._waiters[0][1] >= self.reserve_timeout_s:
            size += self.reserve
        room = size - self.count
        if room > 0 and self._spare is not None:
            return min(room, self._spare(bool(self._waiters)))
        return room

    def _begin_opening(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        task = asyncio.current_task()
        try:
            server = await self._connect()
        except UpstreamRefused as refused:
            self._opening.discard(task)
            self._refused(refused)
        else:
            self._opening.discard(task)
            self._retry_s, self._retry_at_s, self._last_refusal = _RETRY_S_MIN, 0.0, None
            self._has_opened = True
            self._idle.append(server)
            if self.is_closed:
                server.close()
            self._grant()

    def _refused(self, refused: UpstreamRefused) -> None:
        """Decide what a failed connection means for those who wait."""
        self._last_refusal = refused
        is_final = isinstance(refused, ServerRefusal) and refused.is_final
        if is_final or self.is_optional:
            waiters, self._waiters = self._waiters, deque()
            for waiter, _ in waiters:
                waiter.server_refused(refused)
        self._retry_at_s = self._clock() + self._retry_s * (1 + self._jitter()) / 2
        self._retry_s = min(self._retry_s * 2, _RETRY_S_MAX)

    def _timeout(self) -> ProxyError:
        if self._last_refusal is not None:
            return UpstreamRefused(str(self._last_refusal), hint=self._last_refusal.hint)
        return PoolTimeout(
            f"no server connection became free in {self.wait_s:g} s",
            hint="raise pool.size, or shorten transactions",
        )
