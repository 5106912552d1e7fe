"""The databases that a worker serves, as they come into the configuration and leave it.

    comes    it is opened: clients can log in as soon as its clusters have answered
    leaves   no client can log in any more; sessions end as their transactions do, as at a
             shutdown; then it is closed. Until then it is held and released like the others

One that leaves and comes again is opened anew, beside the one that drains.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog

from proxy.app import calls
from proxy.app.first_look import first_look
from proxy.app.opened import Opened
from proxy.config.model import Database as Configuration
from proxy.routing.policy import Side
from proxy.server.database import Database

_log = structlog.get_logger()
_OPEN_TIMEOUT_S = 5.0


class _Entry(NamedTuple):
    """A database of the configuration: its task, and whether it is open yet."""

    serving: asyncio.Task[None]
    is_open: asyncio.Event


class Databases:
    """All of them.

    Args:
        tasks: Where their tasks run.
        promoted: Called with a name when one of its replicas may have been promoted.
        drain: Ends the sessions of a database; returns when none is left.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        promoted: Callable[[str], Awaitable[None]],
        drain: Callable[[Database], Awaitable[None]],
    ) -> None:
        self.served: dict[str, Database] = {}  # where clients may log in
        self._tasks = tasks
        self._promoted = promoted
        self._drain = drain
        self._configurations: Mapping[str, Configuration] = {}
        self._entries: dict[str, _Entry] = {}
        self._opened: set[Opened] = set()  # those that drain, too

    async def configure(
        self, configurations: Mapping[str, Configuration], *, open_timeout_s: float | None = _OPEN_TIMEOUT_S
    ) -> None:
        """Take a new configuration into force.

        Args:
            open_timeout_s: How long to wait for those that are new. They are opened when their
                clusters answer, however late. None: for as long as it takes.
        """
        self._configurations = configurations
        for name in self._entries.keys() - configurations.keys():
            self._leave(name)
        come = [(name, asyncio.Event()) for name in configurations if name not in self._entries]
        for name, is_open in come:
            self._entries[name] = _Entry(self._tasks.create_task(self._serve(name, is_open)), is_open)
        for opened in list(self._opened):
            database = opened.database
            if self.served.get(database.name) is database:
                await opened.configure(configurations[database.name])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(open_timeout_s):
                for _, is_open in come:
                    await is_open.wait()

    async def hold(self, call: calls.Hold) -> int:
        """Hold the clients of a database; return how many of their write transactions are open."""
        held = [each.hold(limit_s=call.limit_s, drain_s=call.drain_s) for each in self._named(call.database)]
        return sum(await asyncio.gather(*held))

    def release(self, call: calls.Release) -> None:
        """End the hold of a database."""
        authority = Side(call.authority) if call.authority is not None else None
        for each in self._named(call.database):
            each.release(authority, call.epoch)

    def close(self) -> None:
        """End all of them, whoever is still there."""
        for opened in self._opened:
            opened.database.close()
        for entry in self._entries.values():
            entry.serving.cancel()

    def _named(self, name: str) -> list[Opened]:
        return [opened for opened in self._opened if opened.database.name == name]

    def _leave(self, name: str) -> None:
        entry, database = self._entries.pop(name), self.served.pop(name, None)
        if database is None:
            entry.serving.cancel()  # its clusters have not answered yet
            entry.is_open.set()  # nobody need wait for it
        else:
            _log.info("database leaves", database=name, clients=len(database.sessions))
            self._tasks.create_task(self._end(entry, database))

    async def _end(self, entry: _Entry, database: Database) -> None:
        await self._drain(database)
        entry.serving.cancel()

    async def _serve(self, name: str, is_open: asyncio.Event) -> None:
        """Open a database, and look after it until cancelled."""
        database = await self._look(name)
        opened = Opened(database, self._promoted)
        self._opened.add(opened)
        self.served[name] = database
        is_open.set()
        try:
            await opened.run()
        finally:
            self._opened.discard(opened)

    async def _look(self, name: str) -> Database:
        """Return a database as its clusters, and the newest configuration, describe it."""
        while True:
            configuration = self._configurations[name]
            database = await first_look(configuration)
            if configuration == self._configurations[name]:
                return database
