"""`init`, `remove`, the fence, and the two halves of a switch."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.config.model import Tables
from proxy.config.values import CaptureForm
from proxy.demo.clusters import Cluster
from proxy.ledger import entries, schema, state
from proxy.ledger.depth import Depth, depth
from proxy.ledger.reading import Reader
from tests.integration.mirrors import Mirror
from tests.integration.pairs import Two
from tests.roles import ensure_roles

TABLES = Tables(
    include=("public.*", "sales.*"), exclude=("log_*",), capture={"public.b": CaptureForm.TRIGGER}
)
DDL = """
CREATE SCHEMA sales; CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
CREATE TABLE log_1 (id int PRIMARY KEY); CREATE TABLE sales.c (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
"""
ENTRY = "INSERT INTO crossfade.ledger (tbl, key) VALUES (1, '{1}')"


@pytest.fixture
async def two(old_db: str, new_db: str) -> AsyncIterator[Two]:
    async with Two(old_db, new_db, tables=TABLES) as two:
        await two.execute(DDL)
        await two.init()
        yield two


async def listed(connection: asyncpg.Connection) -> list[tuple[int, str, str, str]]:
    return [tuple(row) for row in await connection.fetch("SELECT * FROM crossfade.tables ORDER BY id")]  # type: ignore[misc]


async def test_mirrored_tables_get_the_same_ids_on_both_sides(two: Two) -> None:
    expected = [
        (1, "public", "a", "statement"),
        (2, "public", "b", "trigger"),
        (3, "public", "parts", "statement"),
        (4, "sales", "c", "statement"),
    ]
    assert await listed(two.old) == await listed(two.new) == expected
    assert two.catalogs[0].tables["sales", "c"].id == two.catalogs[1].tables["sales", "c"].id == 4


async def test_init_again_adds_tables_and_keeps_authority_epoch_and_entries(two: Two) -> None:
    await two.old.execute(ENTRY)
    await two.old.execute("UPDATE crossfade.state SET epoch = 5")
    await two.new.execute("UPDATE crossfade.state SET epoch = 5")
    await two.execute("CREATE TABLE aa (id int PRIMARY KEY)")
    await two.init()
    assert (await listed(two.old))[-1] == (await listed(two.new))[-1] == (5, "public", "aa", "statement")
    assert await state.read_state(two.old) == state.State(True, 5, None, None)
    assert await state.read_state(two.new) == state.State(False, 5, None, None)
    assert await two.old.fetchval("SELECT count(*) FROM crossfade.ledger") == 1


async def test_only_the_authority_takes_entries_whatever_the_sessions_role(two: Two) -> None:
    await two.old.execute(ENTRY)
    for setting in ("origin", "replica", "local"):
        await two.new.execute(f"SET session_replication_role = {setting}")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await two.new.execute(ENTRY)
        assert refused.value.sqlstate == schema.FENCED


async def test_any_role_may_write_entries_and_nothing_else(two: Two, pg16: Cluster) -> None:
    ensure_roles(pg16, "nobody_special")
    await two.old.execute("SET ROLE nobody_special")
    await two.old.execute(ENTRY)
    assert await schema.is_authority(two.old)
    for statement in (
        "DELETE FROM crossfade.ledger",
        "UPDATE crossfade.ledger SET tbl = 2",
        "UPDATE crossfade.state SET epoch = 9",
        "SELECT crossfade.own(1, false)",
        "SELECT * FROM crossfade.lease",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await two.old.execute(statement)


async def test_authority_moves_there_and_back(two: Two) -> None:
    for number, (source, target) in enumerate(((two.old, two.new), (two.new, two.old)), 2):
        async with source.transaction():
            await state.lock_ledger(source, timeout_s=1)
            await state.resign(source, {"epoch": number})
        assert (await state.read_state(source)).switching == {"epoch": number}
        for side in (source, target):
            with pytest.raises(asyncpg.PostgresError, match="not the authority"):
                await side.execute(ENTRY)
        async with target.transaction():
            await state.reign(target, number)
        await state.follow(source, number)
        await target.execute(ENTRY)
        assert await state.read_state(target) == state.State(True, number, None, None)
        assert await state.read_state(source) == state.State(False, number, None, None)


async def test_ledger_lock_waits_for_writes_in_flight_and_gives_up_in_time(two: Two, old_db: str) -> None:
    writer = await asyncpg.connect(old_db)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute(ENTRY)
    with pytest.raises(asyncpg.LockNotAvailableError):
        async with two.old.transaction():
            await state.lock_ledger(two.old, timeout_s=0.05)
    await transaction.commit()
    async with two.old.transaction():
        await state.lock_ledger(two.old, timeout_s=1)
        assert not (await entries.is_empty(two.old))[0]
    writer.terminate()


async def test_a_side_created_anew_takes_the_place_that_is_free(two: Two) -> None:
    await schema.remove(two.new)
    assert not await schema.is_installed(two.new)
    await two.init()
    assert await state.read_state(two.new) == state.State(False, 1, None, None)

    async with two.old.transaction():
        await state.resign(two.old, {})
    async with two.new.transaction():
        await state.reign(two.new, 2)
    await schema.remove(two.old)
    await two.init()
    assert await state.read_state(two.old) == state.State(False, 2, None, None)
    with pytest.raises(asyncpg.PostgresError, match="not the authority"):
        await two.old.execute(ENTRY)


async def test_vacuum_frees_what_was_deleted(old_db: str, new_db: str) -> None:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start("CREATE TABLE a (id int PRIMARY KEY)")
        for _ in range(3):
            await mirror.old.execute(
                "INSERT INTO crossfade.ledger (tbl, key)"
                " SELECT 1, ARRAY[i::text] FROM generate_series(1, 20000) i"
            )
            found = await Reader().read(mirror.old)
            assert (found.entries_count, found.is_whole) == (20000, True)
            assert await entries.delete(mirror.old, mirror.lease, found.batches[0].ctids) == 20000
            await entries.vacuum(mirror.old)
        size = "SELECT pg_relation_size('crossfade.ledger')"
        assert await mirror.old.fetchval(size) < 3_000_000, "room is used again"
        assert await depth(mirror.old) == Depth({}, {}, 0.0)
