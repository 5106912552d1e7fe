"""The engine process, connected to the supervisor.

Per database it runs one `crossing.Engine`, which works when it has the lease, and one
`crossing.Peers`, which holds this proxy's clients whenever any proxy's engine asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, NamedTuple

from proxy.app import calls
from proxy.app.channel import Channel, PeerGone
from proxy.config.model import Database as Configuration
from proxy.crossing.engine import Engine
from proxy.crossing.peers import Peers
from proxy.ledger import lease as leases
from proxy.ledger.proxies import File
from proxy.routing.policy import Side

_CALL_MARGIN_S = 2.0
_CALL_TIMEOUT_S = 5.0
_CANCELS_MAX = 16
_LOOK_TIMEOUT_S = 2.0


class RemoteProxies:
    """The workers' holds for one database, reached through the supervisor."""

    def __init__(self, channel: Channel, database: str) -> None:
        self._channel = channel
        self._database = database

    async def hold(self, *, limit_s: float, drain_s: float) -> int:
        """Hold new write transactions; return how many are still open after `drain_s`."""
        call = calls.Hold(self._database, limit_s, drain_s)
        return int(await self._channel.call(call, timeout_s=drain_s + _CALL_MARGIN_S))

    async def release(self, authority: Side | None, epoch: int | None) -> None:
        """End the hold; the authority is new if the switch was done."""
        call = calls.Release(self._database, authority.value if authority is not None else None, epoch)
        await self._channel.call(call, timeout_s=_CALL_TIMEOUT_S)

    async def obeyed(self, authority: Side) -> None:
        """Tell that an order is carried out, for the next engine. Untold, that one finds out itself."""
        with contextlib.suppress(PeerGone, TimeoutError):
            call = calls.Obeyed(self._database, authority.value)
            await self._channel.call(call, timeout_s=_CALL_TIMEOUT_S)


class _Owned(NamedTuple):
    """What runs for one database."""

    engine: Engine
    peers: Peers
    tasks: tuple[asyncio.Task[None], ...]


class EngineProcess:
    """All engines of the configuration."""

    def __init__(self, start: calls.Start) -> None:
        self._config = start.config
        self._ordered = start.ordered
        self._channel = Channel(self.handle)
        self._group = asyncio.TaskGroup()
        self._owned: dict[str, _Owned] = {}
        self._cancels_count = 0  # on their way to other proxies

    async def run(self, end: socket.socket) -> None:
        """Run until the supervisor's end of the channel closes."""
        async with self._group as group:
            channel = group.create_task(self._channel.run(end))
            for name, configuration in self._config.databases.items():
                self._begin(configuration, is_ordered=name in self._ordered)
            await asyncio.wait({channel})
            for owned in self._owned.values():
                _cancel(owned)

    async def handle(self, call: Any) -> Any:
        """Serve a call of the supervisor."""
        if isinstance(call, calls.Report):
            await self._look()
            return {name: report(owned.engine) for name, owned in self._owned.items()}
        if isinstance(call, calls.Cancel):
            await self._cancel_elsewhere(call.key)
        elif isinstance(call, calls.Configure):
            self._configure(call)
        return None

    def _configure(self, call: calls.Configure) -> None:
        self._config = call.config
        databases = call.config.databases
        for name in self._owned.keys() - databases.keys():
            self._group.create_task(_end(self._owned.pop(name)))
        for name, configuration in databases.items():
            if name not in self._owned:
                self._begin(configuration)
                continue
            owned = self._owned[name]
            owned.peers.tell_of(File(configuration.rollout.writes_on, self._config.digest))
            owned.engine.configure(configuration, is_order=call.is_order)

    def _begin(self, configuration: Configuration, *, is_ordered: bool = False) -> None:
        owner = leases.new_owner()
        clusters = {side: configuration.cluster(side.value).primary for side in Side}
        own = RemoteProxies(self._channel, configuration.name)
        peers = Peers(owner, clusters, own, on_cancel=self._cancel_here)
        peers.tell_of(File(configuration.rollout.writes_on, self._config.digest))
        engine = Engine(configuration, peers, owner, is_ordered=is_ordered, obeyed=own.obeyed)
        tasks = (self._group.create_task(peers.run()), self._group.create_task(engine.run()))
        self._owned[configuration.name] = _Owned(engine, peers, tasks)

    async def _cancel_here(self, key: bytes) -> None:
        await self._channel.call(calls.Cancel(key), timeout_s=_CALL_TIMEOUT_S)

    async def _cancel_elsewhere(self, key: bytes) -> None:
        """Ask the proxies on other hosts. A key costs nothing to make up, so only so many are asked for."""
        if self._cancels_count < _CANCELS_MAX:
            self._cancels_count += 1
            try:
                await asyncio.gather(*(owned.peers.cancel(key) for owned in self._owned.values()))
            finally:
                self._cancels_count -= 1

    async def _look(self) -> None:
        """Let every engine that works look at its clusters now, so that a status is never old."""
        working = [owned.engine for owned in self._owned.values() if owned.engine.lease is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_TIMEOUT_S):
                await asyncio.gather(*(engine.look() for engine in working))


async def _end(owned: _Owned) -> None:
    """End what runs for a database that has left the configuration: between switches, not within one."""
    async with owned.engine.moving:
        _cancel(owned)


def _cancel(owned: _Owned) -> None:
    for task in owned.tasks:
        task.cancel()


def report(engine: Engine) -> dict[str, Any]:
    """Return what an engine knows, as plain values; the shape is `EngineReport` of `app.status`."""
    survey = engine.survey
    counted = engine.converger.statistics() if engine.converger is not None else None
    copied = engine.backfill.statistics() if engine.backfill is not None else None
    return {
        "authority": engine.reign.authority.value if engine.reign is not None else None,
        "epoch": engine.reign.epoch if engine.reign is not None else 0,
        "proxy": engine.owner,
        "owner": engine.owner if engine.lease is not None else None,
        "lease": engine.lease.epoch if engine.lease is not None else 0,
        "is_switching": engine.is_switching,
        "refused": engine.refused,
        "last_pause_s": engine.last_pause_s,
        "last_error": (counted.last_error if counted is not None else None) or engine.last_error,
        "survey": survey,
        "eta_s": engine.pace.eta_s,
        "converged": None if counted is None else {
            "rows": dict(counted.converged_rows),
            "quarantined": dict(counted.quarantined_keys),
            "paused": dict(counted.paused),
            "walked": {name: walked._asdict() for name, walked in counted.walked.items()},
            "success_ratio": counted.success_ratio,
            "lag_s": counted.lag_s,
        },
        "backfill": None if copied is None else {
            "progress": {name: progress._asdict() for name, progress in copied.progress.items()},
            "blocked": dict(copied.blocked),
            "reason": copied.reason,
            "is_complete": copied.is_complete,
        },
    }  # fmt: skip
