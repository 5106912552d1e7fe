"""`crossfade serve`: starts the workers and the engine, reloads, and answers for all of them.

    SIGHUP, or a changed file    reload; a file that is wrong changes nothing
    SIGTERM, SIGINT              drain: transactions end, then exit 0; a second one ends at once

A child that dies is started again after a second. A supervisor that dies takes its
children with it, so that `kill -9` leaves nothing behind that still serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import structlog
import watchfiles

from proxy import metrics
from proxy.admin import http
from proxy.admin.status_model import Status
from proxy.app import calls, checks, generations
from proxy.app.channel import Channel, PeerGone
from proxy.app.orders import Orders
from proxy.app.primaries import Primaries, SeveralPrimaries
from proxy.app.sockets import UnixSocket
from proxy.app.status import assemble, totals
from proxy.config import Config, diff, digest, loads, read, until_restart
from proxy.errors import ConfigError, ProxyError
from proxy.flags.values import overlaid
from proxy.flags.watch import FlagWatch
from proxy.server.statistics import BUCKETS_S

_log = structlog.get_logger()
_RESTART_S = 1.0
_SUCCESSION_INTERVAL_S = 0.5
_REPORT_TIMEOUT_S = 3.0
_CALL_TIMEOUT_S = 10.0
_EXIT_TIMEOUT_S = 5.0


class Child:
    """One child process and the channel to it."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind = kind
        self.number = number
        self.is_ready = False
        self.channel: Channel | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def call(self, value: Any, *, timeout_s: float) -> Any:
        """Call the child.

        Raises:
            PeerGone: It is not running. TimeoutError: It does not answer.
        """
        if self.channel is None:
            raise PeerGone()
        return await self.channel.call(value, timeout_s=timeout_s)


