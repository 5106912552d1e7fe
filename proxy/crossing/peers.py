"""The proxies of one database on all hosts: how a switch holds the clients of every one of them.

They know each other through PostgreSQL alone (`ledger.proxies`), where each keeps a line to
both clusters:

    who switches                        every other proxy
    asks for a hold       notifies  ->  holds its clients, and answers with its open writes;
    waits for answers  <-  notifies     answers again when there are none
    ends the hold         notifies  ->  releases its clients, to the new authority if there is one

A cancel request that came to a proxy which does not know its key goes to the others in the same way,
on both clusters: one of them may be down. It has a name, by which each obeys it once.

Rule 1: a hold is asked for on the authority: who cannot be reached there cannot write there.
Rule 2: who does not answer in `_ANSWER_TIMEOUT_S` is not waited for. The fence refuses its
writers, as it does those of proxies that nobody knows.
Rule 3: every proxy ends the hold by its own clock when its time is up, whatever became of
the one that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import asyncpg
import structlog

from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.crossing.conductor import Proxies
from proxy.errors import UpstreamLost, UpstreamRefused
from proxy.ledger import lease as leases
from proxy.ledger import proxies
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.ledger.proxies import Answers, File, Hold
from proxy.routing.policy import Side

_log = structlog.get_logger()
_HEARTBEAT_S = 1.0
_RETRY_S = 1.0
_TIMEOUT_S = 2.0  # of one statement here; none waits for a lock that is held for long
_ANSWER_TIMEOUT_S = 0.5
_DRAIN_STEP_S = 0.02  # how often a proxy with open writes looks whether the hold is over
_POLL_S = 0.05  # should a notification be lost

_FAILURES = (UpstreamRefused, UpstreamLost, *DRIVER_FAILURES)
_CANCELS_MAX = 1000
_T = TypeVar("_T")

OnCancel = Callable[[bytes], Awaitable[None]]


class Peers:
    """All proxies of one database, this one's included.

    Args:
        name: This proxy's; a lease's owner, so that who takes over ends its lines, too.
        own: The clients of this proxy.
        on_cancel: Cancel what the session of a key runs, if it is one of ours.
    """

    def __init__(
        self,
        name: str,
        clusters: Mapping[Side, Dsn],
        own: Proxies,
        *,
        on_cancel: OnCancel | None = None,
        clock: Clock = now_s,
    ) -> None:
        self._name = name
        self._cancels = _Cancels(on_cancel)
        self._own = own
        self._clock = clock
        self._numbers = itertools.count(1)
        self._lines = [_Line(name, clusters[side], own, self._cancels, clock) for side in Side]

    async def run(self) -> None:
        """Be one of the proxies, and hold when another asks for it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for line in self._lines:
                group.create_task(line.run())

    async def cancel(self, key: bytes) -> None:
        """Let the proxy that has issued this key cancel what its session runs."""
        name = f"{self._name} {next(self._numbers)}"
        self._cancels.forget(name)
        await asyncio.gather(*(line.ask_for_cancel(name, key) for line in self._lines))

    def tell_of(self, file: File) -> None:
        """Tell the others of our file: while files want writes in different places nothing moves."""
        for line in self._lines:
            line.tell_of(file)

    async def hold(self, *, limit_s: float, drain_s: float) -> int:
        """Hold new write transactions everywhere; return how many are still open after `drain_s`.

        Raises:
            UpstreamLost: The others cannot be told.
        """
        name = f"{self._name} {next(self._numbers)}"
        asked = [line.ask_for_hold(name, limit_s=limit_s) for line in self._lines]
        heard = await asyncio.gather(*asked)
        if not any(heard):
            raise UpstreamLost("the other proxies cannot be told", hint="has `crossfade init` been run?")
        line = self._lines[heard.index(True)]
        here, elsewhere = await asyncio.gather(
            self._own.hold(limit_s=limit_s, drain_s=drain_s), self._answers(line, name, drain_s)
        )
        if elsewhere.silent:
            _log.warning("proxies do not answer: their writers are fenced off", proxies=elsewhere.silent)
        return here + elsewhere.open_count

    async def release(self, authority: Side | None, epoch: int | None) -> None:
        """End the hold everywhere; the authority is new if the switch was done."""
        ends = [line.end_hold(authority, epoch) for line in self._lines]
        await asyncio.gather(self._own.release(authority, epoch), *ends)

    async def _answers(self, line: _Line, hold: str, drain_s: float) -> Answers:
        """Wait until all others hold and no write is open there, or until the time is up."""
        began_s = self._clock()
        while True:
            line.answered.clear()
            answers = await line.read_answers(hold)
            waited_s = self._clock() - began_s
            is_answered = not answers.silent or waited_s >= _ANSWER_TIMEOUT_S
            if (is_answered and not answers.open_count) or waited_s >= drain_s:
                return answers
            await _wait(line.answered, _POLL_S)


