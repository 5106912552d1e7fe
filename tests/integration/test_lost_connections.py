"""Connections that are lost at the worst moment: no task hangs, and no process dies of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.catalog.keeper import CatalogKeeper
from proxy.clock import now_s
from proxy.config.dsn import Dsn
from proxy.crossing import survey as surveys
from proxy.crossing import surveyor
from proxy.crossing.machine import Reign
from proxy.crossing.surveyor import Surveyor
from proxy.ledger.connection import connect
from proxy.routing.policy import Side
from tests.integration.crossings import Crossing
from tests.integration.stand import Stand


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


async def cancelled_and_lost(crossing: Crossing, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Cancel a survey, and lose its connection before it hears of that; return whether it ends."""

    async def lose(self: CatalogKeeper, connection: asyncpg.Connection, tables: Any) -> None:
        async with connection.transaction():
            connection.terminate()
            task.cancel()
            await asyncio.sleep(0)

    monkeypatch.setattr(CatalogKeeper, "read", lose)
    looking = Surveyor(lambda: crossing.configuration, clock=now_s)
    task = asyncio.create_task(looking.run(Reign(Side.OLD, 1), lambda: None))
    await asyncio.wait({task}, timeout=3)
    has_ended = task.done()
    if not has_ended:
        monkeypatch.undo()
        task.cancel()
        await asyncio.wait({task})
    return has_ended


async def test_a_survey_that_is_cancelled_as_its_connection_is_lost_ends(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await cancelled_and_lost(crossing, monkeypatch)


async def test_without_asking_the_task_it_goes_on_for_ever_and_the_engine_waits_for_it(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveyor, "raise_if_cancelled", lambda: None)
    assert not await cancelled_and_lost(crossing, monkeypatch)


async def test_a_survey_that_was_too_slow_may_take_longer_the_next_time(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else none would ever end where the machine is slow, and no gate would open."""
    monkeypatch.setattr(surveyor, "_LOOK_S_MAX", 0.001)
    monkeypatch.setattr(surveyor, "_RETRY_S", 0.0)
    read, is_read = surveys.read, asyncio.Event()

    async def note(*args: Any, **kwargs: Any) -> Any:
        found = await read(*args, **kwargs)
        is_read.set()
        return found

    monkeypatch.setattr(surveys, "read", note)
    looking = Surveyor(lambda: crossing.configuration, clock=now_s)
    task = asyncio.create_task(looking.run(Reign(Side.OLD, 1), lambda: None))
    await is_read.wait()
    task.cancel()
    await asyncio.wait({task})


async def test_a_connect_that_is_cancelled_at_any_step_leaves_nothing_behind(old_db: str) -> None:
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    for steps in range(20):
        task = asyncio.create_task(connect(Dsn.parse(old_db)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        del task
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
        gc.collect()
    assert told == []


async def test_what_follows_a_statement_whose_backend_stands_still_ends_too(old_db: str) -> None:
    """The driver waits for the end of the cancelled one; without a limit a rollback hung for ever."""
    connection, watcher = await asyncpg.connect(old_db), await asyncpg.connect(old_db)
    pid = connection.get_server_pid()
    transaction = connection.transaction()
    await transaction.start()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT 1", timeout=0.1)
        with pytest.raises((TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await connection.execute("ROLLBACK", timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
        connection.terminate()
    while await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
        await asyncio.sleep(0.01)
    watcher.terminate()


async def test_a_worker_survives_losing_the_connection_on_which_it_reads_the_catalog(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, lost = CatalogKeeper.read, asyncio.Event()

    async def lose(self: CatalogKeeper, connection: asyncpg.Connection, tables: Any) -> Any:
        if lost.is_set():
            return await original(self, connection, tables)
        lost.set()
        async with connection.transaction():
            connection.terminate()
        raise AssertionError("the end of the transaction must fail")

    monkeypatch.setattr(CatalogKeeper, "read", lose)
    async with Stand(crossing) as stand:
        async with asyncio.timeout(20):
            await lost.wait()
        client = await stand.connect()
        assert await client.fetchval("SELECT count(*) FROM users") == 9
