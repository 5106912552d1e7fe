"""A worker: accepts clients and serves them until it is told to drain, or its supervisor dies."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import Callable
from typing import Any

import structlog

from proxy.app import calls, generations, sockets
from proxy.app.channel import Channel
from proxy.app.databases import Databases
from proxy.clock import now_s
from proxy.config.model import Config
from proxy.errors import ShuttingDown
from proxy.routing.policy import Place
from proxy.server import timeouts
from proxy.server.cancel import CancelKeys
from proxy.server.database import Database
from proxy.server.listener import ClientConnection
from proxy.server.login import APPLICATION_NAME, Service
from proxy.session import settings
from proxy.session.settings import Settings
from proxy.sql.quote import quote_text
from proxy.tls import contexts
from proxy.upstream.exchange import acquire, adopt, ask_text
from proxy.wire import messages

_log = structlog.get_logger()
_CALL_TIMEOUT_S = 5.0
_FIRST_REQUEST_S = 1.0  # for those who have come just before a drain
_PROMOTION_TIMEOUT_S = 30.0
_PARAMETERS_MAX = 1000
_SHUTS_DOWN = "the proxy shuts down"


class Worker:
    """One process of clients.

    Args:
        number: Its place among the workers, from 0; it is part of the cancel keys.
        local: The Unix socket that all workers share, if there is one.
    """

    def __init__(self, number: int, config: Config, local: socket.socket | None = None) -> None:
        self._config = config
        self._group = asyncio.TaskGroup()
        self._databases = Databases(self._group, self._promotion, self._drain_database)
        self._parameters: dict[tuple[str, str, Settings], bytes] = {}
        self._channel = Channel(self.handle)
        self._local = local
        self._servers: list[asyncio.AbstractServer] = []
        self._listening: list[socket.socket] = []  # the same sockets, which outlive the servers
        self._draining: asyncio.Event = asyncio.Event()
        self._drain_timeout_s = 0.0
        self._service = Service(
            databases=self._databases.served,
            limits=config.limits,
            cancel_keys=CancelKeys(number),
            forward_cancel=self._forward_cancel,
            parameters_of=self._parameters_of,
            verifiers={},
            clients=set(),
            **_encryption(config),
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, end: socket.socket) -> None:
        """Serve until drained, or until the supervisor's end of the channel closes."""
        async with self._group as group:
            channel = group.create_task(self._channel.run(end))
            serving = group.create_task(self._serve())
            draining = group.create_task(self._draining.wait())
            await asyncio.wait({channel, draining}, return_when=asyncio.FIRST_COMPLETED)
            if self._draining.is_set():
                await self._drain()
            await self._stop_listening()
            self._databases.close()
            for task in {channel, serving, draining, *self._tasks}:
                task.cancel()

    async def handle(self, call: Any) -> Any:
        """Serve a call of the supervisor."""
        if isinstance(call, calls.Report):
            return self.report()
        if isinstance(call, calls.Hold):
            return await self._databases.hold(call)
        if isinstance(call, calls.Release):
            self._databases.release(call)
        elif isinstance(call, calls.Configure):
            await self._configure(call.config)
        elif isinstance(call, calls.Cancel):
            return self._service.cancel_keys.cancel(call.key)
        elif isinstance(call, calls.Steer):
            self._steer(call)
        elif isinstance(call, calls.Drain):
            self._drain_timeout_s = call.timeout_s
            self._draining.set()
        return None

    def report(self) -> dict[str, Any]:
        """Return everything this process counts, as plain values."""
        return {
            "clients": len(self._service.clients),
            "databases": {name: _report(database) for name, database in self._databases.served.items()},
        }

    async def _serve(self) -> None:
        await self._databases.configure(self._config.databases, open_timeout_s=None)
        self._tasks.add(self._group.create_task(self._keep_time()))
        loop = asyncio.get_running_loop()
        tcp = sockets.tcp(self._config.listen)
        self._listening.append(tcp.dup())
        accept = functools.partial(self._accept, tcp.family)
        self._servers.append(await loop.create_server(accept, sock=tcp, backlog=sockets.BACKLOG))
        if self._local is not None:
            self._listening.append(self._local.dup())
            accept = functools.partial(self._accept, self._local.family)
            local = await loop.create_unix_server(accept, sock=self._local, backlog=sockets.BACKLOG)
            self._servers.append(local)
        await self._channel.call(calls.Ready({"listen": str(self._config.listen)}), timeout_s=_CALL_TIMEOUT_S)

    def _accept(self, family: socket.AddressFamily | int) -> ClientConnection:
        return ClientConnection(self._service, is_local=family == socket.AF_UNIX)

    async def _promotion(self, name: str) -> None:
        """Have the supervisor look who leads a cluster."""
        await self._channel.call(calls.Promoted(name), timeout_s=_PROMOTION_TIMEOUT_S)

    async def _keep_time(self) -> None:
        """Look for clients that take too long, where that is limited."""
        while True:
            await asyncio.sleep(timeouts.INTERVAL_S)
            limited = {
                name for name, database in self._databases.served.items()
                if database.configuration.timeouts != timeouts.NONE
            }  # fmt: skip
            for client in list(self._service.clients) if limited else ():
                session = client.session
                if session is not None and session.database.name in limited:
                    timeouts.look(client, session.database.configuration.timeouts, now_s())

    async def _configure(self, config: Config) -> None:
        self._config = config
        self._service.verifiers.clear()
        self._service = self._service._replace(limits=config.limits)
        try:
            self._service = self._service._replace(**_encryption(config))
        except OSError as error:  # the supervisor could use these files a moment ago
            _log.error("certificate not usable, the last one stays", error=str(error))
        await self._databases.configure(config.databases)

    def _forward_cancel(self, key: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._forward(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, key: bytes) -> None:
        await self._channel.call(calls.Cancel(key), timeout_s=_CALL_TIMEOUT_S)

    async def _parameters_of(self, database: Database, user: str, wanted: Settings) -> bytes:
        """Return what the authority reports to this user at login, asked once for the same settings.

        Without application_name: every client has its own.
        """
        key = (database.name, user, wanted)
        found = self._parameters.get(key)
        if found is not None:
            return found
        pool = database.pool(Place(database.authority, 0), user)
        server = await acquire(pool)
        try:
            await adopt(server, settings.NONE)
            database.defaults[user] = await ask_text(server, "SHOW search_path")
            await adopt(server, wanted)
            names = ", ".join(quote_text(name) for name in server.parameters if name != APPLICATION_NAME)
            reported = await ask_text(
                server,
                "SELECT json_object_agg(name, coalesce(current_setting(name, true), ''))"
                f" FROM unnest(ARRAY[{names}]) name",
            )
        finally:
            pool.release(server)
        if len(self._parameters) >= _PARAMETERS_MAX:
            self._parameters.clear()
        parameters: dict[str, str] = json.loads(reported)
        told = (messages.parameter_status(*each) for each in parameters.items())
        found = self._parameters[key] = b"".join(told)
        return found

    def _steer(self, call: calls.Steer) -> None:
        if self._listening and not generations.steer(self._listening[0], call.first, call.count):
            _log.warning("new connections cannot be steered away from the generation before")

    async def _stop_listening(self) -> None:
        """Take no new clients, but those that have been told by the kernel that they are connected."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        loop = asyncio.get_running_loop()
        listening, self._listening = self._listening, []
        for each in listening:
            each.setblocking(False)
            for accepted in generations.queued(each):
                accepted.setblocking(False)
                await loop.connect_accepted_socket(functools.partial(self._accept, each.family), accepted)
            each.close()

    async def _drain(self) -> None:
        """Take no more clients; end sessions as their transactions end."""
        await self._stop_listening()
        await self._end_sessions(lambda: list(self._service.clients), self._drain_timeout_s, _SHUTS_DOWN)

    async def _drain_database(self, database: Database) -> None:
        """End the sessions of one that has left the configuration, at the latest after drain_timeout."""

        def clients() -> list[ClientConnection]:
            sessions = database.sessions
            return [client for client in self._service.clients if client.session in sessions]

        why = f'database "{database.name}" is served no longer'
        await self._end_sessions(clients, self._service.limits.drain_timeout_s, why)
        for client in clients():
            client.end(ShuttingDown(f"terminating connection: {why}"))
        for key in [key for key in self._parameters if key[0] == database.name]:
            del self._parameters[key]

    @staticmethod
    async def _end_sessions(
        clients: Callable[[], list[ClientConnection]], timeout_s: float, why: str
    ) -> None:
        """End connections as their transactions end, until none is left or the time is up."""
        began_s = now_s()
        while (left := clients()) and (lasted_s := now_s() - began_s) < timeout_s:
            for client in left:
                client.drain(why, lets_ask=lasted_s < _FIRST_REQUEST_S)
            await asyncio.sleep(0.02)


def _encryption(config: Config) -> dict[str, Any]:
    """Return what clients are offered from now on."""
    if config.tls is None:
        return {"tls": None, "is_tls_required": False}
    return {"tls": contexts.for_clients(config.tls), "is_tls_required": config.tls.mode != "allow"}


def _report(database: Database) -> dict[str, Any]:
    pools = [
        {"cluster": place.side.value, "role": place.role, "number": place.number,
         "user": user, "idle": s.idle, "lent": s.lent, "opening": s.opening, "waiting": s.waiting,
         "waited_s_max": s.waited_s_max}
        for place, user, s in database.pools()
    ]  # fmt: skip
    servers = [
        {"cluster": place.side.value, "role": place.role, "number": place.number, "is_up": f.is_up,
         "lag_s": f.lag_s}
        for place, f in database.servers.items()
    ]  # fmt: skip
    return {
        "authority": database.authority.value,
        "epoch": database.epoch,
        "clients": len(database.sessions),
        "held": database.hold.queued_count,
        "writers": database.hold.writers_count,
        "statements": database.statistics.statements(),
        "capture_misses": dict(database.statistics.capture_misses),
        "last_misses": dict(database.statistics.last_misses),
        "reruns": database.statistics.reruns_count,
        "fallbacks": dict(database.statistics.fallbacks),
        "breaker": database.breaker.statistics(),
        "pinned": [
            {
                "address": "",
                "user": session.state.user,
                "application_name": "",
                "reason": str(session.state.pins),
            }
            for session in database.sessions
            if session.state.pins
        ],
        "pools": pools,
        "servers": servers,
    }


Report = Callable[[], dict[str, Any]]