class _Cancels:
    """Cancels, each obeyed once: they come by two lines, and are read as long as they are fresh."""

    def __init__(self, on_cancel: OnCancel | None) -> None:
        self._on_cancel = on_cancel
        self._known: deque[str] = deque(maxlen=_CANCELS_MAX)

    def forget(self, name: str) -> None:
        """Never obey this one: it is our own."""
        self._known.append(name)

    async def obey(self, asked: Iterable[tuple[str, bytes]]) -> None:
        """Cancel what is asked for and not yet known."""
        for name, key in asked:
            if name not in self._known and self._on_cancel is not None:
                self._known.append(name)
                await self._on_cancel(key)


class _Line:
    """The line to one cluster: what is asked there is done, and what is said there is heard."""

    def __init__(self, name: str, dsn: Dsn, own: Proxies, cancels: _Cancels, clock: Clock) -> None:
        self.answered = asyncio.Event()
        self._name = name
        self._dsn = dsn
        self._own = own
        self._cancels = cancels
        self._clock = clock
        self._connection: asyncpg.Connection | None = None
        self._busy = asyncio.Lock()  # the driver takes one statement at a time
        self._news = asyncio.Event()
        self._file = File()
        self._has_told = True  # of it
        self._kept: str | None = None  # the hold that our clients are under
        self._open_count = 0  # as answered last

    async def run(self) -> None:
        """Keep the line up until cancelled."""
        while True:
            try:
                with contextlib.suppress(*_FAILURES):
                    await self._follow()
            except Exception:  # a fault of ours: the engine beside it has an order to keep
                _log.exception("the line to the other proxies is taken up again")
            await asyncio.sleep(_RETRY_S)

    def tell_of(self, file: File) -> None:
        """Tell the others of our file at once."""
        self._file, self._has_told = file, False
        self._news.set()

    async def ask_for_hold(self, name: str, *, limit_s: float) -> bool:
        """Ask for a hold; return whether this cluster is the authority, and was told."""
        with contextlib.suppress(*_FAILURES):
            return await self._say(lambda line: proxies.ask_for_hold(line, name, self._name, limit_s=limit_s))
        return False

    async def ask_for_cancel(self, name: str, key: bytes) -> None:
        """Ask for a cancel, if the line is up."""
        with contextlib.suppress(*_FAILURES):
            await self._say(lambda line: proxies.ask_for_cancel(line, name, key))

    async def end_hold(self, authority: Side | None, epoch: int | None) -> None:
        """End the hold that was asked for here; without the line it ends by its limit."""
        side = authority.value if authority is not None else None
        with contextlib.suppress(*_FAILURES):
            await self._say(lambda line: proxies.end_hold(line, self._name, side, epoch))

    async def read_answers(self, hold: str) -> Answers:
        """Return what the others have answered."""
        return await self._say(lambda line: proxies.read_answers(line, hold, self._name))

    async def _say(self, statement: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        async with asyncio.timeout(_TIMEOUT_S), self._busy:
            if self._connection is None:
                raise UpstreamLost("the line is down")
            return await statement(self._connection)

    async def _follow(self) -> None:
        connection = await connect(self._dsn, application_name=leases.application_name(self._name))
        try:
            await proxies.register(connection, self._name, self._file)
            await connection.add_listener(proxies.CHANNEL, self._notified)
            self._connection = connection
            renew_at_s = self._clock() + _HEARTBEAT_S
            while True:
                self._news.clear()
                if self._clock() >= renew_at_s or not self._has_told:
                    self._has_told = True
                    await self._say(lambda line: proxies.renew(line, self._name, self._file))
                    renew_at_s = self._clock() + _HEARTBEAT_S
                await self._cancels.obey(await self._say(proxies.read_cancels))
                await self._obey(await self._say(proxies.read_hold))
                if not self._open_count:
                    await _wait(self._news, _HEARTBEAT_S)
        finally:
            self._connection = None
            connection.terminate()

    def _notified(self, *_: object) -> None:
        self._news.set()
        self.answered.set()

    async def _obey(self, asked: Hold) -> None:
        if asked.owner == self._name:
            return  # our clients were told directly
        if asked.name is None or asked.left_s <= 0:
            await self._let_go(asked)
        elif asked.name != self._kept or self._open_count:
            await self._keep(asked, asked.name)

    async def _keep(self, asked: Hold, name: str) -> None:
        """Hold our clients, or hold them still; answer if that tells something new."""
        is_new = name != self._kept
        self._kept = name
        drain_s = 0.0 if is_new else _DRAIN_STEP_S
        open_count = await self._own.hold(limit_s=asked.left_s, drain_s=drain_s)
        if is_new or open_count != self._open_count:
            await self._say(lambda line: proxies.answer(line, self._name, name, open_count))
        self._open_count = open_count

    async def _let_go(self, asked: Hold) -> None:
        if self._kept is not None:
            self._kept, self._open_count = None, 0
            await self._own.release(Side(asked.authority) if asked.authority else None, asked.epoch)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
