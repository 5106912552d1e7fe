"""The engine is killed or stopped at any point of its work, and the next owner of the lease goes on.

    SEED=7 pytest tests/chaos/test_points.py -s     replays one choice of points
    make chaos                                      tries every point there is

Each act is a piece of work with everything in it that the engine does differently: a pass
whose rows block each other, a poisonous row, a whole table, the copying of the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.backfill import chunks
from proxy.backfill.backfill import Backfill
from proxy.config.model import Backfill as Settings
from proxy.converge import walks
from proxy.converge.engine import Converger
from proxy.errors import LeaseLost, ProxyError
from tests.chaos.points import Trap
from tests.integration.mirrors import Mirror
from tests.seeds import seeds

SEED = seeds()[0]
POINTS_MAX = 3 if "SEEDS" not in os.environ else 10_000
pytestmark = pytest.mark.timeout(300 if POINTS_MAX == 3 else 7200)
ROWS = 24
SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0);
CREATE TABLE notes (id int PRIMARY KEY, user_id int REFERENCES users, note text);
"""

Run = Callable[["Stage", Converger], Awaitable[None]]


class Stage:
    """Two databases, and the work that waits there."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._numbers = itertools.count(1)

    async def write(self) -> None:
        """Swap unique values in rings, update, insert and delete, in one transaction."""
        number = next(self._numbers)
        extra = 100 + number
        await self.mirror.write(
            f"""
            CREATE TEMP TABLE was ON COMMIT DROP AS SELECT * FROM users WHERE id <= 5;
            UPDATE users SET email = NULL WHERE id <= 5;
            UPDATE users AS u SET hits = {number}, email = was.email FROM was
             WHERE u.id <= 5 AND was.id = (ARRAY[2, 1, 4, 5, 3])[u.id];
            INSERT INTO users VALUES ({extra}, 'extra {number}');
            INSERT INTO notes VALUES ({extra}, {extra}, 'of {number}');
            DELETE FROM notes WHERE id = {extra - 2}; DELETE FROM users WHERE id = {extra - 2};
            UPDATE notes SET note = 'changed by {number}' WHERE id <= 3
            """,
            users=[*range(1, 6), extra, extra - 2],
            notes=[1, 2, 3, extra, extra - 2],
        )

    async def succeed(self) -> Converger:
        """Take the lease as the next process does, as soon as the servers have ended the last one's."""
        for side in (self.mirror.old, self.mirror.new):
            await side.execute("UPDATE crossfade.heartbeat SET until = now() - interval '1 s'")
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(LeaseLost):
                    return self.mirror.make(await self.mirror.take())
                await asyncio.sleep(0.01)

    async def open(self, act: Act) -> Converger:
        """Lay out an act; return a new owner's converger, whose connections are open already."""
        converger = await self.succeed()
        await converger.converge_entries()
        await act.prepare(self)
        return converger

    async def finish(self, converger: Converger) -> None:
        """Converge until nothing is left."""
        async with asyncio.timeout(20):
            while not (await converger.converge_entries()).is_complete:
                await self.mirror.old.execute(
                    "UPDATE crossfade.ledger SET retry_at = now() WHERE retry_at > now()"
                )

    async def require_equal(self) -> None:
        """Both sides hold the same bytes, and nothing is owed."""
        assert await self.mirror.differences("users", "notes") == []
        assert await self.mirror.entries() == 0


class Act:
    """A piece of work: how it is laid out, and how the engine does it."""

    async def prepare(self, stage: Stage) -> None:
        await stage.write()

    async def run(self, stage: Stage, converger: Converger) -> None:
        await converger.converge_entries()

    async def recover(self, stage: Stage, converger: Converger) -> None:
        await stage.finish(converger)


class Pass(Act):
    """One pass; the rows that it writes hold each other's unique values."""


class Poison(Act):
    """A pass in which the target refuses one row, which goes to quarantine."""

    async def prepare(self, stage: Stage) -> None:
        await stage.mirror.new.execute("ALTER TABLE users ADD CONSTRAINT poison CHECK (id <> 3) NOT VALID")
        await stage.write()

    async def recover(self, stage: Stage, converger: Converger) -> None:
        await stage.mirror.new.execute("ALTER TABLE users DROP CONSTRAINT poison")
        await stage.finish(converger)


