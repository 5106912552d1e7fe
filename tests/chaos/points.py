"""Points: the moments around every statement that the engine sends, and what happens at one of them.

    before   the statement is not sent
    during   it is sent, and its answer is not awaited: nobody knows whether it was done
    after    it is done, and nothing that follows it

Between two statements the engine changes nothing outside of itself, so these are all the
moments there are. A first run counts them; one run for each follows.

    killed   the connections are cut and nothing runs any more, not even a `finally`'s statement
    stopped  it stands still, as after SIGSTOP, until it is woken
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import asyncpg
import pytest

from proxy.ledger.connection import DRIVER_FAILURES

_METHODS = (
    "execute", "fetch", "fetchrow", "fetchval", "copy_from_query", "copy_to_table", "copy_records_to_table",
)  # fmt: skip
_NAME_LENGTH_MAX = 60


class Killed(BaseException):
    """The process is dead."""


class Trap:
    """What happens at one point; number 0 is no point, so that a run is only counted."""

    def __init__(self, number: int = 0, moment: str = "before", *, kills: bool = True) -> None:
        self.number = number
        self.moment = moment
        self.kills = kills
        self.seen: list[str] = []  # the statements so far
        self.reached = asyncio.Event()
        self.woken = asyncio.Event()
        self._connections: set[asyncpg.Connection] = set()
        self._is_dead = False

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run something under the trap; return when it has ended, or is dead."""
        with _watched(self):
            try:
                await work()
            except BaseException as error:
                if not self._is_dead:
                    raise
                if isinstance(error, asyncio.CancelledError):
                    raise

    async def pass_by(
        self, connection: asyncpg.Connection, send: Callable[[], Awaitable[Any]], name: str
    ) -> Any:
        """Send a statement, unless this is the point."""
        if self._is_dead:
            raise Killed
        self._connections.add(connection)
        self.seen.append(name)
        if len(self.seen) != self.number:
            return await send()
        if self.moment == "before":
            await self._spring()
            return await send()
        if self.moment == "during":
            sent = asyncio.ensure_future(send())
            for _ in range(3):  # the event loop writes what it was given
                await asyncio.sleep(0)
            try:
                await self._spring()
            finally:
                with contextlib.suppress(*DRIVER_FAILURES, Killed):
                    await sent
        done = await send()
        await self._spring()
        return done

    async def _spring(self) -> None:
        self.reached.set()
        if not self.kills:
            await self.woken.wait()
            return
        self._is_dead = True
        for connection in self._connections:
            connection.terminate()
        raise Killed


_present: ContextVar[Trap | None] = ContextVar("trap", default=None)


@contextlib.contextmanager
def _watched(trap: Trap) -> Iterator[None]:
    """Let every statement of this task, and of the tasks it starts, pass by the trap."""
    token = _present.set(trap)
    with pytest.MonkeyPatch.context() as patch:
        for method in _METHODS:
            patch.setattr(asyncpg.Connection, method, _passing(getattr(asyncpg.Connection, method), method))
        yield
    _present.reset(token)


def _passing(original: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def passing(self: asyncpg.Connection, subject: str, *args: Any, **kwargs: Any) -> Any:
        async def send() -> Any:
            return await original(self, subject, *args, **kwargs)

        trap = _present.get()
        if trap is None:
            return await send()
        return await trap.pass_by(self, send, f"{method}: {' '.join(subject.split())[:_NAME_LENGTH_MAX]}")

    return passing
