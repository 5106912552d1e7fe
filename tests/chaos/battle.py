"""One seed's run: proxies between two databases behind bad networks, and what goes wrong there.

Faults come one after the other, chosen by the seed. `POINTS` are statements of the engine: it
is killed or stopped in the moment in which one of them passes, before or behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from proxy.app.commands import init
from proxy.catalog.reader import read_catalog
from proxy.config.dsn import Dsn
from proxy.config.load import load
from proxy.config.model import Tables
from proxy.verify.verifier import verify
from tests.chaos import workload
from tests.chaos.arena import Arena, crash
from tests.chaos.relay import Relay
from tests.running import Running

APPLY = ", true);"  # the guard of a target's transaction: crossfade.own(epoch, true)
POINTS = {
    0: ("REPEATABLE READ", "FROM crossfade.ledger", "COPY (", "DELETE FROM crossfade.ledger", "COMMIT"),
    1: (APPLY, "COPY ", "INSERT INTO", "COMMIT", "crossfade.chunk", "DELETE FROM", "crossfade.applied"),
}  # fmt: skip
_POINT_WAIT_S = 2.0
_PREPARED_AGE_S = 3
_SETTLE_S = 150
LINK_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Battle:
    """Everything of one seed but its clients."""

    def __init__(self, seed: int, arena: Arena, urls: tuple[str, str], folder: Path) -> None:
        self.chance = random.Random(seed)
        self.arena = arena
        self.urls = urls
        self.folder = folder
        self.done: list[str] = []  # the faults, with the time of each
        self.faults: list[str] = []
        self.broken: list[str] = []
        self.looks = 0
        self.proxies: list[Running] = []
        self.relays: tuple[Relay, Relay]
        self._began_s = time.monotonic()

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[None]:
        """Start everything; the history is copied while clients write already."""
        ports = [int(url.rpartition("/")[0].rpartition(":")[2]) for url in self.urls]
        seed = self.chance.getrandbits(30)
        async with Relay(ports[0], seed=seed) as old, Relay(ports[1], seed=seed + 1) as new:
            self.relays = (old, new)
            behind = [
                url.replace(f":{port}/", f":{relay.port}/")
                for url, port, relay in zip(self.urls, ports, self.relays, strict=True)
            ]
            assert self.arena.standby is not None
            standby = self.arena.standby.url(self.urls[0].rpartition("/")[2])
            changes = {**self._changes(), "old": {"primary": behind[0], "replicas": [standby]}}
            with contextlib.ExitStack() as stack:
                for number in range(self.chance.choice((1, 1, 2))):
                    folder = self.folder / str(number)
                    folder.mkdir()
                    self.proxies.append(stack.enter_context(Running(folder, behind[0], behind[1], changes)))
                await init(load(self.proxies[0].file), remove=False)
                async with asyncio.TaskGroup() as group:
                    for running in self.proxies:
                        group.create_task(asyncio.to_thread(running.start))
                yield

    async def settle(self) -> None:
        """Wait until there is nothing to do, and a proxy says so.

        The databases are asked first: a status costs the engine a look at both catalogs.
        """
        source, target = [await asyncpg.connect(url) for url in self.urls]
        try:
            async with asyncio.timeout(_SETTLE_S):
                while (
                    await source.fetchval("SELECT EXISTS (SELECT FROM crossfade.ledger)")
                    or await target.fetchval(_LEFT_TO_COPY)
                ):  # fmt: skip
                    await asyncio.sleep(0.1)
                while not await self._is_converged():
                    await asyncio.sleep(0.5)
        finally:
            source.terminate()
            target.terminate()

    async def _is_converged(self) -> bool:
        for running in self.proxies:
            with contextlib.suppress(OSError):
                told = await asyncio.to_thread(running.status)
                if told["backfill"]["state"] == "complete" and told["ledger"]["entries"] == 0:
                    return True
        return False

    async def disturb(self, count: int) -> None:
        """Let so many things go wrong, one after the other."""
        for _ in range(count):
            await asyncio.sleep(self.chance.uniform(0.05, 0.8))
            name = self.chance.choice(self.fault_names(has_disk=self.arena.disk is not None))
            began_s = time.monotonic() - self._began_s
            await getattr(self, f"_{name}")()
            self.faults.append(name)
            self.done.append(f"{began_s:.2f} to {time.monotonic() - self._began_s:.2f} s: {name}")

    async def look(self, stop: asyncio.Event, pause_s: float = 0.05) -> None:
        """Read the mirror, and note every state that never was; spread over nodes it shows no one state."""
        while not self.arena.is_spread and not stop.is_set():
            try:
                reader = await asyncpg.connect(self.urls[1], timeout=20)
            except LINK_LOST:
                await asyncio.sleep(0.1)
                continue
            try:
                while not stop.is_set() and not await reader.fetchval(_IS_COPIED):
                    await asyncio.sleep(pause_s)
                # From the first whole pass behind the history on, it shows one state of the source.
                was = await reader.fetchval(_PROGRESS)
                while not stop.is_set() and await reader.fetchval(_PROGRESS) == was:
                    await asyncio.sleep(pause_s)
                while not stop.is_set():
                    self.broken += [row[0] for row in await reader.fetch(workload.BROKEN)]
                    self.looks += 1
                    await asyncio.sleep(pause_s)
            except LINK_LOST:
                pass  # it crashed, as it was meant to
            finally:
                reader.terminate()

    async def keep_finishing(self, stop: asyncio.Event) -> None:
        """Be the transaction manager of clients that were lost."""
        while not stop.is_set():
            await asyncio.sleep(0.5)
            await self.finish_prepared(_PREPARED_AGE_S)

    async def finish_prepared(self, age_s: float = 0) -> None:
        """Commit what was prepared so long ago."""
        connection = await asyncpg.connect(self.urls[0])
        prepared = (
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            f" AND prepared <= now() - interval '{age_s} s'"
        )
        try:
            for row in await connection.fetch(prepared):
                with contextlib.suppress(asyncpg.UndefinedObjectError):  # its client was faster
                    await connection.execute(f"COMMIT PREPARED '{row['gid']}'")
        finally:
            connection.terminate()

    def heal(self) -> None:
        """Let nothing be wrong any more."""
        for relay in self.relays:
            relay.heal()

    async def differences(self) -> list[str]:
        """Return what differs, by `verify` and by bytes."""
        found = await self._verified()
        source = await asyncpg.connect(self.urls[0])
        target = await asyncpg.connect(self.urls[1])
        try:
            found += [f"on the source: {row[0]}" for row in await source.fetch(workload.BROKEN)]
            for name, columns, key, only in await source.fetch(_TABLES):
                query = f"SELECT {columns} FROM {{}}{name} ORDER BY {key}"
                rows = await _copied(source, query.format(only))
                try:
                    copied = await _copied(target, query.format(""))
                except asyncpg.PostgresError as error:
                    found.append(f"{name}: {error}")
                    continue
                if rows != copied:
                    ours, theirs = set(rows.splitlines()), set(copied.splitlines())
                    found.append(f"{name}: {len(rows)} and {len(copied)} bytes")
                    found += [f"{name} on the source: {row!r}" for row in sorted(ours - theirs)]
                    found += [f"{name} on the target: {row!r}" for row in sorted(theirs - ours)]
        finally:
            source.terminate()
            target.terminate()
        return found

    async def _verified(self) -> list[str]:
        dsns = [Dsn.parse(url) for url in self.urls]
        catalogs = []
        for url in self.urls:
            connection = await asyncpg.connect(url)
            catalogs.append(await read_catalog(connection, Tables()))
            await connection.close()
        report = await verify(dsns[0], dsns[1], (catalogs[0], catalogs[1]))
        differing = [f"verify: {row}" for table in report.tables for row in table.differing]
        return [*differing, *report.problems]

    def _changes(self) -> dict[str, Any]:
        form = self.chance.choice(("statement", "trigger"))
        if self.arena.is_spread:
            form = "statement"  # foreign tables cannot have the triggers for the way back
        return {
            "backfill": {"chunk_rows": self.chance.choice((20, 1000))},
            "mirror": {"deletes_max": 100_000},
            "tables": {"capture": {"children": form, "*": "statement"}},
        }

    # The faults.

    @staticmethod
    def fault_names(*, has_disk: bool) -> list[str]:
        """Return the names of all faults, those twice that are to be frequent."""
        names = (
            "kill_proxy kill_engine kill_worker kill_at_a_point kill_at_a_point stop_at_a_point stop_proxy"
            " stop_engine crash_target restart_target silence bad_target bad_target bad_source slow"
            " crash_standby promote_standby"
        )
        return [*names.split(), *(["fill_disk"] if has_disk else [])]

    def _children(self, running: Running, kind: str) -> list[psutil.Process]:
        """Return a proxy's processes of a kind; none while they are being started."""
        assert running.process is not None
        children = psutil.Process(running.process.pid).children()
        return [child for child in children if kind in child.cmdline()]

    def _child(self, kind: str) -> psutil.Process | None:
        return next(iter(self._children(self.chance.choice(self.proxies), kind)), None)

    async def _kill_proxy(self) -> None:
        running = self.chance.choice(self.proxies)
        running.kill()
        await asyncio.to_thread(running.start)

    async def _kill_engine(self) -> None:
        if child := self._child("engine"):
            child.kill()

    async def _kill_worker(self) -> None:
        if child := self._child("worker"):
            child.kill()

    async def _kill_at_a_point(self) -> None:
        engines = [child for running in self.proxies for child in self._children(running, "engine")]
        await self._at_a_point(lambda: [_quietly(child.kill) for child in engines])

    async def _stop_at_a_point(self) -> None:
        if child := self._child("engine"):
            await self._at_a_point(lambda: _quietly(child.suspend))
            # Now and then for longer than its lease lasts.
            await asyncio.sleep(self.chance.choice((0.2, 1.0, 4.0)))
            _quietly(child.resume)

    async def _at_a_point(self, happen: Callable[[], object]) -> None:
        side = self.chance.randrange(2)
        text, is_before = self.chance.choice(POINTS[side]), self.chance.random() < 0.5
        was_met = await self.relays[side].meet(text, happen, is_before=is_before, wait_s=_POINT_WAIT_S)
        self.done.append(f"{'before' if is_before else 'behind'} {text!r}: {was_met}")

    async def _stop_proxy(self) -> None:
        running = self.chance.choice(self.proxies)
        assert running.process is not None
        processes = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children()]
        for process in processes:
            _quietly(process.suspend)
        await asyncio.sleep(self.chance.uniform(0.2, 2.0))
        for process in processes:
            _quietly(process.resume)

    async def _stop_engine(self) -> None:
        if child := self._child("engine"):
            child.suspend()
            await asyncio.sleep(self.chance.uniform(0.2, 2.0))
            child.resume()

    # Here, in the main thread: a postmaster dies with the thread that started it.

    async def _crash_target(self) -> None:
        crash(self.arena.target)
        await asyncio.sleep(self.chance.uniform(0.0, 0.5))
        self.arena.target.start()

    async def _restart_target(self) -> None:
        self.arena.target.stop(signal.SIGINT)
        self.arena.target.start()

    async def _crash_standby(self) -> None:
        if self.arena.standby is not None and not self.arena.is_promoted:
            crash(self.arena.standby)
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
            self.arena.standby.start()

    async def _promote_standby(self) -> None:
        """Beside its primary: nobody may read from it any more. Soon somebody stops it: beside two
        primaries no proxy would start again.
        """
        self.arena.promote_standby()
        await asyncio.sleep(self.chance.uniform(0.2, 2.0))
        self.arena.stop_promoted()

    async def _fill_disk(self) -> None:
        self.arena.fill()
        await asyncio.sleep(self.chance.uniform(0.2, 1.0))
        self.arena.make_room()

    async def _silence(self) -> None:
        self.relays[1].stall()
        await asyncio.sleep(self.chance.uniform(0.1, 1.0))
        self.relays[1].resume()

    async def _bad_target(self) -> None:
        self.relays[1].go_wrong(APPLY)

    async def _bad_source(self) -> None:
        self.relays[0].cut()

    async def _slow(self) -> None:
        self.chance.choice(self.relays).delay_s = self.chance.choice((0.0, 0.01))


def _quietly(act: Callable[[], None]) -> None:
    """Do something to a process that may have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        act()


_LEFT_TO_COPY = """
SELECT EXISTS (SELECT FROM crossfade.chunk WHERE migrated_at IS NULL)
    OR NOT EXISTS (SELECT FROM crossfade.chunk)
"""
_PROGRESS = "SELECT progress FROM crossfade.state"
_IS_COPIED = """
SELECT count(*) FILTER (WHERE hi IS NULL) >= 4 AND count(*) FILTER (WHERE migrated_at IS NULL) = 0
  FROM crossfade.chunk JOIN crossfade.tables ON id = tbl WHERE name IN ('orders', 'lines', 'money', 'users')
"""
# Every table with a primary key: its columns, the order of its keys, and ONLY for those with heirs.
_TABLES = """
SELECT c.oid::regclass::text,
       (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
       (SELECT string_agg(quote_ident(attname) || '::text COLLATE "C"', ', ') FROM pg_attribute
         WHERE attrelid = c.oid AND attnum = ANY(i.indkey)),
       CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END
  FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY 1
"""


async def _copied(connection: asyncpg.Connection, query: str) -> bytes:
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    await connection.copy_from_query(query, output=keep)
    return b"".join(chunks)
