"""What clients of a proxy see of a switch: one that was told, one that was not, one in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.app import calls, opened
from proxy.app.engine import RemoteProxies
from proxy.routing.policy import Place, Side
from proxy.server import database as databases
from proxy.session.settings import Settings
from proxy.upstream.connection import ServerConnection, open_connection
from tests.integration.crossings import Crossing
from tests.integration.stand import DATABASE, Stand

FOREVER_S = 3600.0
VERSION = "SELECT current_setting('server_version_num')::int / 10000"
ADD = "UPDATE users SET hits = hits + 1 WHERE id = $1 RETURNING hits"


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


async def hits(crossing: Crossing, key: int = 1) -> list[int]:
    """Return a row's counter on both sides."""
    return [await crossing.side(side).fetchval("SELECT hits FROM users WHERE id = $1", key) for side in Side]


# A proxy that was not told.


async def test_a_stale_proxy_learns_and_runs_the_write_again(crossing: Crossing) -> None:
    async with Stand(crossing, is_deaf=True) as stand:
        client = await stand.connect()
        statement = await client.prepare(ADD)
        assert await statement.fetchval(1) == 1
        assert (await crossing.switch(Side.NEW)).is_done
        assert (await stand.report())["authority"] == "old"
        assert await statement.fetchval(1) == 2  # refused by the old side, and not seen by the client
        assert await hits(crossing) == [1, 2]
        told = await stand.report()
        assert (told["authority"], told["epoch"], told["held"]) == ("new", 2, 0)
        assert await client.execute("UPDATE users SET hits = hits + 1 WHERE id = 2") == "UPDATE 1"
        assert await hits(crossing, 2) == [0, 1]


async def test_a_stale_proxy_runs_every_kind_of_first_statement_again(crossing: Crossing) -> None:
    writes = [
        "INSERT INTO orders (user_id) VALUES (1)",
        "INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET hits = 5",
        "DELETE FROM users WHERE id = 4",
        "DELETE FROM users WHERE id = 400",  # no row, and refused all the same
        "WITH x AS (DELETE FROM users WHERE id = 5 RETURNING id) INSERT INTO orders SELECT 77, id FROM x",
        "UPDATE users SET hits = 1 WHERE id = 6; UPDATE users SET hits = 2 WHERE id = 6",
        "TRUNCATE countdown",
    ]
    async with Stand(crossing, is_deaf=True) as stand:
        clients = [await stand.connect() for _ in writes]
        assert (await crossing.switch(Side.NEW)).is_done
        for client, write in zip(clients, writes, strict=True):
            stand.is_deaf = True
            done = client.execute(write)
            assert await done
        await crossing.converge(Side.NEW)
        assert await crossing.is_equal()
        assert await crossing.new.fetchval("SELECT count(*) FROM users") == 7
        assert await crossing.new.fetchval("SELECT count(*) FROM orders") == 2


async def test_inside_a_transaction_a_stale_proxy_says_run_it_again(crossing: Crossing) -> None:
    async with Stand(crossing, is_deaf=True) as stand:
        client = await stand.connect()

        async def transfer() -> None:
            async with client.transaction():
                await client.fetchval("SELECT hits FROM users WHERE id = 1")
                await client.fetchval(ADD, 1)
                await client.fetchval(ADD, 2)

        await transfer()
        assert (await crossing.switch(Side.NEW)).is_done
        with pytest.raises(asyncpg.SerializationError, match="authority moved") as raised:
            await transfer()
        assert raised.value.sqlstate == "40001"
        assert await hits(crossing) == [1, 1]
        while (await stand.report())["authority"] == "old":
            stand.is_deaf = False  # it polls
            await asyncio.sleep(0.01)
        await transfer()
        assert [await hits(crossing, key) for key in (1, 2)] == [[1, 2], [1, 2]]