class WholeTable(Act):
    """Two tables are compared, range by range, because nobody knows which rows were written."""

    async def prepare(self, stage: Stage) -> None:
        await stage.mirror.old.execute("UPDATE users SET hits = hits + 1 WHERE id % 2 = 0")
        await stage.mirror.new.execute("INSERT INTO users VALUES (50, 'of the target alone')")
        for table in ("users", "notes"):
            await stage.mirror.enter(table, [()], kind="t")


class History(Act):
    """Backfill: an empty table, and one that holds other rows already."""

    async def prepare(self, stage: Stage) -> None:
        await stage.mirror.new.execute(
            "DELETE FROM crossfade.chunk; DELETE FROM notes; DELETE FROM users WHERE id > 12;"
            "UPDATE users SET hits = -1, email = 'was ' || email;"
            "UPDATE users SET email = (ARRAY['u8', 'u7'])[id - 6] WHERE id IN (7, 8);"
            "INSERT INTO users VALUES (50, 'of the target alone')"
        )

    async def run(self, stage: Stage, converger: Converger) -> None:
        backfill = Backfill(
            stage.mirror.source, stage.mirror.target, converger,
            tables=stage.mirror.tables, settings=Settings(chunk_rows=10),
        )  # fmt: skip
        try:
            while await backfill.step() is not None:
                pass
        finally:
            await backfill.close()

    async def recover(self, stage: Stage, converger: Converger) -> None:
        await self.run(stage, converger)
        await stage.finish(converger)
        assert (
            await chunks.left(
                stage.mirror.new, [table.id for table in stage.mirror.catalogs[0].tables.values()]
            )
            == 0
        )


@pytest.fixture
async def stage(old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(walks, "RANGE_ROWS", 10)
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(SCHEMA)
        await mirror.write(
            f"INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, {ROWS}) i;"
            f"INSERT INTO notes SELECT i, i, 'n' || i FROM generate_series(1, {ROWS}) i",
            users=range(1, ROWS + 1),
            notes=range(1, ROWS + 1),
        )
        assert (await mirror.converger.converge_entries()).is_complete
        yield Stage(mirror)


async def count(stage: Stage, act: Act) -> list[str]:
    """Return the statements of an act that nothing disturbs."""
    converger = await stage.open(act)
    trap = Trap()
    await trap.run(lambda: act.run(stage, converger))
    await act.recover(stage, converger)
    await stage.require_equal()
    return trap.seen


def chosen(names: list[str], moments: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Return points with their statements: all of them in a campaign, else some."""
    print(f"SEED={SEED}: {len(names)} statements")
    every = [(number, moment, name) for number, name in enumerate(names, 1) for moment in moments]
    return random.Random(SEED).sample(every, min(len(every), POINTS_MAX))


ACTS = pytest.mark.parametrize(
    "act", [Pass(), Poison(), WholeTable(), History()], ids=lambda a: type(a).__name__
)


@ACTS
async def test_killed_anywhere_the_next_owner_makes_both_sides_equal(stage: Stage, act: Act) -> None:
    for number, moment, name in chosen(await count(stage, act), ("before", "during", "after")):
        print(f"killed {moment} {number}, {name}")
        converger = await stage.open(act)
        trap = Trap(number, moment)
        await trap.run(lambda converger=converger: act.run(stage, converger))
        await act.recover(stage, await stage.succeed())
        await stage.require_equal()


@ACTS
async def test_stopped_anywhere_it_takes_nothing_back_when_it_wakes(stage: Stage, act: Act) -> None:
    for number, moment, name in chosen(await count(stage, act), ("before", "after")):
        print(f"stopped {moment} {number}, {name}")
        converger = await stage.open(act)
        trap = Trap(number, moment, kills=False)
        lost = asyncio.create_task(trap.run(lambda converger=converger: act.run(stage, converger)))
        await asyncio.wait(
            {lost, asyncio.ensure_future(trap.reached.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        successor = await stage.succeed()
        await act.recover(stage, successor)
        await stage.write()
        await stage.finish(successor)
        trap.woken.set()
        await asyncio.wait({lost})
        assert isinstance(lost.exception(), ProxyError | None), lost.exception()
        await stage.require_equal()