class Supervisor:
    """The process that `crossfade serve` is."""

    def __init__(self, file: Path, text: str, config: Config) -> None:
        self._file = file.absolute()  # whoever asks for the status may be in another folder
        self._config = config  # in force: the values of flags stand for lines of the file
        self._flags = FlagWatch(config.flags)
        self._configuring = asyncio.Lock()
        self._digest = digest(text)
        self._workers = [Child("worker", number) for number in range(config.workers)]
        self._engine = Child("engine", 0)
        self._local: UnixSocket | None = None
        self._orders = Orders()
        self._primaries = Primaries()
        self._following = asyncio.Lock()
        self._before_count = generations.listeners_count(config.listen)  # of a generation before us
        self._is_steering = False
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()
        self._reloading = asyncio.Event()
        self._reloads: Counter[str] = Counter({"applied": 0, "refused": 0})
        self._problems: list[str] = []
        self._needs_restart: list[str] = []

    async def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._flags.close)
            await self._flags.look(self._config)  # before the engine could take them for orders
            self._config = overlaid(self._config, self._flags.values)
            if self._config.unix_socket_dir is not None:
                self._local = _local(self._config.unix_socket_dir, self._config.listen.port)
                stack.callback(self._local.close)
            if not self._before_count:
                await self._serve_admin(stack)
            self._config = await self._primaries.settle(self._config)
            async with asyncio.TaskGroup() as group:
                children = [group.create_task(self._keep(child)) for child in (*self._workers, self._engine)]
                others = [group.create_task(self._keep_reloading()), group.create_task(self._watch_file())]
                watching = self._flags.run(lambda: self._config, self._flags_have_changed)
                others.append(group.create_task(watching))
                if self._before_count:
                    others.append(group.create_task(self._succeed(stack)))
                await self._stopping.wait()
                await self._drain()
                for task in (*children, *others):
                    task.cancel()
        return 0

    async def status(self) -> Status:
        """Return the status of everything."""
        engine, workers = await self._reports()
        return assemble(
            self._config,
            str(self._file),
            engine=engine,
            workers=workers,
            config_digest=self._digest,
            config_problems=self._problems,
            needs_restart=self._needs_restart,
            flags=self._flags,
        )

    # Generations.

    async def _serve_admin(self, stack: contextlib.AsyncExitStack) -> None:
        if self._config.admin is None:
            return
        sources = http.Sources(self._metrics, self.status, self._unhealthy, self._not_ready)
        bound = await stack.enter_async_context(
            http.listening(http.application(sources), self._config.admin.listen)
        )
        _log.info("admin", listen=str(bound))

    async def _succeed(self, stack: contextlib.AsyncExitStack) -> None:
        """Take over from the generation before us when it ends: the admin side, and the whole port."""
        listen, own = self._config.listen, len(self._workers)
        _log.info("another generation serves the port", listen=str(listen), sockets=self._before_count)
        while not self._is_steering or generations.listeners_count(listen) > own:
            await asyncio.sleep(_SUCCESSION_INTERVAL_S)
        await self._quietly(self._workers[0], calls.Steer(0, 0), timeout_s=_CALL_TIMEOUT_S)
        while True:
            try:
                await self._serve_admin(stack)
                return
            except OSError:  # it drains, and tells of itself until its end
                await asyncio.sleep(_SUCCESSION_INTERVAL_S)

    async def _ready(self) -> None:
        """All workers listen: be found, and leave the generation before us no new clients."""
        if self._local is not None:
            self._local.publish()
        if self._before_count and not self._is_steering:
            self._is_steering = True
            call = calls.Steer(self._before_count, len(self._workers))
            await self._quietly(self._workers[0], call, timeout_s=_CALL_TIMEOUT_S)
            _log.info("new clients come here: end the generation before with SIGTERM")

    # Children.

    async def _keep(self, child: Child) -> None:
        """Run a child, and start it again when it dies."""
        while True:
            with contextlib.suppress(OSError):
                await self._run(child)
            if self._stopping.is_set():
                return
            _log.error("child has died and is started again", child=child.kind, number=child.number)
            await asyncio.sleep(_RESTART_S)

    async def _run(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        inherited = [theirs.fileno()]
        if self._local is not None and child.kind == "worker":
            inherited.append(self._local.socket.fileno())
        try:
            child.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy.app.child", child.kind, str(child.number), *map(str, inherited),
                pass_fds=inherited, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            theirs.close()
        ours.setblocking(False)

        async def handle(call: Any) -> Any:
            return await self._handle(child, call)

        child.channel = Channel(handle)
        try:
            await child.channel.run(ours, lambda: calls.Start(self._config, self._orders.open))
            await child.process.wait()
        finally:
            child.is_ready = False
            child.channel = None
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()

    async def _handle(self, child: Child, call: Any) -> Any:
        """Serve a call of a child."""
        if isinstance(call, calls.Ready):
            child.is_ready = True
            _log.info("serving", worker=child.number, **call.detail)
            if all(worker.is_ready for worker in self._workers):
                await self._ready()
        elif isinstance(call, calls.Hold):
            open_counts = await self._all_workers(call, timeout_s=call.drain_s + 1)
            return sum(count for count in open_counts if isinstance(count, int))
        elif isinstance(call, calls.Obeyed):
            self._orders.carried_out(call.database, call.authority)
        elif isinstance(call, calls.Release):
            await self._all_workers(call, timeout_s=_CALL_TIMEOUT_S)
        elif isinstance(call, calls.Promoted):
            await self._follow(call.database)
        elif isinstance(call, calls.Cancel):
            others = [worker for worker in self._workers if worker is not child]
            found = [await self._quietly(worker, call, timeout_s=_CALL_TIMEOUT_S) for worker in others]
            if child is not self._engine and not any(found):
                await self._quietly(self._engine, call, timeout_s=_CALL_TIMEOUT_S)
        return None

    async def _all_workers(self, call: Any, *, timeout_s: float) -> list[Any]:
        """Call every worker at once. One that is dead has no clients, and learns on its own."""
        return list(
            await asyncio.gather(*(self._quietly(each, call, timeout_s=timeout_s) for each in self._workers))
        )

    async def _quietly(self, child: Child, call: Any, *, timeout_s: float) -> Any:
        try:
            return await child.call(call, timeout_s=timeout_s)
        except (PeerGone, TimeoutError) as error:
            _log.warning("no answer", child=child.kind, number=child.number, error=type(error).__name__)
            return None

    async def _reports(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        children = (self._engine, *self._workers)
        engine, *workers = await asyncio.gather(*(self._report(child) for child in children))
        return engine or {}, [worker for worker in workers if worker is not None]

    async def _report(self, child: Child) -> Any:
        try:
            return await child.call(calls.Report(), timeout_s=_REPORT_TIMEOUT_S)
        except (PeerGone, TimeoutError):
            return None

    # Failovers.

    async def _follow(self, database: str) -> None:
        """Follow a cluster to its promoted replica: workers at once, the engine by a new process."""
        async with self._following:  # every worker sees it, and one look is enough
            if database not in self._config.databases:
                return  # it has left, and is only drained
            if not await self._primaries.follow(self._config, database):
                return  # else: there may have been a reload meanwhile, what is in force now gets the leader
            self._config = self._primaries.apply(self._config, self._config)
        async with self._configuring:
            await self._all_workers(calls.Configure(self._config), timeout_s=_CALL_TIMEOUT_S)
        if self._engine.process is not None and self._engine.process.returncode is None:
            self._engine.process.kill()

    # Reload.

    async def _watch_file(self) -> None:
        """Reload when the file changes, also when an editor replaces it."""
        async for changes in watchfiles.awatch(
            self._file.parent, stop_event=self._stopping, recursive=False, step=50, debounce=200
        ):
            if any(Path(path).name == self._file.name for _, path in changes):
                self._reloading.set()

    async def _keep_reloading(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            await self._reload()

    async def _reload(self) -> None:
        text = ""
        try:
            text = read(self._file)
            config = loads(text, os.environ, file=str(self._file), check=checks.problems)
            await self._meet(config)
        except (ConfigError, SeveralPrimaries) as error:
            problems = error.problems if isinstance(error, ConfigError) else [error]
            self._problems = [str(each) for each in problems]
            self._digest = digest(text)
            self._reloads["refused"] += 1
            _log.error("configuration refused, the running one stays", problems=self._problems)
            return
        config = overlaid(config, self._flags.values)
        changes = diff(self._config, config)
        config = self._primaries.apply(until_restart(self._config, config), config)
        self._problems = []
        self._needs_restart = [f"{change}: {change.reason}" for change in changes.needs_restart]
        self._reloads["applied"] += 1
        _log.info(
            "configuration reloaded",
            live=[str(change) for change in changes.live],
            needs_restart=self._needs_restart,
        )
        await self._put_in_force(config, is_order=True)
        self._digest = digest(text)  # last: from here on it is in force everywhere

    async def _meet(self, config: Config) -> None:
        """Learn of databases that are new what must be known before they are served.

        Raises:
            SeveralPrimaries: Nobody can be served there.
        """
        new = [name for name in config.databases if name not in self._config.databases]
        async with self._following:
            self._primaries.forget(self._config.databases.keys() - config.databases.keys())
            for name in new:
                await self._primaries.follow(config, name)
        if new and self._config.flags is not None:
            # Before the engine could take them for orders. Others' flags are not looked at: the first value
            # of one of them would be taken for one.
            await self._flags.look(config, new)

    async def _flags_have_changed(self, is_order: bool) -> None:
        values = {flag.key: value for flag, value in self._flags.values.items()}
        _log.info("flags have changed", values=values, is_order=is_order)
        await self._put_in_force(overlaid(self._config, self._flags.values), is_order=is_order)

    async def _put_in_force(self, config: Config, *, is_order: bool) -> None:
        self._orders.follow(self._config, config, is_order=is_order)
        self._config = config
        call = calls.Configure(config, is_order)
        async with self._configuring:  # in the order of the changes
            # Workers first: capture must be on everywhere before the engine believes it.
            await self._all_workers(call, timeout_s=_CALL_TIMEOUT_S)
            await self._quietly(self._engine, call, timeout_s=_CALL_TIMEOUT_S)

    # Ending.

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._killing.set()
        self._stopping.set()

    async def _drain(self) -> None:
        """Let the workers end their clients' transactions, at most for drain_timeout."""
        timeout_s = self._config.limits.drain_timeout_s
        _log.info("draining", timeout_s=timeout_s)
        await self._all_workers(calls.Drain(timeout_s), timeout_s=_CALL_TIMEOUT_S)
        processes = [child.process for child in self._workers if child.process is not None]

        async def all_ended() -> None:
            await asyncio.gather(*(process.wait() for process in processes))
            self._killing.set()

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(all_ended())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s + _EXIT_TIMEOUT_S):
                    await self._killing.wait()
            waiting.cancel()

    # What the admin side asks.

    async def _metrics(self) -> bytes:
        engine, workers = await self._reports()
        told = assemble(self._config, str(self._file), engine=engine, workers=workers)
        return metrics.gather(told, totals(told, engine, workers, self._reloads), BUCKETS_S)

    def _unhealthy(self) -> str | None:
        dead = [
            f"{child.kind} {child.number}"
            for child in (*self._workers, self._engine)
            if child.channel is None
        ]
        return f"not running: {', '.join(dead)}" if dead else None

    def _not_ready(self) -> str | None:
        if self._stopping.is_set():
            return "draining"
        waiting = [str(worker.number) for worker in self._workers if not worker.is_ready]
        return f"workers not ready: {', '.join(waiting)}" if waiting else self._unhealthy()


def _local(folder: str, port: int) -> UnixSocket:
    try:
        return UnixSocket(folder, port)
    except OSError as error:
        raise ProxyError(
            f"cannot listen in {folder}: {error.strerror}",
            hint="create the folder, or change unix_socket_dir",
        ) from error
