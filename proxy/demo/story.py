"""The crossing as an operator does it: five steps, each a line of the YAML file.

    1 mirror    2 backfill (and verify)    3 reads 5% -> 50% -> 100%
    4 switch    5 rollback, and switch again

The application's load runs all the while. Rule 1: a step is over when the admin API says
so, within a limit. Rule 2: nothing here tells the proxy anything, except by the file.
At the end the load stops, and three independent accounts must agree: what `verify` finds,
what a plain comparison of both databases finds, and what the clients were told.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import uvloop
from rich.console import Console

from proxy.clock import now_s
from proxy.demo.account import Account, Findings, SwitchWait
from proxy.demo.clusters import VersionMissing
from proxy.demo.compare import compare
from proxy.demo.journal import Journal
from proxy.demo.screen import Screen
from proxy.demo.stage import DATABASE, PASSWORD, Stage, StageFailed
from proxy.demo.watch import Status, TimedOut, Verification, Watch
from proxy.demo.workload import KEYS, Shape, Workload

# What each step is given before the demo fails; all of them are many times what it takes.
_READY_TIMEOUT_S = 30
_STEP_TIMEOUT_S = 30
_BACKFILL_TIMEOUT_S = 120
_LAG_MAX_S = 1.0

_LOG_WIDTH = 120

# Load between two steps, so that each of them is lived in and not only passed.
_STATEMENTS_PER_STEP = 1000
_STATEMENTS_AFTER_SWITCH = 300
_STATEMENTS_TIMEOUT_S = 30


class StoryFailed(Exception):
    """A step did not come to its end; the message says which and why."""


class Story:
    """One telling of it.

    Args:
        users_count: Users of the shop.
        keep: Leave everything running at the end, load included, until interrupted.
    """

    def __init__(self, console: Console, *, users_count: int, keep: bool) -> None:
        self._console = console
        self._keep = keep
        self._screen = Screen(console)
        self._stage = Stage(users_count)
        self._shape = Shape(users_count)
        self._journal = Journal(KEYS)
        self._watch = Watch(self._stage.admin_url, DATABASE, self._refresh)
        self._account = Account()

    async def tell(self) -> int:
        """Run the whole demo; return the exit code."""
        began_s = now_s()
        try:
            with self._screen:
                await self._play()
            load = self._journal.statistics()
            self._screen.table(self._account.results(load), took_s=now_s() - began_s)
            if self._account.failure is not None:
                self._console.print(self._account.failure, style="red", markup=False, soft_wrap=True)
                self._console.print(self._stage.last_words(), markup=False, soft_wrap=True)
            if self._keep and self._account.failure is None:
                await self._stay()
        finally:
            # From here on an impatient second Ctrl-C would only leave clusters behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            await self._stage.close()
        return 0 if self._account.is_good(load) else 1

    async def _play(self) -> None:
        try:
            await self._build()
            load = Workload(self._stage.url, self._journal, self._shape)
            await self._beside(self._steps(load), self._watch.run(), load.run())
            await self._beside(self._prove(), self._watch.run())
        except (StoryFailed, StageFailed, TimedOut, VersionMissing) as error:
            self._account.failure = str(error)
        # The load could not log in, a cluster did not start or broke off: these carry no words of ours.
        except (OSError, RuntimeError, asyncpg.PostgresError) as error:
            self._account.failure = f"{type(error).__name__}: {error}"

    async def _beside(self, main: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]) -> None:
        """Run `main` to its end; the others, and the proxy, must not fail meanwhile."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(one) for one in (*others, self._stage.wait_server_end())]
                await main
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failures:
            # The first is the cause; the others are what it broke.
            raise failures.exceptions[0] from None

    async def _build(self) -> None:
        step = "a shop on PostgreSQL 16, an empty PostgreSQL 18"
        self._screen.begin(step)
        await self._stage.build(self._screen.rename)
        self._screen.rename(step)
        self._screen.end("built")
        for command in ("check", "init"):
            self._screen.begin(f"crossfade {command}")
            finished = await self._stage.crossfade(command)
            if finished.code != 0:
                raise StoryFailed(f"crossfade {command} failed:\n{finished.output}{finished.errors}")
            self._screen.end("fine")
        self._screen.begin("crossfade serve")
        await self._stage.serve()
        await self._beside(self._ready(), self._watch.run())
        self._screen.end(f"127.0.0.1:{self._stage.port}, dashboard {self._stage.admin_url}")

    async def _ready(self) -> None:
        await self._until("the proxy is up", lambda status: status.authority == "old", _READY_TIMEOUT_S)

    async def _steps(self, load: Workload) -> None:
        self._screen.begin("the application's load")
        await self._statements(_STATEMENTS_PER_STEP)
        self._screen.end(self._shape_shown())
        self._screen.begin("1  mirror: every write is repeated on the new cluster")
        self._stage.edit(mirror=True)
        await self._until("mirroring", lambda status: status.has_converged and _is_close(status))
        await self._statements(_STATEMENTS_PER_STEP)
        self._screen.end("on")
        await self._backfill()
        for reads in ("5%", "50%", "100%"):
            self._screen.begin(f"3  reads on the new cluster: {reads}")
            self._stage.edit(reads_on_new=reads)
            await self._until(f"reads at {reads}", functools.partial(_reads_are, reads))
            await self._statements(_STATEMENTS_PER_STEP)
            self._screen.end("live")
        await self._switch("4  switch", "new")
        await self._switch("5  rollback", "old")
        await self._switch("5  switch again", "new")
        await load.stop()

    async def _backfill(self) -> None:
        self._screen.begin("2  backfill: the history is copied")
        began_s = now_s()
        self._stage.edit(backfill=True)
        status = await self._until(
            "backfill",
            lambda status: status.backfill_state == "complete" and _is_close(status),
            _BACKFILL_TIMEOUT_S,
        )
        rows = status.backfill_rows
        self._screen.end(f"{rows:,} rows, {rows / (now_s() - began_s):,.0f} rows/s")
        self._screen.begin("2  verify, while writes go on")
        found = await self._verify()
        if found.differences:
            raise StoryFailed("verify found differences under load:\n" + "\n".join(found.differences[:10]))
        self._screen.end(f"{found.rows_count:,} rows are equal")

    async def _switch(self, name: str, to: str) -> None:
        """Move the authority, and note the longest wait of any client meanwhile."""
        self._screen.begin(f"{name}: writes on {to}")
        await self._until("the gates", lambda status: not status.refusals)
        from_s = now_s()
        self._stage.edit(writes_on=to)
        status = await self._until(
            f"writes on {to}", lambda status: status.authority == to or status.refused is not None
        )
        if status.authority != to:
            raise StoryFailed(f"the switch to {to} was refused: {status.refused}")
        # Whoever was held is through when this many more statements have ended.
        await self._statements(_STATEMENTS_AFTER_SWITCH)
        wait = self._journal.longest_wait(from_s, now_s())
        switch = SwitchWait(f"{name[3:]} to {to}", wait.duration_s, wait.operation, status.pause_s)
        self._account.switches.append(switch)
        await self._statements(_STATEMENTS_PER_STEP)
        self._screen.end(f"longest client wait {switch}")

    async def _prove(self) -> None:
        """With the load at rest: three accounts of what is in both databases."""
        self._screen.begin("the load ends, the ledger drains")
        await self._until("an empty ledger", lambda status: status.ledger_entries == 0)
        self._screen.end("empty")
        self._screen.begin("crossfade verify")
        self._account.verified = await self._verify()
        self._screen.end(f"{self._account.verified.rows_count:,} rows")
        self._screen.begin("comparison of both databases, row by row")
        tables = await compare(self._stage.old_url, self._stage.new_url, KEYS)
        self._account.compared_rows = sum(table.rows_count for table in tables)
        self._account.differences = Findings(
            sum(table.differences_count for table in tables),
            tuple(f"{table.table} {difference}" for table in tables for difference in table.differences),
        )
        self._screen.end(f"{self._account.compared_rows:,} rows")
        self._screen.begin("every acknowledged write, in both databases")
        lost: list[str] = []
        for side, url in (("old", self._stage.old_url), ("new", self._stage.new_url)):
            connection = await asyncpg.connect(url)
            try:
                lost += [f"{side}: {item}" for item in await self._journal.lost(connection)]
            finally:
                await connection.close()
        self._account.lost = Findings(len(lost), tuple(lost))
        self._screen.end(f"{self._journal.statistics().writes_count:,} writes")

    async def _stay(self) -> None:
        stage = self._stage
        self._console.print(
            "\nEverything is still running, the load too. Ctrl-C ends it.\n"
            f"  psql        PGPASSWORD={PASSWORD} psql -h 127.0.0.1 -p {stage.port} -U app {DATABASE}\n"
            f"  YAML        {stage.yaml}   (edit it: it takes effect at once)\n"
            f"  dashboard   {stage.admin_url}/\n"
            f"  old, new    {stage.old_url}   {stage.new_url}\n"
            f"  log         {stage.log}",
            highlight=False,
            soft_wrap=True,
        )
        # A journal of its own: from here on the database is the visitor's as well.
        await self._beside(_for_ever(), Workload(stage.url, Journal(KEYS), self._shape, seed=2).run())

    async def _verify(self) -> Verification:
        finished = await self._stage.crossfade("verify", "--json")
        if finished.code not in (0, 1):
            raise StoryFailed(f"crossfade verify failed:\n{finished.output}{finished.errors}")
        return Verification.parse(finished.output)

    async def _until(
        self, what: str, is_true: Callable[[Status], bool], timeout_s: float = _STEP_TIMEOUT_S
    ) -> Status:
        return await self._watch.until(what, is_true, timeout_s=timeout_s)

    async def _statements(self, count: int) -> None:
        try:
            async with asyncio.timeout(_STATEMENTS_TIMEOUT_S):
                await self._journal.wait_statements(count)
        except TimeoutError:
            what = f"the clients did not run {count} statements in {_STATEMENTS_TIMEOUT_S} s"
            raise StoryFailed(what) from None

    def _refresh(self) -> None:
        self._screen.show(self._journal.statistics(), self._watch.latest)

    def _shape_shown(self) -> str:
        shape = self._shape
        return f"{shape.asyncpg_clients_count} asyncpg and {shape.psycopg_clients_count} psycopg clients"


def _is_close(status: Status) -> bool:
    return status.ledger_oldest_s < _LAG_MAX_S


def _reads_are(reads: str, status: Status) -> bool:
    return f"{status.reads_on_new_ratio:.0%}" == reads


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _tell(keep: bool, users_count: int) -> int:
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    story = Story(console, users_count=users_count, keep=keep)
    told = asyncio.current_task()
    assert told is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.cancel)
    return await story.tell()


def run(*, keep: bool, users_count: int) -> int:
    """Tell the story; return the exit code: 0 only if nothing failed, differs or is missing.

    SIGINT and SIGTERM end it early, with everything cleaned up (130).
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_tell(keep, users_count))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
