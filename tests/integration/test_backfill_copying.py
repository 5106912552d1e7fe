"""Backfill copies everything once, goes on after a kill, and gives way when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from proxy.backfill.backfill import Backfill, StepResult
from proxy.config.model import Backfill as Settings
from proxy.config.model import Tables
from proxy.converge.engine import Converger
from proxy.errors import LeaseLost, UpstreamLost
from proxy.ledger import lease as leases
from proxy.ledger.lease import Lease
from proxy.verify.verifier import verify
from tests.integration.pairs import Two

SMALL = Settings(chunk_rows=100)


@pytest.fixture
def make_two(old_db: str, new_db: str) -> Callable[..., Two]:
    return lambda tables=None: Two(old_db, new_db, tables=tables)


async def take(two: Two) -> Lease:
    """Take the lease from an owner that died a moment ago: its backends may still be ending."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await leases.take(two.old, two.new, leases.new_owner())
            except LeaseLost:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def engine(two: Two, settings: Settings = SMALL, *, deletes_max: int = 1000) -> AsyncIterator[Backfill]:
    """Take the lease, as a process that has just started does, and yield its backfill."""
    lease = await take(two)
    converger = Converger(two.source, two.target, lease=lease, tables=two.tables, deletes_max=deletes_max)
    backfill = Backfill(two.source, two.target, converger, tables=two.tables, settings=settings)
    try:
        yield backfill
    finally:
        await backfill.close()
        await converger.close()


async def finish(backfill: Backfill, *, steps_max: int = 1000) -> list[StepResult]:
    """Step until all is copied."""
    results = []
    for _ in range(steps_max):
        result = await backfill.step()
        if result is None:
            return results
        results.append(result)
        await asyncio.sleep(min(result.wait_s, 0.05))
    raise AssertionError(f"not complete: {backfill.statistics()}")


async def is_equal(two: Two) -> bool:
    report = await verify(two.source, two.target, two.catalogs)
    assert not report.problems
    return report.differences_count == 0


async def test_everything_is_copied_once_and_counted(make_two: Callable[..., Two]) -> None:
    async with make_two() as two:
        await two.execute(
            """CREATE TABLE parent (id int PRIMARY KEY, name text);
            CREATE TABLE child (parent int REFERENCES parent, n int, at timestamptz, PRIMARY KEY (parent, n));
            CREATE TABLE nothing (id int PRIMARY KEY)"""
        )
        await two.old.execute(
            """INSERT INTO parent SELECT i, 'p' || i FROM generate_series(1, 3000) i;
            INSERT INTO child SELECT 1 + i % 3000, i, '2024-01-01' FROM generate_series(1, 5000) i"""
        )
        await two.init()
        async with engine(two) as backfill:
            await finish(backfill)
            seen = backfill.statistics()
        assert seen.is_complete
        assert {name: progress.rows_count for name, progress in seen.progress.items()} == {
            "public.parent": 3000,
            "public.child": 5000,
            "public.nothing": 0,
        }
        assert all(progress.ratio == 1 for progress in seen.progress.values())
        assert await is_equal(two)
        async with engine(two) as backfill:
            assert await backfill.step() is None, "complete, and known to be after a restart"


async def test_a_kill_at_any_step_loses_and_repeats_nothing(make_two: Callable[..., Two]) -> None:
    """Every engine dies after a step or two; the next one goes on from what is committed."""
    async with make_two(Tables(order_by={"t": "score DESC"})) as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY, score int)")
        await two.old.execute("INSERT INTO t SELECT i, hashint4(i) FROM generate_series(1, 5000) i")
        await two.init()
        copied = 0
        for _ in range(200):
            async with engine(two) as backfill:
                results = [await backfill.step(), await backfill.step()]
            copied += sum(result.rows_count for result in results if result)
            if None in results:
                break
        assert copied == 5000
        assert await is_equal(two)


