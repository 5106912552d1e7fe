"""Chunks cover every key once, wherever planning was interrupted, in the order asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.backfill import chunks
from proxy.backfill.chunks import Chunk, Progress
from proxy.catalog.bounds import Range
from proxy.errors import LeaseLost
from proxy.ledger import lease as leases
from proxy.ledger.lease import Lease
from tests.integration.pairs import Two


@pytest.fixture
async def two(old_db: str, new_db: str) -> AsyncIterator[Two]:
    async with Two(old_db, new_db) as both:
        yield both


async def own(two: Two) -> Lease:
    await two.init()
    return await leases.take(two.old, two.new, leases.new_owner())


async def plan(
    two: Two, lease: Lease, name: str, *, chunk_rows: int = 10, order_by: str | None = None
) -> list[Chunk]:
    """Plan a table to its end; return its chunks in the order in which they will be copied."""
    table, is_last = two.table(name), False
    while not is_last:
        _, is_last = await chunks.plan_stretch(
            two.old, two.new, lease, table, chunk_rows=chunk_rows, order_by=order_by
        )
    return await chunks.pending(two.new, table, 100_000)


async def test_an_empty_table_has_one_chunk_that_is_open(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert await plan(two, await own(two), "t") == [Chunk(0, Range(None, None))]


@pytest.mark.parametrize("rows_count", [9, 10, 11, 20, 1999, 2000, 2001, 4321])
async def test_chunks_cover_all_keys_and_are_open_at_both_ends(two: Two, rows_count: int) -> None:
    """2,000 rows are one stretch of planning, so the numbers around it are the hard ones."""
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await two.old.execute(f"INSERT INTO t SELECT 3 * i FROM generate_series(1, {rows_count}) i")
    planned = await plan(two, await own(two), "t")
    bounds = [each.bounds for each in planned]
    assert [each.number for each in planned] == list(range(len(planned)))
    assert bounds[0].lo is None
    assert bounds[-1].hi is None
    assert [each.hi for each in bounds[:-1]] == [each.lo for each in bounds[1:]]
    assert [each.hi for each in bounds[:-1]] == [(str(30 * i),) for i in range(1, rows_count // 10 + 1)]


async def test_planning_goes_on_where_it_was_interrupted(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await two.old.execute("INSERT INTO t SELECT generate_series(1, 5000)")
    lease = await own(two)
    first = await chunks.plan_stretch(two.old, two.new, lease, two.table("t"), chunk_rows=10, order_by=None)
    assert first == (200, False)
    assert (await chunks.progress(two.new))[two.table("t").id] == Progress(200, 0, 0, False)
    assert await chunks.left(two.new, [two.table("t").id]) is None
    # Keys that appear behind what is planned belong to a chunk that is there already.
    await two.old.execute("INSERT INTO t SELECT -i FROM generate_series(1, 100) i")
    planned = await plan(two, lease, "t")
    assert len(planned) == 501
    assert planned[0].bounds == Range(None, ("10",))
    assert await chunks.left(two.new, [two.table("t").id]) == 501
    assert await chunks.left(two.new, [two.table("t").id, 99]) is None


async def test_composite_keys_are_cut_inside_a_first_column(two: Two) -> None:
    await two.execute("CREATE TABLE t (b text, a int, PRIMARY KEY (a, b))")
    await two.old.execute("INSERT INTO t SELECT lpad(i::text, 3, '0'), 7 FROM generate_series(1, 25) i")
    planned = await plan(two, await own(two), "t")
    assert [each.bounds.hi for each in planned] == [("7", "010"), ("7", "020"), None]


async def test_the_chunk_with_the_best_row_comes_first(two: Two) -> None:
    await two.execute("CREATE TABLE users (id int PRIMARY KEY, last_login timestamptz)")
    # Chunk 0 has no login at all, 1 an old one, 2 the newest, the open tail one in between.
    await two.old.execute(
        """INSERT INTO users SELECT i, NULL FROM generate_series(1, 35) i;
        UPDATE users SET last_login = '2020-01-01' WHERE id = 15;
        UPDATE users SET last_login = '2024-06-01' WHERE id = 25;
        UPDATE users SET last_login = '2022-01-01' WHERE id = 34"""
    )
    lease = await own(two)
    planned = await plan(two, lease, "users", order_by="last_login DESC, id")
    assert [each.number for each in planned] == [2, 3, 1, 0]
    await two.new.execute("DELETE FROM crossfade.chunk")
    planned = await plan(two, lease, "users", order_by="last_login")
    assert [each.number for each in planned] == [1, 3, 2, 0]


async def test_ranks_are_compared_as_values_not_as_text(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY, score int)")
    await two.old.execute(
        "INSERT INTO t SELECT i, (ARRAY[9, 100, -5])[1 + i / 10] FROM generate_series(0, 29) i"
    )
    planned = await plan(two, await own(two), "t", order_by="score DESC")
    # The tail is empty and has no best row.
    assert [each.number for each in planned] == [1, 0, 2, 3]


async def test_a_lost_lease_plans_nothing(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lease = await own(two)
    await two.new.execute("UPDATE crossfade.lease SET epoch = epoch + 1")
    with pytest.raises(LeaseLost):
        await plan(two, lease, "t")
    assert await two.new.fetchval("SELECT count(*) FROM crossfade.chunk") == 0


async def test_a_marked_run_is_counted_once(two: Two) -> None:
    await two.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await two.old.execute("INSERT INTO t SELECT generate_series(1, 45)")
    planned = await plan(two, await own(two), "t")
    table = two.table("t")
    await two.new.execute(chunks.mark(table, planned[1:4], 30))
    assert (await chunks.progress(two.new))[table.id] == Progress(5, 3, 30, True)
    assert [each.number for each in await chunks.pending(two.new, table, 10)] == [0, 4]
