"""A worker in this process, in front of a crossing, with the test in its supervisor's place.

It is the real worker: clients connect to its port, a conductor holds and releases it over
its channel. It can be made deaf: it then learns of a switch only when it is told, or when a
server's refusal has made it doubt.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Self

import asyncpg
import pytest

from proxy.app import calls
from proxy.app.channel import Channel
from proxy.app.engine import RemoteProxies
from proxy.app.worker import Worker
from proxy.config.model import Config
from proxy.demo.clusters import free_port
from proxy.server.monitor import Monitor
from tests.integration.crossings import Crossing

DATABASE = "app"


class Stand:
    """One worker.

    Args:
        tables, rollout: Lines of these sections of the configuration.
    """

    def __init__(
        self,
        crossing: Crossing,
        *,
        is_deaf: bool = False,
        tables: Mapping[str, Any] | None = None,
        **rollout: Any,
    ) -> None:
        self.port = free_port()
        self.is_deaf = is_deaf
        places = {"old": {"primary": crossing.source.url()}, "new": {"primary": crossing.target.url()}}
        pool = {"size": 5, "wait": 1.0}
        database = {**places, "auth": "trust", "pool": pool, "rollout": rollout, "tables": tables or {}}
        self.config = Config.model_validate(
            {"listen": f"127.0.0.1:{self.port}", "databases": {DATABASE: database}}
        )
        self._stack = AsyncExitStack()
        self._ready = asyncio.Event()
        self.channel = Channel(self._handle)
        self.proxies = RemoteProxies(self.channel, DATABASE)

    async def __aenter__(self) -> Self:
        self._patch_monitor()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        worker = asyncio.create_task(Worker(0, self.config).run(theirs))
        channel = asyncio.create_task(self.channel.run(ours))
        self._stack.push_async_callback(self._end, worker, channel)
        await self._ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """Return a client's connection."""
        url = f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"
        connection = await asyncpg.connect(url, server_settings=settings)
        self._stack.callback(connection.terminate)
        return connection

    async def report(self) -> dict[str, Any]:
        """Return what the worker tells its supervisor about the database."""
        told = await self.channel.call(calls.Report(), timeout_s=10)
        found: dict[str, Any] = told["databases"][DATABASE]
        return found

    async def wait_held(self, count: int = 1) -> None:
        """Wait until this many requests wait for the end of a hold."""
        while (await self.report())["held"] < count:
            await asyncio.sleep(0.01)

    async def _handle(self, call: Any) -> None:
        if isinstance(call, calls.Ready):
            self._ready.set()

    async def _end(self, worker: asyncio.Task[None], channel: asyncio.Task[None]) -> None:
        """End as a supervisor that dies: its end of the channel closes."""
        channel.cancel()
        await asyncio.wait({worker, channel})
        worker.result()

    def _patch_monitor(self) -> None:
        judge, look_now = Monitor._judge_authority, Monitor.look_now
        stand = self

        def deaf_judge(self: Monitor) -> None:
            if not stand.is_deaf:
                judge(self)

        def doubting_look_now(self: Monitor) -> None:
            stand.is_deaf = False
            look_now(self)

        patch = pytest.MonkeyPatch()
        patch.setattr(Monitor, "_judge_authority", deaf_judge)
        patch.setattr(Monitor, "look_now", doubting_look_now)
        self._stack.callback(patch.undo)