async def test_an_engine_that_is_cancelled_in_the_middle_of_a_copy_leaves_no_half(
    make_two: Callable[..., Two],
) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        await two.old.execute("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i")
        await two.init()
        delay_s = 0.001
        while True:
            async with engine(two, Settings(chunk_rows=1000)) as backfill:
                try:
                    async with asyncio.timeout(delay_s):
                        await finish(backfill)
                    break
                except TimeoutError:
                    delay_s *= 1.7
            marked = await two.new.fetchval("SELECT coalesce(sum(rows_count), 0) FROM crossfade.chunk")
            assert await two.new.fetchval("SELECT count(*) FROM t") == marked
        assert await is_equal(two)


async def test_rows_that_are_there_already_are_corrected(make_two: Callable[..., Two]) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        await two.old.execute("INSERT INTO t SELECT i, 'new' FROM generate_series(1, 1000) i")
        await two.new.execute("INSERT INTO t SELECT i, 'stale' FROM generate_series(990, 1010) i")
        await two.init()
        async with engine(two) as backfill:
            await finish(backfill)
        assert await is_equal(two)


async def test_a_table_that_would_lose_too_many_rows_is_blocked_and_others_go_on(
    make_two: Callable[..., Two],
) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        await two.old.execute("INSERT INTO b SELECT generate_series(1, 100)")
        await two.new.execute("INSERT INTO a SELECT generate_series(1, 100)")
        await two.init()
        async with engine(two, deletes_max=10) as backfill:
            for _ in range(10):
                result = await backfill.step()
                assert result is not None, "not complete while a table is blocked"
            assert result.table is None
            assert result.wait_s > 0, "the caller must not spin"
            seen = backfill.statistics()
        assert seen.progress["public.b"].is_complete
        assert "exist on the target only" in seen.blocked["public.a"]
        assert await two.new.fetchval("SELECT count(*) FROM a") == 100


async def test_connections_that_are_lost_are_opened_again_and_nothing_is_repeated(
    make_two: Callable[..., Two],
) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.old.execute("INSERT INTO t SELECT generate_series(1, 30000)")
        await two.init()
        async with engine(two, Settings(chunk_rows=1000)) as backfill:
            while not (await backfill.step() or StepResult()).rows_count:
                pass
            for side in (two.old, two.new):
                await side.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            with pytest.raises(UpstreamLost):
                await finish(backfill)
            await two.execute("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)")
            await two.init()
            await finish(backfill)
            assert backfill.statistics().progress["public.t"].rows_count == 30000
        assert await is_equal(two)


async def test_a_table_that_is_added_later_is_copied_too(make_two: Callable[..., Two]) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.init()
        async with engine(two) as backfill:
            await finish(backfill)
            await two.execute("CREATE TABLE u (id int PRIMARY KEY)")
            await two.old.execute("INSERT INTO u VALUES (1)")
            await two.init()
            await backfill.refresh()
            await finish(backfill)
        assert await is_equal(two)


@pytest.mark.parametrize(
    "old, new, reason, mend_old, mend_new",
    [
        (
            "id int PRIMARY KEY",
            None,
            "does not exist on the target",
            "",
            "CREATE TABLE t (id int PRIMARY KEY)",
        ),
        ("id int", "id bigint, n int", "lacks the columns n", "ADD n int", "ALTER TABLE t ALTER id TYPE int"),
    ],
    ids=["missing on new", "without a column"],
)
async def test_a_blocked_table_goes_on_as_soon_as_its_schema_is_mended(
    make_two: Callable[..., Two], old: str, new: str | None, reason: str, mend_old: str, mend_new: str
) -> None:
    async with make_two() as two:
        await two.old.execute(f"CREATE TABLE t ({old}); INSERT INTO t VALUES (1)")
        if new is not None:
            await two.new.execute(f"CREATE TABLE t ({new})")
        await two.init()
        async with engine(two) as backfill:
            for _ in range(3):  # plan, copy, and nothing left
                result = await backfill.step()
            assert result is not None and reason in result.reason
            assert backfill.covers(*two.catalogs)
            if mend_old:
                await two.old.execute(f"ALTER TABLE t {mend_old}")
            await two.new.execute(mend_new)
            await two.init()
            assert not backfill.covers(*two.catalogs)
            await backfill.refresh()
            await finish(backfill)
        assert await is_equal(two)


