"""What the target refuses: one key, one table, or everything; and what goes on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from proxy.converge import engine, joining, meetings, ranges, split
from proxy.converge.links import Links
from proxy.converge.plan import Plan
from proxy.demo.clusters import Cluster
from proxy.errors import TablePaused, UpstreamLost, UpstreamRefused
from tests.integration.mirrors import Mirror, dsn_as
from tests.roles import ensure_roles


class Hand:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(
            """
            CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, hits int NOT NULL DEFAULT 0);
            CREATE TABLE notes (id int PRIMARY KEY, note text);
            """
        )
        yield mirror


async def add_users(mirror: Mirror, count: int = 200) -> None:
    await mirror.write(
        f"INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, {count}) i;"
        "INSERT INTO notes VALUES (1, 'a')",
        users=range(1, count + 1),
        notes=[1],
    )


async def retry(mirror: Mirror) -> None:
    """Make every quarantined entry due."""
    await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")


async def test_poisonous_key_is_quarantined_alone(mirror: Mirror) -> None:
    await mirror.new.execute("ALTER TABLE users ADD CONSTRAINT not_seven CHECK (id <> 7)")
    await add_users(mirror)
    done = await mirror.converger.converge_entries()
    assert (done.entries_count, done.left_count, done.is_complete) == (201, 1, False)
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 199
    assert await mirror.new.fetchval("SELECT count(*) FROM notes") == 1
    (entry,) = await mirror.old.fetch(
        "SELECT key, attempts, error, retry_at > now() AS waits FROM crossfade.ledger"
    )
    assert (entry["key"], entry["attempts"], entry["waits"]) == (["7"], 1, True)
    assert "not_seven" in entry["error"]
    assert await mirror.new.fetchval("SELECT progress FROM crossfade.state") is None
    await mirror.converger.converge_entries()
    statistics = mirror.converger.statistics()
    assert statistics.quarantined_keys == {"public.users": 1}
    assert statistics.success_ratio == pytest.approx(200 / 201)

    await mirror.new.execute("ALTER TABLE users DROP CONSTRAINT not_seven")
    await retry(mirror)
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users", "notes") == []
    assert mirror.converger.statistics().quarantined_keys == {}


async def test_newer_entries_of_a_quarantined_key_wait_with_it(mirror: Mirror) -> None:
    await mirror.new.execute("ALTER TABLE users ADD CONSTRAINT not_seven CHECK (id <> 7)")
    await add_users(mirror, 9)
    await mirror.converger.converge_entries()
    await mirror.write("UPDATE users SET hits = 1 WHERE id IN (7, 8)", users=[7, 8])
    done = await mirror.converger.converge_entries()
    assert (done.entries_count, done.rows_count) == (1, 1), "only key 8 is due"
    assert await mirror.entries() == 2


async def test_a_key_that_cannot_be_read_is_quarantined(mirror: Mirror) -> None:
    await add_users(mirror, 9)
    await mirror.enter("users", ["not a number"])
    done = await mirror.converger.converge_entries()
    assert done.left_count == 1
    assert await mirror.differences("users", "notes") == []
    assert "invalid input syntax" in await mirror.old.fetchval("SELECT error FROM crossfade.ledger")


async def test_where_everything_fails_splitting_ends(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "QUARANTINED_KEYS_MAX", 3)
    await mirror.new.execute("ALTER TABLE users ADD CONSTRAINT nobody CHECK (id < 0)")
    await add_users(mirror, 50)
    done = await mirror.converger.converge_entries()
    assert done.left_count == 50
    assert await mirror.old.fetchval("SELECT count(*) FROM crossfade.ledger WHERE attempts > 0") == 3


async def test_target_that_is_stricter_is_told_apart_from_a_stale_row(mirror: Mirror) -> None:
    await mirror.old.execute("ALTER TABLE users DROP CONSTRAINT users_email_key")
    await mirror.write("INSERT INTO users VALUES (1, 'same'), (2, 'same')", users=[1, 2])
    await mirror.converger.converge_entries()
    errors = [row["error"] for row in await mirror.old.fetch("SELECT error FROM crossfade.ledger")]
    assert len(errors) == 1
    assert "users_email_key does not allow two rows that the source has: keys" in errors[0]
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 1, "the row that blocks is kept"


async def test_blocking_row_whose_own_entry_waits_is_read_at_the_same_snapshot(mirror: Mirror) -> None:
    await add_users(mirror, 3)
    await mirror.converger.converge_entries()
    await mirror.write(
        "UPDATE users SET email = 'moved' WHERE id = 2; UPDATE users SET email = 'u2' WHERE id = 1"
    )
    await mirror.enter("users", [1])
    done = await mirror.converger.converge_entries()
    assert done.is_complete
    assert await mirror.differences("users") == []


async def test_partial_expression_index_blocks_and_is_resolved(mirror: Mirror) -> None:
    await mirror.execute("CREATE UNIQUE INDEX ON users (lower(email), hits) WHERE hits > 0")
    await mirror.converger.refresh()
    await add_users(mirror, 3)
    await mirror.converger.converge_entries()
    await mirror.write("UPDATE users SET hits = 1, email = id || 'MAIL'", users=[1, 2])
    await mirror.converger.converge_entries()
    await mirror.write(
        "UPDATE users SET email = 'tmp' WHERE id = 1; UPDATE users SET email = '1mail' WHERE id = 2;"
        "UPDATE users SET email = '2mail' WHERE id = 1",
        users=[1, 2],
    )
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users") != [], "row 3 has no entry yet"
    await mirror.enter("users", [3])
    await mirror.converger.converge_entries()
    assert await mirror.differences("users") == []


async def test_exclusion_constraint_swap_converges(mirror: Mirror) -> None:
    await mirror.execute(
        "CREATE TABLE rooms (id int PRIMARY KEY, span int4range,"
        " EXCLUDE USING gist (span WITH &&) DEFERRABLE)"
    )
    await mirror.init()
    await mirror.converger.refresh()
    await mirror.write("INSERT INTO rooms VALUES (1, '[1,5)'), (2, '[5,9)')", rooms=[1, 2])
    await mirror.converger.converge_entries()
    await mirror.write(
        "SET CONSTRAINTS ALL DEFERRED;"
        "UPDATE rooms SET span = CASE id WHEN 1 THEN '[5,9)' ELSE '[1,5)' END::int4range",
        rooms=[1, 2],
    )
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("rooms") == []


async def test_deferrable_primary_key_is_updated_without_on_conflict(mirror: Mirror) -> None:
    await mirror.execute("CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, what text, more int)")
    await mirror.init()
    await mirror.converger.refresh()
    await mirror.write("INSERT INTO late VALUES (1, 'a'), (2, 'b')", late=[1, 2])
    await mirror.converger.converge_entries()
    await mirror.write("UPDATE late SET what = 'c' WHERE id = 1; DELETE FROM late WHERE id = 2", late=[1, 2])
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("late") == []


async def test_changed_columns_pause_one_table_until_they_agree(mirror: Mirror) -> None:
    hand = Hand()
    converger = mirror.make(clock=hand)
    await add_users(mirror, 5)
    assert (await converger.converge_entries()).is_complete
    await mirror.old.execute("ALTER TABLE users ADD nick text")
    await mirror.write(
        "UPDATE users SET nick = 'n'; UPDATE notes SET note = 'b'", users=range(1, 6), notes=[1]
    )
    for _ in range(3):
        hand.at_s += engine.PAUSE_S + 1
        done = await converger.converge_entries()
    assert (done.left_count, done.is_complete) == (5, False)
    assert converger.statistics().paused == {
        "public.users": "public.users: the target lacks the columns nick"
    }
    assert await mirror.differences("notes") == []
    assert await mirror.entries() == 5

    await mirror.new.execute("ALTER TABLE users ADD nick text")
    for _ in range(2):
        hand.at_s += engine.PAUSE_S + 1
        done = await converger.converge_entries()
    assert done.is_complete
    assert converger.statistics().paused == {}
    assert await mirror.new.fetchval("SELECT count(*) FROM users WHERE nick = 'n'") == 5


async def test_entries_of_a_dropped_table_go_when_it_is_surely_gone(mirror: Mirror) -> None:
    hand = Hand()
    converger = mirror.make(clock=hand)
    await add_users(mirror, 1)
    await mirror.execute("DROP TABLE notes")
    for _ in range(3):
        hand.at_s += engine.PAUSE_S + 1
        done = await converger.converge_entries()
    assert done.is_complete
    assert await mirror.entries() == 0


@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("kind", ["a whole table", "backfill"])
async def test_a_table_that_is_dropped_while_it_is_walked_pauses_alone(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, side: str, kind: str
) -> None:
    """Between the plan and the statement that reads it."""
    await add_users(mirror, 5)
    notes = mirror.table("notes").id
    original = ranges._require_names

    async def dropping(links: Links, table: Plan) -> None:
        await original(links, table)
        if table.id == notes:
            dropper = mirror.new if side == "new" else mirror.old
            await dropper.execute("DROP TABLE IF EXISTS notes")

    monkeypatch.setattr(ranges, "_require_names", dropping)
    monkeypatch.setattr(joining, "ROWS_MAX", -1)  # it is walked however small it is
    hand = Hand()
    converger = mirror.make(clock=hand)
    if kind == "backfill":
        with pytest.raises(TablePaused, match="does not exist"):
            await converger.converge_range(notes)
    else:
        await mirror.enter("notes", [()], "t")
    for _ in range(2 * meetings.COUNT_MAX + 1):  # every other one goes without it
        await converger.converge_entries()
    assert await mirror.differences("users") == []
    await mirror.execute("DROP TABLE IF EXISTS notes")
    for _ in range(3):
        hand.at_s += engine.PAUSE_S + 1
        done = await converger.converge_entries()
    assert done.is_complete
    assert await mirror.entries() == 0


@pytest.mark.parametrize(
    "kind", ["keys", "a whole table", "a stamp", "backfill", "backfill over rows that are there"]
)
async def test_a_row_that_the_source_cannot_tell_stands_alone(
    pg16: Cluster, new_db: str, make_database: Callable[..., str], kind: str
) -> None:
    """It holds a byte that no character of its encoding has: old data was not always checked."""
    old = make_database(pg16, options="ENCODING 'WIN1252' LOCALE 'C' TEMPLATE template0")
    async with Mirror(old, new_db) as mirror:
        await mirror.start("CREATE TABLE notes (id int PRIMARY KEY, note text)")
        await mirror.write(
            "INSERT INTO notes SELECT n, CASE n WHEN 7 THEN chr(129) ELSE 'note ' || n END"
            " FROM generate_series(1, 50) n"
        )
        converger, notes = mirror.converger, mirror.table("notes").id
        if kind == "keys":
            await mirror.enter("notes", list(range(1, 51)))
        elif kind == "a whole table":
            await mirror.enter("notes", [()], "t")
        elif kind == "a stamp":
            stamp = await mirror.old.fetchrow(
                "SELECT xmin::text, 'notes'::regclass::oid, 0, pg_relation_filenode('notes') FROM notes"
            )
            await mirror.enter("notes", [tuple(stamp)], "x")
        else:
            if kind != "backfill":
                await mirror.new.execute("INSERT INTO notes VALUES (1, 'old'), (7, 'old'), (99, 'no more')")
            done = await converger.converge_range(notes)
            assert done.quarantined_count == 1
        await converger.converge_entries()
        found = await mirror.new.fetch("SELECT id FROM notes WHERE note = 'note ' || id ORDER BY id")
        assert [row["id"] for row in found] == [n for n in range(1, 51) if n != 7]
        assert await mirror.new.fetchval("SELECT count(*) FROM notes WHERE id = 99") == 0
        (left,) = await mirror.old.fetch("SELECT key, error FROM crossfade.ledger")
        assert left["key"] == ["7"]
        assert "byte sequence 0x81" in left["error"]


async def test_mirror_that_is_down_costs_nothing_but_time(mirror: Mirror) -> None:
    await add_users(mirror, 5)
    down = mirror.make(target=mirror.target.parse("postgresql://postgres@127.0.0.1:1/x"))
    with pytest.raises(UpstreamRefused):
        await down.converge_entries()
    assert (await mirror.converger.converge_entries()).is_complete
    await mirror.write("UPDATE users SET hits = 3", users=range(1, 6))
    await mirror.new.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
        mirror.lease.application_name,
    )
    with pytest.raises(UpstreamLost):
        await mirror.converger.converge_entries()
    assert await mirror.entries() == 5
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("users") == []


@pytest.fixture
def plain_role(pg18: Cluster, new_db: str) -> str:
    """A login on the new cluster that may not set session_replication_role."""
    database = new_db.rpartition("/")[2]
    ensure_roles(pg18, "plain")
    pg18.psql(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO plain;"
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO plain;"
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO plain",
        database,
    )
    return "plain"


async def test_foreign_keys_hold_without_the_replica_role(
    mirror: Mirror, pg18: Cluster, new_db: str, plain_role: str
) -> None:
    await mirror.execute(
        """
        CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);
        CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents ON DELETE CASCADE);
        """
    )
    await mirror.init()
    pg18.psql(
        "GRANT ALL ON ALL TABLES IN SCHEMA public, crossfade TO plain;"
        "GRANT ALL ON SCHEMA crossfade TO plain; GRANT ALL ON ALL FUNCTIONS IN SCHEMA crossfade TO plain",
        new_db.rpartition("/")[2],
    )
    converger = mirror.make(target=dsn_as(mirror.target, plain_role))
    await mirror.write(
        "INSERT INTO parents VALUES (1, 'a'), (2, 'b'); INSERT INTO children VALUES (1, 1), (2, 1), (3, 2)",
        children=[1, 2, 3],
        parents=[1, 2],
    )
    assert (await converger.converge_entries()).is_complete
    assert not converger.statistics().is_replica
    await mirror.write(
        "UPDATE children SET parent = 2 WHERE id = 1; DELETE FROM parents WHERE id = 1",
        parents=[1],
        children=[1, 2],
    )
    assert (await converger.converge_entries()).is_complete
    assert await mirror.differences("parents", "children") == []

    await mirror.write("INSERT INTO parents VALUES (3, 'c')", parents=[3])
    await converger.converge_entries()
    await mirror.write(
        "UPDATE parents SET code = 'x' WHERE id = 2; UPDATE parents SET code = 'b' WHERE id = 3;"
        "UPDATE parents SET code = 'c' WHERE id = 2",
        parents=[2, 3],
    )
    await converger.converge_entries()
    assert await mirror.new.fetchval("SELECT count(*) FROM children") == 2, "no child was cascaded away"
    assert "would cascade" in await mirror.old.fetchval("SELECT min(error) FROM crossfade.ledger")


async def test_drain_deletes_in_the_callers_transaction(mirror: Mirror) -> None:
    await add_users(mirror, 5)
    transaction = mirror.old.transaction()
    await transaction.start()
    await mirror.old.execute("LOCK TABLE crossfade.ledger IN EXCLUSIVE MODE")
    done = await mirror.converger.converge_entries(mirror.old)
    assert done.is_complete
    assert await mirror.entries() == 0
    await transaction.rollback()
    assert await mirror.entries() == 6, "the switch was undone, and nothing is forgotten"
    assert await mirror.differences("users", "notes") == []


async def test_a_pass_is_bounded_and_says_that_more_is_left(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.ledger.reading.ENTRIES_MAX", 50)
    await add_users(mirror, 120)
    passes = [await mirror.converger.converge_entries() for _ in range(4)]
    assert [done.is_complete for done in passes] == [False, False, False, True], "the last began at the start"
    assert [done.entries_count for done in passes] == [50, 50, 21, 0]
    assert await mirror.differences("users", "notes") == []


async def test_the_authority_is_never_written(mirror: Mirror) -> None:
    await add_users(mirror, 5)
    await mirror.new.execute("UPDATE crossfade.state SET is_authority = true")
    with pytest.raises(Exception, match="the target is the authority"):
        await mirror.converger.converge_entries()
    with pytest.raises(Exception, match="the target is the authority"):
        await mirror.converger.converge_range(mirror.table("users").id)
    assert await mirror.new.fetchval("SELECT count(*) FROM users") == 0
    with pytest.raises(asyncpg.PostgresError) as refused:
        await mirror.new.execute("INSERT INTO crossfade.ledger (tbl) VALUES (1)")
    assert refused.value.sqlstate == "CF001"