async def test_a_refusal_that_comes_after_the_news_is_not_held(crossing: Crossing) -> None:
    """Nobody would end that hold: the news that ends holds has come already."""
    async with Stand(crossing, is_deaf=True, max_pause=FOREVER_S) as stand:
        client = await stand.connect()
        assert await client.fetchval(ADD, 1) == 1
        assert (await crossing.switch(Side.NEW)).is_done
        await crossing.old.execute("BEGIN; LOCK TABLE users")
        late = asyncio.create_task(client.fetchval(ADD, 1))
        blocked = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
        )
        while not await crossing.old.fetchval(blocked):
            await asyncio.sleep(0.01)
        await stand.channel.call(calls.Release(DATABASE, "new", 2), timeout_s=10)
        await crossing.old.execute("COMMIT")
        assert await late == 2
        assert await hits(crossing) == [1, 2]


async def test_a_write_that_nobody_may_take_fails_in_the_end(crossing: Crossing) -> None:
    """Fenced, and whoever would decide is gone: the client is not kept for ever."""
    async with Stand(crossing, max_pause=0.2) as stand:
        client = await stand.connect()
        await crossing.old.execute("ALTER TABLE crossfade.ledger ENABLE ALWAYS TRIGGER fence")
        with pytest.raises(asyncpg.SerializationError, match="no cluster is the authority now"):
            await client.execute("UPDATE users SET hits = 1 WHERE id = 1")
        assert await client.fetchval("SELECT hits FROM users WHERE id = 1") == 0


# A proxy that is told.


async def test_writes_wait_and_reads_go_on_while_the_authority_moves(crossing: Crossing) -> None:
    async with Stand(crossing, max_pause=FOREVER_S) as stand:
        writer, reader = await stand.connect(), await stand.connect()
        assert await stand.proxies.hold(limit_s=FOREVER_S, drain_s=0.1) == 0
        write = asyncio.create_task(writer.fetchval(ADD, 1))
        await stand.wait_held()
        assert await reader.fetchval("SELECT hits FROM users WHERE id = 1") == 0
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        assert await write == 1
        assert await hits(crossing) == [0, 1]


async def test_news_of_an_older_epoch_are_ignored(crossing: Crossing) -> None:
    async with Stand(crossing) as stand:
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        await stand.channel.call(calls.Release(DATABASE, "old", 1), timeout_s=10)
        assert (await stand.report())["authority"] == "new"


async def switch_around_a_transaction(crossing: Crossing) -> tuple[list[str], bool]:
    """A client has begun a transaction and not yet written when the switch is ordered.

    Returns:
        What the client got for its two writes, and whether the switch was done.
    """
    got: list[str] = []
    async with Stand(crossing) as stand:
        client = await stand.connect()
        await client.execute("BEGIN")
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        switching = asyncio.create_task(crossing.switch(Side.NEW, max_pause_s=30))
        other = await stand.connect()
        touch = "UPDATE users SET hits = hits WHERE id = 9"
        late = asyncio.create_task(other.execute(touch))
        while (await stand.report())["held"] == 0 and not switching.done():
            if late.done():  # the hold has not begun yet
                late = asyncio.create_task(other.execute(touch))
            await asyncio.sleep(0.01)
        for key in (1, 2):
            try:
                await client.fetchval(ADD, key)
                got.append("done")
            except asyncpg.PostgresError as error:
                got.append(error.sqlstate)
                break
        await client.execute("COMMIT")
        outcome = await switching
        assert await late == "UPDATE 1"
        await other.fetchval(ADD, 9)
    return got, outcome.is_done


async def test_a_transaction_that_has_begun_is_waited_for(crossing: Crossing) -> None:
    assert await switch_around_a_transaction(crossing) == (["done", "done"], True)
    assert [await hits(crossing, key) for key in (1, 2, 9)] == [[1, 1], [1, 1], [0, 1]]