async def test_an_order_by_that_is_no_sql_blocks_its_table_with_postgresqls_words(
    make_two: Callable[..., Two],
) -> None:
    async with make_two(Tables(order_by={"t": "no_such_column DESC"})) as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.init()
        async with engine(two) as backfill:
            result = await backfill.step()
        assert result is not None
        assert 'column "no_such_column" does not exist' in result.reason


async def test_pause_and_flag_file_stop_it_at_once(make_two: Callable[..., Two], tmp_path: Path) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.old.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        await two.init()
        flag = tmp_path / "stop"
        flag.touch()
        async with engine(two, Settings(chunk_rows=100, flag_file=str(flag))) as backfill:
            held = await backfill.step()
            assert held is not None
            assert (held.table, held.reason) == (None, f"paused by the file {flag}")
            flag.unlink()
            backfill.configure(Settings(chunk_rows=100, pause=True))
            held = await backfill.step()
            assert held is not None
            assert held.reason == "paused by the configuration"
            assert await two.new.fetchval("SELECT count(*) FROM crossfade.chunk") == 0
            backfill.configure(SMALL)
            await finish(backfill, steps_max=500)
        assert await is_equal(two)


async def test_a_deep_ledger_holds_backfill_back(make_two: Callable[..., Two]) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.init()
        await two.old.execute(
            "INSERT INTO crossfade.ledger (tbl, key)"
            f" SELECT {two.table('t').id}, ARRAY['1'] FROM generate_series(1, 30)"
        )
        async with engine(two, Settings(chunk_rows=100, ledger_entries_max=10)) as backfill:
            held = await backfill.step()
            assert held is not None
            assert (held.table, held.reason) == (None, "stopped: 20 ledger entries, at most 10 allowed")


async def test_an_engine_that_lost_its_lease_copies_nothing(make_two: Callable[..., Two]) -> None:
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await two.old.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        await two.init()
        async with engine(two) as backfill:
            await backfill.step()
            await two.new.execute("UPDATE crossfade.lease SET epoch = epoch + 1")
            with pytest.raises(LeaseLost):
                await finish(backfill)
        assert await two.new.fetchval("SELECT count(*) FROM t") == 0


async def test_writes_during_backfill_arrive_and_verify_finds_nothing(make_two: Callable[..., Two]) -> None:
    """Captured writes, live converge first, backfill in between; both sides equal at the end."""
    async with make_two() as two:
        await two.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
        await two.old.execute("INSERT INTO t SELECT i, 0 FROM generate_series(1, 20000) i")
        await two.init()
        lease = await leases.take(two.old, two.new, leases.new_owner())
        converger = Converger(two.source, two.target, lease=lease, tables=two.tables)
        backfill = Backfill(two.source, two.target, converger, tables=two.tables, settings=SMALL)
        table_id = two.table("t").id
        stop = asyncio.Event()

        async def write() -> None:
            writer: asyncpg.Connection = await asyncpg.connect(two.source.url())
            number = 0
            while not stop.is_set():
                number += 1
                key = 1 + number * 7919 % 21000
                change = (
                    f"DELETE FROM t WHERE id = {key}" if number % 3 == 0 else
                    f"INSERT INTO t VALUES ({key}, {number}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                )  # fmt: skip
                await writer.execute(
                    f"{change}; INSERT INTO crossfade.ledger (tbl, key) VALUES ({table_id}, '{{{key}}}')"
                )
            await writer.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            while await backfill.step() is not None:
                await converger.converge_entries()
            report = await verify(two.source, two.target, two.catalogs)
            stop.set()
        assert report.differences_count == 0
        while not (await converger.converge_entries()).is_complete:
            pass
        await converger.converge_entries()
        assert await is_equal(two)
        assert await two.old.fetchval("SELECT count(*) FROM crossfade.ledger") == 0
        await backfill.close()
        await converger.close()
