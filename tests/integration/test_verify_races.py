"""Writes placed exactly between the steps of a look never make verify blame a row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from proxy.verify import digest
from proxy.verify.comparison import Comparison, Limits, Pair
from proxy.verify.report import TableReport
from tests.integration.pairs import Two

QUICK = Limits(waits_s=(0.0, 0.0, 0.0))
Step = Callable[[], Awaitable[None]]


class Interrupted:
    """A connection to the target; what `steps` yields runs before and after each look at rows."""

    def __init__(self, connection: asyncpg.Connection, steps: Iterator[Step]) -> None:
        self._connection = connection
        self._steps = steps

    async def fetch(self, text: str, *parameters: object, **options: Any) -> Any:
        is_look = " AS version, " in text
        if is_look:
            await next(self._steps)()
        found = await self._connection.fetch(text, *parameters, **options)
        if is_look:
            await next(self._steps)()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
async def two(old_db: str, new_db: str) -> AsyncIterator[Two]:
    async with Two(old_db, new_db) as both:
        await both.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        await both.init()
        yield both


async def compare(two: Two, steps: Iterator[Step]) -> TableReport:
    shapes = digest.shapes(*(catalog.tables["public", "t"] for catalog in two.catalogs))
    async with Two(two.source.url(), two.target.url()) as own:
        pair = Pair(own.old, Interrupted(own.new, steps))  # type: ignore[arg-type]
        return await Comparison("t", *shapes, QUICK).run([pair])


async def test_a_value_that_leaves_and_comes_back_between_two_looks_is_not_blamed(two: Two) -> None:
    """Both looks at the source see 'v', the one at the target, in between, rightly sees 'w'."""
    await two.old.execute("INSERT INTO t VALUES (1, 'v')")
    await two.new.execute("INSERT INTO t VALUES (1, 'older')")

    async def write_and_mirror(value: str) -> None:
        await two.execute(f"UPDATE t SET v = '{value}' WHERE id = 1")

    def steps() -> Iterator[Step]:
        while True:
            yield lambda: write_and_mirror("w")
            yield lambda: write_and_mirror("v")

    found = await compare(two, steps())
    assert found.differing == ()
    assert found.pending_count == 1, "it never stood still"


async def test_an_absent_row_is_blamed_only_when_two_looks_saw_the_same(two: Two) -> None:
    """An absent row has no version, so one look cannot tell that it came and went in between."""
    await two.new.execute("INSERT INTO t VALUES (1, 'v')")

    async def come_back() -> None:
        await two.new.execute("UPDATE t SET v = 'again'")

    async def leave() -> None:
        await two.new.execute("DELETE FROM t")

    async def nothing() -> None:
        pass

    def steps() -> Iterator[Step]:
        yield from (nothing, nothing, come_back, leave)
        while True:
            yield nothing

    found = await compare(two, steps())
    assert (found.differing, found.pending_count) == ((), 0)


async def test_an_entry_that_is_converged_during_the_look_still_explains_it(two: Two) -> None:
    """The target is read before converge commits, the ledger after it deleted the entry."""
    await two.old.execute("INSERT INTO t VALUES (1, 'v')")
    table_id = two.table("t").id
    await two.old.execute(f"INSERT INTO crossfade.ledger (tbl, key) VALUES ({table_id}, '{{1}}')")

    async def converge() -> None:
        await two.new.execute("INSERT INTO t VALUES (1, 'v') ON CONFLICT DO NOTHING")
        await two.old.execute("DELETE FROM crossfade.ledger")

    async def nothing() -> None:
        pass

    def steps() -> Iterator[Step]:
        yield nothing
        while True:
            yield converge

    found = await compare(two, steps())
    assert (found.differing, found.pending_count) == ((), 0)


async def test_a_row_that_stands_still_and_differs_is_blamed(two: Two) -> None:
    await two.old.execute("INSERT INTO t VALUES (1, 'v')")

    async def nothing() -> None:
        pass

    def steps() -> Iterator[Step]:
        while True:
            yield nothing

    found = await compare(two, steps())
    assert [difference.key for difference in found.differing] == [("1",)]
