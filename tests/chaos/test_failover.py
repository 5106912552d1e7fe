"""A cluster fails over to a standby that lacks its last commits: afterwards both sides are equal again.

The standby's replication is cut, so that it is known what it lacks. Then its primary crashes
and the standby is promoted. Restarts and crashes without a failover are there, too.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import asyncpg
import pytest

from proxy.config.dsn import Dsn
from proxy.converge.engine import Converger
from proxy.demo.clusters import Cluster
from proxy.errors import UpstreamLost, UpstreamRefused
from proxy.ledger import lineage
from proxy.ledger.connection import connect
from tests.integration.mirrors import Mirror

TABLE = "CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0)"
ROWS = 9


class Pair:
    """A cluster with a standby, as one side of a mirror."""

    def __init__(self, version: int) -> None:
        self.primary = Cluster(version).create().start()
        self.standby = Cluster(version, primary=self.primary).create().start()

    async def part(self) -> None:
        """Stop the standby's replication once it has everything so far."""
        lsn = self.primary.psql("SELECT pg_current_wal_insert_lsn()").strip()
        while self.standby.psql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'").strip() != "t":
            await asyncio.sleep(0.02)
        self.standby.psql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.psql("SELECT pg_reload_conf()")
        while self.standby.psql("SELECT count(*) FROM pg_stat_wal_receiver").strip() != "0":
            await asyncio.sleep(0.02)

    def fail_over(self) -> None:
        """Crash the primary and promote the standby."""
        self.primary.stop(signal.SIGQUIT)
        self.standby.psql("SELECT pg_promote()")

    def remove(self) -> None:
        """Remove both."""
        self.standby.remove()
        self.primary.remove()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(16)
    yield pair
    pair.remove()


async def lost_on_the_source(pair: Pair, new_db: str) -> list[str]:
    """Converge a write, clear its entry, and lose it on the source; return what differs in the end."""
    async with Mirror(pair.primary.url(), new_db) as mirror:
        await begin(mirror)
        await pair.part()
        await mirror.write("UPDATE users SET hits = 5 WHERE id <= 3", users=[1, 2, 3])
        assert (await mirror.converger.converge_entries()).is_complete
        assert await mirror.entries() == 0
        pair.fail_over()
    async with Mirror(pair.standby.url(), new_db) as mirror:
        return await go_on(mirror)


async def lost_on_the_target(pair: Pair, old_db: str) -> list[str]:
    """Converge a write, clear its entry, and lose the row on the target; return what differs in the end."""
    async with Mirror(old_db, pair.primary.url()) as mirror:
        await begin(mirror)
        await pair.part()
        await mirror.write("UPDATE users SET hits = 5 WHERE id <= 3", users=[1, 2, 3])
        assert (await mirror.converger.converge_entries()).is_complete
        assert await mirror.entries() == 0
        pair.fail_over()
    async with Mirror(old_db, pair.standby.url()) as mirror:
        return await go_on(mirror)


async def begin(mirror: Mirror) -> None:
    await mirror.start(TABLE)
    await mirror.write(f"INSERT INTO users SELECT generate_series(1, {ROWS})", users=range(1, ROWS + 1))
    assert (await mirror.converger.converge_entries()).is_complete


async def go_on(mirror: Mirror) -> list[str]:
    """Take the lease on the two clusters that there are now, and converge."""
    await mirror.init()
    for side in (mirror.old, mirror.new):
        await side.execute("UPDATE crossfade.heartbeat SET until = '-infinity'")
    mirror.lease = await mirror.take()
    await finish(mirror.make())
    return await mirror.differences("users")


async def finish(converger: Converger) -> None:
    async with asyncio.timeout(30):
        while not (await converger.converge_entries()).is_complete:
            pass


async def test_commits_lost_by_the_sources_failover_are_lost_on_the_mirror_too(
    pair: Pair, new_db: str
) -> None:
    assert await lost_on_the_source(pair, new_db) == []


async def test_rows_lost_by_the_targets_failover_are_converged_again(pair: Pair, old_db: str) -> None:
    assert await lost_on_the_target(pair, old_db) == []


async def test_without_the_look_at_the_timelines_they_stay_different(
    pair: Pair, old_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trust(*_: asyncpg.Connection) -> bool:
        return False

    monkeypatch.setattr(lineage, "follow", trust)
    assert await lost_on_the_target(pair, old_db) == ["users"]


async def test_a_standby_that_restarts_crashes_or_is_promoted_beside_its_primary_changes_nothing(
    pair: Pair, new_db: str
) -> None:
    async with Mirror(pair.primary.url(), new_db) as mirror:
        await begin(mirror)
        for hits, happen in enumerate(
            (
                lambda: (pair.standby.stop(signal.SIGINT), pair.standby.start()),
                lambda: (pair.standby.stop(signal.SIGQUIT), pair.standby.start()),
                lambda: pair.standby.psql("SELECT pg_promote()"),
            )
        ):
            await mirror.write(f"UPDATE users SET hits = {hits}", users=range(1, ROWS + 1))
            happen()
            done = await mirror.converger.converge_entries()
            assert (done.entries_count, done.is_complete) == (ROWS, True)
        assert await mirror.differences("users") == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
async def test_a_primary_that_comes_back_is_the_one_it_was(
    pair: Pair, new_db: str, how: signal.Signals
) -> None:
    async with Mirror(pair.primary.url(), new_db) as mirror:
        await begin(mirror)
        pair.primary.stop(how)
        with pytest.raises((UpstreamLost, UpstreamRefused)):
            await mirror.converger.converge_entries()
        pair.primary.start()
        mirror.old = await connect(Dsn.parse(pair.primary.url()))
        mirror._stack.callback(mirror.old.terminate)
        done = await mirror.converger.converge_entries()
        # The deletion of entries need not survive a crash; an entry for the table would be one more.
        assert done.is_complete
        assert done.entries_count == 0 or (how is signal.SIGQUIT and done.entries_count == ROWS)
