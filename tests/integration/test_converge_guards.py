"""The races that would lose a write or take one back, forced; and again with the guard removed.

Each race is a function that returns what is wrong in the end. With the guard nothing is;
without it something must be, or the test does not force the race at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from proxy.capture.announce import announcement, retraction
from proxy.converge import apply, closure
from proxy.demo.clusters import Cluster
from proxy.errors import LeaseLost
from proxy.ledger import entries, lease
from proxy.ledger.connection import connect
from proxy.ledger.lease import Lease
from tests.integration.mirrors import Mirror

Interrupt = Callable[[], Awaitable[object]]


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            "CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0)"
        )
        await mirror.write(
            "INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, 9) i", users=range(1, 10)
        )
        assert (await mirror.converger.converge_entries()).is_complete
        yield mirror


def once_before(monkeypatch: pytest.MonkeyPatch, step: str, interrupt: Interrupt) -> None:
    """Run something just before a step of converge, the first time it is reached."""
    original: Callable[..., Awaitable[Any]] = getattr(apply, step)
    pending = [interrupt]

    async def interrupted(*args: Any, **kwargs: Any) -> Any:
        if pending:
            await pending.pop()()
        return await original(*args, **kwargs)

    monkeypatch.setattr(apply, step, interrupted)


async def write_during_a_pass(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A row is written again after the snapshot read it and before its entry is cleared."""
    await mirror.write("UPDATE users SET hits = 1 WHERE id = 1", users=[1])
    once_before(
        monkeypatch, "clear", lambda: mirror.write("UPDATE users SET hits = 2 WHERE id = 1", users=[1])
    )
    for _ in range(2):
        await mirror.converger.converge_entries()
    return await mirror.differences("users")


async def test_key_written_during_converge_stays_in_the_ledger(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await write_during_a_pass(mirror, monkeypatch) == []


async def test_clearing_more_than_the_snapshot_read_loses_a_write(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "deletion", lambda ctids: "DELETE FROM crossfade.ledger")
    assert await write_during_a_pass(mirror, monkeypatch) == ["users"]


async def stalled_owner(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], bool]:
    """An owner reads a row and stalls; its successor converges a newer one; then it wakes up."""

    async def not_reached(connection: asyncpg.Connection, owner: str) -> None:
        """The stalled owner's backends survive, as behind a pooler or another login."""

    async def take_over() -> None:
        await mirror.write("UPDATE users SET hits = 2 WHERE id = 1", users=[1])
        for side in (mirror.old, mirror.new):
            await side.execute("UPDATE crossfade.heartbeat SET until = now() - interval '1 s'")
        successor = mirror.make(await mirror.take())
        assert (await successor.converge_entries()).is_complete

    monkeypatch.setattr(lease, "terminate", not_reached)
    await mirror.write("UPDATE users SET hits = 1 WHERE id = 1", users=[1])
    once_before(monkeypatch, "apply", take_over)
    is_lost = False
    try:
        await mirror.converger.converge_entries()
    except LeaseLost:
        is_lost = True
    return await mirror.differences("users"), is_lost


