"""The engine around a switch: when it may copy, what it does after a doubt, what is an order.

Also two guards taken away: the barrier before the first chunk, and the newer lease after a
pass whose outcome is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from proxy.backfill.backfill import Backfill
from proxy.backfill.barrier import Barrier
from proxy.converge import apply
from proxy.crossing.conductor import Conductor, Outcome
from proxy.crossing.engine import Engine
from proxy.ledger import lease as leases
from proxy.ledger.connection import connect
from proxy.routing.policy import Side
from tests.integration.crossings import Crossing

MAX_PAUSE_S = 60.0  # nothing here is meant to run into it


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.found()
        yield crossing


@contextlib.asynccontextmanager
async def running(
    crossing: Crossing, *, obeyed: Callable[[Side], Awaitable[None]] | None = None, **rollout: Any
) -> AsyncIterator[Engine]:
    """An engine at work, in this process."""
    configuration = configured(crossing, **rollout)
    engine = Engine(configuration, crossing.proxies, leases.new_owner(), obeyed=obeyed)
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        task.cancel()
        await asyncio.wait({task})


def configured(crossing: Crossing, **rollout: Any) -> Any:
    """Return the configuration with lines of `rollout` changed."""
    before = crossing.configuration
    return before.model_copy(update={"rollout": before.rollout.model_copy(update=rollout)})


async def until(condition: Callable[[], object]) -> None:
    """Wait until something about an engine is true."""
    while not condition():
        await asyncio.sleep(0.01)


def gates_hold(engine: Engine) -> bool:
    return engine.survey is not None and all(verdict.passed for verdict in engine.survey.verdicts.values())


# Backfill begins when nobody is left who may have written unseen.


async def copied_around_an_open_transaction(crossing: Crossing) -> tuple[str, bool]:
    """Somebody wrote before capture began and commits only after the first step of backfill.

    Returns:
        Why the first step did not copy, and whether both sides are equal in the end.
    """
    crossing.lease = await crossing.take()
    converger = crossing.make()
    backfill = Backfill(
        crossing.source, crossing.target, converger, tables=crossing.tables,
        settings=crossing.configuration.backfill,
    )  # fmt: skip
    early = crossing.old.transaction()
    await early.start()
    await crossing.old.execute("UPDATE users SET hits = 1 WHERE id = 1")  # without an entry
    for _ in range(20):
        step = await backfill.step()
        if step is None or "began before" in step.reason:
            break
    reason = step.reason if step is not None else ""
    await early.commit()
    while (step := await backfill.step()) is not None:
        await asyncio.sleep(step.wait_s)
    await backfill.close()
    assert (await converger.converge_entries()).is_complete
    return reason, await crossing.is_equal()


async def test_backfill_waits_for_who_wrote_before_capture_began(crossing: Crossing) -> None:
    reason, is_equal = await copied_around_an_open_transaction(crossing)
    assert reason == "waiting for 1 transactions that began before capture did"
    assert is_equal


async def test_without_the_barrier_their_writes_are_missed(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(self: Barrier, source: asyncpg.Connection) -> int:
        return 0

    monkeypatch.setattr(Barrier, "left_count", nobody)
    assert await copied_around_an_open_transaction(crossing) == ("", False)


async def test_readers_and_later_writers_do_not_hold_backfill_up(crossing: Crossing) -> None:
    barrier, reader, writer = Barrier(), await connect(crossing.source), await connect(crossing.source)
    await reader.execute("BEGIN; SELECT count(*) FROM public.users")
    await writer.execute("BEGIN; UPDATE public.users SET hits = 1 WHERE id = 1")
    assert await barrier.left_count(crossing.old) == 1
    await writer.execute("COMMIT; BEGIN; UPDATE public.users SET hits = 2 WHERE id = 1")
    assert await barrier.left_count(crossing.old) == 0
    for connection in (reader, writer):
        connection.terminate()


async def test_a_writer_that_still_waits_for_its_table_counts(crossing: Crossing) -> None:
    """It has written nothing yet and has no transaction id, but its statement is on its way."""
    await crossing.old.execute("BEGIN; LOCK TABLE users")
    writer = await connect(crossing.source)
    writing = asyncio.create_task(writer.execute("UPDATE public.users SET hits = 1 WHERE id = 1"))
    blocked = "SELECT cardinality(pg_blocking_pids($1)) = 1"
    while not await crossing.old.fetchval(blocked, writer.get_server_pid()):
        await asyncio.sleep(0.01)
    barrier, watcher = Barrier(), await connect(crossing.source)
    assert await barrier.left_count(watcher) == 2
    await crossing.old.execute("COMMIT")
    await writing
    assert await barrier.left_count(watcher) == 0
    for connection in (writer, watcher):
        connection.terminate()


async def test_a_writer_that_is_prepared_has_not_ended(crossing: Crossing) -> None:
    barrier, writer = Barrier(), await connect(crossing.source)
    await writer.execute("BEGIN; UPDATE public.users SET hits = 1 WHERE id = 1")
    assert await barrier.left_count(crossing.old) == 1
    await writer.execute("PREPARE TRANSACTION 'early'")
    writer.terminate()
    assert await barrier.left_count(crossing.old) == 1
    await crossing.old.execute("COMMIT PREPARED 'early'")
    assert await barrier.left_count(crossing.old) == 0


# After a pass whose outcome is not known, the lease is taken anew.


@contextlib.contextmanager
def hanging_apply(*, ends_by_time: bool = False) -> Any:
    """The first transaction on the target reaches a backend that hangs; yields its process id.

    Args:
        ends_by_time: The time of the command is over as soon as it is sent.
    """
    original = apply.apply
    pids: list[int] = []
    lost: list[asyncio.Future[None]] = []

    async def hang(links: Any, *args: Any, **kwargs: Any) -> None:
        if not pids:
            pids.append(links.target.get_server_pid())
            os.kill(pids[0], signal.SIGSTOP)
            if ends_by_time:
                lost.append(asyncio.ensure_future(original(links, *args, **kwargs)))
                await asyncio.sleep(0)  # it is written to the socket
                raise TimeoutError
        await original(links, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "apply", hang)
        try:
            yield pids
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            for each in lost:
                assert each.exception() is not None, "its connection was dropped"


async def ended(crossing: Crossing, pid: int) -> None:
    """Wait until a backend of the new side is gone."""
    while await crossing.new.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
        await asyncio.sleep(0.01)


async def test_with_the_same_lease_a_pass_that_lands_late_takes_a_row_back(crossing: Crossing) -> None:
    crossing.lease = await crossing.take()
    await crossing.enter("users", list(range(1, 10)))
    assert (await crossing.make().converge_entries()).is_complete
    await crossing.change(Side.OLD, "UPDATE users SET hits = 1 WHERE id = 1")
    with hanging_apply() as pids:
        loses_patience = asyncio.create_task(crossing.make().converge_entries())
        await until(lambda: pids)
        loses_patience.cancel()
        await asyncio.wait({loses_patience})
        await crossing.change(Side.OLD, "UPDATE users SET hits = 2 WHERE id = 1")
        assert (await crossing.make().converge_entries()).is_complete
        assert await crossing.is_equal()
    await ended(crossing, pids[0])
    assert not await crossing.is_equal()


async def test_the_engine_takes_the_lease_anew_after_a_pass_of_unknown_outcome(
    crossing: Crossing,
) -> None:
    async with running(crossing) as engine:
        await until(lambda: gates_hold(engine))
        assert engine.lease is not None
        first = engine.lease.epoch
        with hanging_apply(ends_by_time=True) as pids:
            await crossing.change(Side.OLD, "UPDATE users SET hits = 1 WHERE id = 1")
            await until(lambda: pids)
            await crossing.change(Side.OLD, "UPDATE users SET hits = 2 WHERE id = 1")
            while await crossing.entries():
                await asyncio.sleep(0.01)
            assert engine.lease is not None and engine.lease.epoch > first
            assert await crossing.is_equal()
        await ended(crossing, pids[0])
        assert await crossing.is_equal()


# What is an order to switch.


async def test_the_line_as_it_stands_at_the_start_is_no_order(crossing: Crossing) -> None:
    async with running(crossing, writes_on="new") as engine:
        await until(lambda: gates_hold(engine) and engine.refused)
        assert "since before this process started" in str(engine.refused)
        assert await crossing.authority() is Side.OLD
        engine.configure(configured(crossing, writes_on="old"))
        await until(lambda: engine.refused is None)
        engine.configure(configured(crossing, writes_on="new"))
        await until(lambda: engine.reign is not None and engine.reign.authority is Side.NEW)
    assert await crossing.authority() is Side.NEW


async def test_a_switch_that_was_undone_is_tried_again(crossing: Crossing) -> None:
    crossing.proxies.open_count = 1
    async with running(crossing, max_pause_s=MAX_PAUSE_S) as engine:
        await until(lambda: gates_hold(engine))
        engine.configure(configured(crossing, writes_on="new", max_pause_s=MAX_PAUSE_S))
        await until(lambda: "1 write transactions were still open" in str(engine.refused))
        crossing.proxies.open_count = 0
        await until(lambda: engine.reign is not None and engine.reign.authority is Side.NEW)
        assert engine.refused is None


async def test_an_order_outlives_a_fault_of_ours(crossing: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Conductor.switch
    faults: list[AssertionError] = []

    async def faulty(self: Conductor, *args: Any, **kwargs: Any) -> Outcome:
        if not faults:
            faults.append(AssertionError("what cannot be"))
            raise faults[0]
        return await original(self, *args, **kwargs)

    monkeypatch.setattr(Conductor, "switch", faulty)
    async with running(crossing) as engine:
        await until(lambda: gates_hold(engine))
        engine.configure(configured(crossing, writes_on="new"))
        await until(lambda: engine.reign is not None and engine.reign.authority is Side.NEW)
    assert faults


async def test_an_order_that_was_taken_back_does_not_undo_what_another_proxy_moves(
    crossing: Crossing,
) -> None:
    told: asyncio.Queue[Side] = asyncio.Queue()
    crossing.proxies.open_count = 1
    async with running(crossing, obeyed=told.put, max_pause_s=MAX_PAUSE_S) as engine:
        await until(lambda: gates_hold(engine))
        engine.configure(configured(crossing, writes_on="new", max_pause_s=MAX_PAUSE_S))
        await until(lambda: "1 write transactions were still open" in str(engine.refused))
        engine.configure(configured(crossing, writes_on="old", max_pause_s=MAX_PAUSE_S))
        assert await told.get() is Side.OLD
        await crossing.succeed()
        crossing.proxies.open_count = 0
        assert (await crossing.switch(Side.NEW)).is_done
        await until(lambda: engine.reign is not None and engine.reign.authority is Side.NEW)
        await until(lambda: "since before this process started" in str(engine.refused))
        await until(lambda: gates_hold(engine))  # nothing but that holds it back
        assert await crossing.authority() is Side.NEW
    assert told.empty()


async def test_an_order_that_was_carried_out_is_told_of(crossing: Crossing) -> None:
    told: asyncio.Queue[Side] = asyncio.Queue()
    async with running(crossing, obeyed=told.put) as engine:
        await until(lambda: gates_hold(engine))
        engine.configure(configured(crossing, writes_on="new"))
        assert await told.get() is Side.NEW
    assert await crossing.authority() is Side.NEW