async def test_without_the_hold_a_transaction_that_has_begun_fails(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_hold(self: RemoteProxies, *, limit_s: float, drain_s: float) -> int:
        return 0

    monkeypatch.setattr(RemoteProxies, "hold", no_hold)
    assert await switch_around_a_transaction(crossing) == (["40001"], True)


EXPECTED = {
    "search_path": "public, pg_temp", "app.tenant": "blue", "TimeZone": "UTC-9", "application_name": "shop"
}  # fmt: skip


async def test_prepared_statements_and_settings_survive_ten_switches(crossing: Crossing) -> None:
    async with Stand(crossing) as stand:
        client = await stand.connect(application_name="shop")
        await client.execute(
            "SET search_path = public, pg_temp; SET app.tenant = 'blue'; SET TimeZone = 'UTC-9'"
        )
        add = await client.prepare(ADD)
        await add.fetchval(2)
        settings = await client.prepare(
            "SELECT " + ", ".join(f"current_setting('{name}')" for name in EXPECTED)
        )
        where = await client.prepare(VERSION + " FROM users WHERE id = 1 FOR UPDATE")
        await where.fetchval()
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        for number in range(1, 11):
            to = Side.NEW if number % 2 else Side.OLD
            assert (await crossing.switch(to)).is_done
            assert await add.fetchval(1) == number
            assert tuple(await settings.fetchrow() or ()) == tuple(EXPECTED.values())
            assert await where.fetchval() == (18 if to is Side.NEW else 16)
        assert (await crossing.switch(Side.NEW)).is_done
        assert await crossing.is_equal()


async def test_a_session_that_cannot_move_is_ended_when_it_writes(crossing: Crossing) -> None:
    async with Stand(crossing) as stand:
        client = await stand.connect()
        await client.execute("CREATE TEMP TABLE basket (id int)")
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="temporary object") as raised:
            await client.execute("UPDATE users SET hits = 1 WHERE id = 1")
        assert isinstance(raised.value.__cause__, asyncpg.AdminShutdownError)  # 57P01
        assert await hits(crossing) == [0, 0]


# Reads cannot write, neither on the mirror nor on the authority.

HARMLESS = """
CREATE FUNCTION note() RETURNS int LANGUAGE plpgsql VOLATILE AS
    $$ BEGIN INSERT INTO public.orders (id, user_id) VALUES (1, 1); RETURN 1; END $$;
CREATE FUNCTION peek() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 1; END $$;
"""
HIDDEN_WRITE = """
CREATE OR REPLACE FUNCTION peek() RETURNS int LANGUAGE plpgsql STABLE AS
    $$ BEGIN RETURN public.note(); END $$;
"""


async def hidden_write(crossing: Crossing, reads_on: Side, **settings: str) -> tuple[list[int], bool]:
    """A function that says it is STABLE, and since a moment ago writes, is called outside a transaction.

    Returns:
        How many rows it made on either side, and whether the sides are equal after converging.
    """
    await crossing.execute(HARMLESS)
    async with Stand(crossing, reads_on_new=float(reads_on is Side.NEW)) as stand:
        client = await stand.connect(**settings)
        while await client.fetchval(VERSION) != (18 if reads_on is Side.NEW else 16):
            await crossing.converge(Side.OLD)  # the mirror is fresh from when it has told its progress
        await client.execute("SELECT peek()")
        await crossing.execute(HIDDEN_WRITE)  # past the proxy, which goes by the catalog it has
        await client.execute("SELECT peek()")
    counts = [await crossing.side(side).fetchval("SELECT count(*) FROM orders") for side in Side]
    await crossing.converge(Side.OLD)
    return counts, await crossing.is_equal()


@pytest.fixture
def old_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """No catalog is read again: what is in it must not matter."""
    monkeypatch.setattr(opened, "_CATALOG_INTERVAL_S", FOREVER_S)


@pytest.mark.parametrize("reads_on", list(Side))
@pytest.mark.parametrize("wish", [{}, {"default_transaction_read_only": "off"}])
@pytest.mark.usefixtures("old_catalog")
async def test_a_hidden_write_in_a_read_is_captured_on_the_authority(
    crossing: Crossing, reads_on: Side, wish: dict[str, str]
) -> None:
    assert await hidden_write(crossing, reads_on, **wish) == ([1, 0], True)


@pytest.mark.usefixtures("old_catalog")
async def test_without_read_only_transactions_it_is_not_captured(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "reading", property(lambda settings: settings))
    assert await hidden_write(crossing, Side.OLD) == ([1, 0], False)


@pytest.mark.usefixtures("old_catalog")
async def test_without_read_only_connections_it_happens_on_the_mirror(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "reading", property(lambda settings: settings))

    async def writable(place: Place, dsn: Any, parameters: dict[str, str], proof: Any) -> ServerConnection:
        return await open_connection(place, dsn, {**parameters, "options": ""}, proof)

    monkeypatch.setattr(databases, "open_connection", writable)
    assert await hidden_write(crossing, Side.NEW) == ([0, 1], False)