async def test_owner_that_lost_its_lease_cannot_commit(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await stalled_owner(mirror, monkeypatch) == ([], True)


async def test_without_the_lease_check_a_row_goes_backwards(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "guard", lambda self, *, is_target: "SELECT 1;")
    assert await stalled_owner(mirror, monkeypatch) == (["users"], False)


async def test_stale_owner_cannot_delete_entries_under_reused_ctids(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.write("UPDATE users SET hits = 1 WHERE id = 1", users=[1])

    async def take_over() -> None:
        for side in (mirror.old, mirror.new):
            await side.execute("UPDATE crossfade.heartbeat SET until = now() - interval '1 s'")
        await mirror.make(await mirror.take()).converge_entries()
        await mirror.old.execute("VACUUM crossfade.ledger")
        await mirror.write("UPDATE users SET hits = 2 WHERE id = 1", users=[1])

    async def not_reached(connection: asyncpg.Connection, owner: str) -> None:
        """As above."""

    monkeypatch.setattr(lease, "terminate", not_reached)
    once_before(monkeypatch, "clear", take_over)
    with pytest.raises(LeaseLost):
        await mirror.converger.converge_entries()
    assert await mirror.entries() == 1


async def swapped(mirror: Mirror) -> list[str]:
    """Unique values change hands between two rows, and round in a ring of three."""
    await mirror.write(
        """
        UPDATE users SET email = 'x' || id WHERE id <= 5;
        UPDATE users SET email = CASE id WHEN 1 THEN 'u2' WHEN 2 THEN 'u1'
                                         WHEN 3 THEN 'u4' WHEN 4 THEN 'u5' WHEN 5 THEN 'u3' END WHERE id <= 5
        """,
        users=[1, 2, 3, 4, 5],
    )
    await mirror.converger.converge_entries()
    return await mirror.differences("users")


async def test_swapped_unique_values_converge_in_one_pass(mirror: Mirror) -> None:
    assert await swapped(mirror) == []
    assert await mirror.entries() == 0


async def test_without_closure_swapped_values_never_arrive(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give_up(*_: object) -> bool:
        return False

    monkeypatch.setattr(closure, "resolve", give_up)
    for _ in range(3):
        assert await swapped(mirror) == ["users"]
        await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")


async def rewritten_under_a_pass(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """ALTER TABLE rewrites the table after the snapshot, which then finds it empty."""
    await mirror.write("UPDATE users SET hits = 1 WHERE id = 1", users=[1])
    alter = "ALTER TABLE users ALTER hits TYPE int USING hits + 0"
    once_before(monkeypatch, "fill", lambda: mirror.old.execute(alter))
    for _ in range(3):  # the second goes without the table
        await mirror.converger.converge_entries()
    return await mirror.differences("users")


async def test_a_table_rewritten_under_the_snapshot_is_read_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await rewritten_under_a_pass(mirror, monkeypatch) == []


async def test_without_the_look_at_the_file_a_rewrite_deletes_rows(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trust(*_: object) -> None:
        return None

    monkeypatch.setattr(apply, "require_steady", trust)
    assert await rewritten_under_a_pass(mirror, monkeypatch) == ["users"]


async def test_a_write_flushed_but_not_visible_is_not_lost(mirror: Mirror, pg16: Cluster) -> None:
    """The commit record is on disk and waits for a standby that never comes: nobody sees the row yet."""
    pg16.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        pg16.psql("SELECT pg_reload_conf()")
        writer = await connect(mirror.source)
        while await writer.fetchval("SHOW synchronous_standby_names") != "nobody":
            pass
        pid = await writer.fetchval("SELECT pg_backend_pid()")
        table = mirror.table("users").id
        waiting = asyncio.create_task(
            writer.execute(
                "UPDATE users SET hits = 5 WHERE id = 5;".replace("users", "public.users")
                + f"INSERT INTO crossfade.ledger (tbl, key) VALUES ({table}, '{{5}}')"
            )
        )
        seen = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
        while not await mirror.old.fetchval(seen, pid):
            pass
        assert (await mirror.converger.converge_entries()).entries_count == 0
        await mirror.old.execute("SELECT pg_cancel_backend($1::int)", pid)
        await waiting
        writer.terminate()
        assert (await mirror.converger.converge_entries()).entries_count == 1
        assert await mirror.differences("users") == []
    finally:
        pg16.psql("ALTER SYSTEM RESET synchronous_standby_names")
        pg16.psql("SELECT pg_reload_conf()")


async def call_that_commits_on_its_way(mirror: Mirror) -> list[str]:
    """Passes go by between the two commits of one CALL, and one after it."""
    caller = await connect(mirror.source)
    try:
        for statement in announcement(mirror.catalogs[0], 7).split(";"):
            await caller.execute(statement)
        await caller.execute("UPDATE public.users SET hits = 1 WHERE id = 1")
        for _ in range(3):
            await mirror.converger.converge_entries()
        await caller.execute("UPDATE public.users SET hits = 2 WHERE id = 2")
        await caller.execute(retraction(7))
    finally:
        caller.terminate()
    for _ in range(3):
        done = await mirror.converger.converge_entries()
    assert done.is_complete
    return await mirror.differences("users")


async def test_entries_of_a_call_stay_until_its_last_commit_is_converged(mirror: Mirror) -> None:
    assert await call_that_commits_on_its_way(mirror) == []


async def test_without_the_look_at_its_lock_a_call_loses_a_write(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def all_of_them(connection: asyncpg.Connection) -> list[str]:
        return ["7"]

    monkeypatch.setattr(entries, "read_ended", all_of_them)
    assert await call_that_commits_on_its_way(mirror) == ["users"]
