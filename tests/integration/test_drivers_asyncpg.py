"""asyncpg through the proxy: named statements, Flush before Sync, binary values, cursors in portals."""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from tests.integration.through import Crossing

INSERT = "INSERT INTO account (email, name) VALUES ($1, $2) RETURNING id"


@pytest.fixture
async def connection(through: Crossing) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(through.url, timeout=10, command_timeout=30)
    yield connection
    await connection.close()


async def test_rows_of_every_type_go_in_and_come_out(
    through: Crossing, connection: asyncpg.Connection
) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    row = await connection.fetchrow(
        "INSERT INTO account (email, balance, tags, attributes) VALUES ($1, $2, $3, $4)"
        " RETURNING *, email, id AS email",
        "ü@x", Decimal("12.50"), ["a", 'b"c', None], {"k": [1, None]},
    )  # fmt: skip
    assert list(row.values())[:6] == [
        row["id"],
        "ü@x",
        None,
        Decimal("12.50"),
        ["a", 'b"c', None],
        {"k": [1, None]},
    ]
    assert list(row.keys())[-2:] == ["email", "email"]
    assert list(row.values())[-2:] == ["ü@x", row["id"]]
    key = uuid.uuid4()
    assert await connection.fetchval("INSERT INTO blob VALUES ($1, $2) RETURNING size", key, b"\0\xff") == 2
    assert await connection.execute("UPDATE blob SET content = $2 WHERE id = $1", key, b"x") == "UPDATE 1"
    assert await connection.fetch("DELETE FROM blob WHERE id <> $1 RETURNING id", key) == []
    await through.assert_equal()


async def test_transactions_and_savepoints(through: Crossing, connection: asyncpg.Connection) -> None:
    statement = await connection.prepare(
        INSERT
    )  # Parse and Describe up to a Flush; the Sync is still to come
    async with connection.transaction():
        first = await statement.fetchval("a@x", "outer")
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            async with connection.transaction():
                await statement.fetchval("b@x", "inner")
                await statement.fetchval("a@x", "again")
        assert caught.value.sqlstate == "23505"
        assert caught.value.table_name == "account"
        await connection.execute("UPDATE account SET balance = 5 WHERE id = $1", first)
    with pytest.raises(ZeroDivisionError):
        async with connection.transaction(isolation="serializable"):
            await connection.execute("DELETE FROM account")
            raise ZeroDivisionError
    async with connection.transaction(readonly=True):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("DELETE FROM account")
    assert [row["name"] for row in await connection.fetch("SELECT name FROM account")] == ["outer"]
    await through.assert_equal()


async def test_error_points_into_the_own_text(through: Crossing, connection: asyncpg.Connection) -> None:
    for text in (
        "UPDATE account SET nope = $1",
        "/* ü */ INSERT INTO account (email, nope) VALUES ($1, 2) RETURNING id",
        "DELETE FROM account WHERE nope = 1 RETURNING *",
        "SELECT nope FROM account",
    ):
        with pytest.raises(asyncpg.UndefinedColumnError) as caught:
            await connection.fetch(text)
        assert caught.value.position == str(text.index("nope") + 1), text
    with pytest.raises(asyncpg.PostgresSyntaxError) as wrong:
        await connection.execute("UPDATE account SELECT 1")
    assert wrong.value.position == "16"
    with pytest.raises(asyncpg.CheckViolationError):
        async with connection.transaction():
            number = await connection.fetchval(INSERT, "a@x", None)
            await connection.execute("INSERT INTO entry VALUES ($1, 1, 0)", number)
    assert await connection.fetchval("SELECT count(*) FROM account") == 0


async def test_copy_in_both_directions(through: Crossing, connection: asyncpg.Connection) -> None:
    accounts = [(number, f"{number}@x", f"n{number}") for number in range(1, 2001)]
    copied = await connection.copy_records_to_table(
        "account", records=accounts, columns=["id", "email", "name"]
    )
    assert copied == "COPY 2000"
    out = io.BytesIO()
    assert await connection.copy_from_query("SELECT id FROM account ORDER BY id", output=out) == "COPY 2000"
    assert out.getvalue() == b"".join(b"%d\n" % number for number in range(1, 2001))
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.copy_records_to_table(
            "account", records=accounts[:1], columns=["id", "email", "name"]
        )
    lines = io.BytesIO(b"1,1,5,\n1,2,6,text\n")
    assert await connection.copy_to_table("entry", source=lines, format="csv") == "COPY 2"
    await through.assert_equal()


async def test_executemany_and_cursors(through: Crossing, connection: asyncpg.Connection) -> None:
    await connection.executemany(INSERT, [(f"{n}@x", "many") for n in range(500)])
    async with connection.transaction():
        seen = [
            row["email"]
            async for row in connection.cursor("SELECT email FROM account ORDER BY id", prefetch=7)
        ]
        assert len(seen) == 500
        changed = 0
        async for row in connection.cursor(
            "UPDATE account SET name = 'c' WHERE id <= 50 RETURNING id", prefetch=9
        ):
            changed += 1
            await connection.execute("UPDATE account SET balance = 1 WHERE id = $1", row["id"])
        assert changed == 50
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.executemany(INSERT, [("new@x", "n"), ("0@x", "n"), ("never@x", "n")])
    assert await connection.fetchval("SELECT count(*) FROM account") == 500
    await through.assert_equal()


async def test_notifications_arrive_without_asking(through: Crossing, connection: asyncpg.Connection) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("news", lambda *event: heard.put_nowait(event[2:]))
    other = await asyncpg.connect(through.url)
    await other.execute("INSERT INTO account (email) VALUES ('n@x')")
    await other.execute("SELECT pg_notify('news', 'from another')")
    assert await asyncio.wait_for(heard.get(), 10) == ("news", "from another")
    await connection.execute("NOTIFY news, 'from myself'")
    assert await asyncio.wait_for(heard.get(), 10) == ("news", "from myself")
    told = await through.running.wait_for(lambda told: bool(told["clients"]["pinned"]))
    assert told["clients"]["pinned"][0]["reason"] == "LISTEN"
    await connection.reset_listeners() if hasattr(connection, "reset_listeners") else await connection.reset()
    await through.running.wait_for(lambda told: not told["clients"]["pinned"])
    await other.close()


async def test_cancel_ends_the_statement_alone(through: Crossing, connection: asyncpg.Connection) -> None:
    other = await asyncpg.connect(through.url)
    await other.execute("INSERT INTO account (email) VALUES ('c@x')")
    sleeping = asyncio.create_task(other.fetchval("SELECT pg_sleep(1), 'undisturbed'", column=1))
    with pytest.raises(TimeoutError):
        await connection.fetch("SELECT pg_sleep(60)", timeout=0.2)
    assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises(TimeoutError):
        await connection.execute("UPDATE account SET name = 'x' WHERE pg_sleep(60) IS NOT NULL", timeout=0.2)
    assert await connection.fetchval("SELECT name FROM account") is None
    assert await sleeping == "undisturbed"
    await other.close()
    await through.assert_equal()


async def test_settings_and_statements_follow_a_pooled_client(through: Crossing) -> None:
    async with asyncpg.create_pool(
        through.url,
        min_size=8,
        max_size=8,
        server_settings={"application_name": "pooled", "TimeZone": "Asia/Tokyo"},
    ) as pool:

        async def use(number: int) -> None:
            async with pool.acquire() as one:
                assert await one.fetchval("SHOW TimeZone") == "Asia/Tokyo"
                await one.execute(f"SET my.own = 'v{number}'")
                await one.execute("INSERT INTO account (email) VALUES ($1)", f"{number}@x")
                async with one.transaction():
                    await one.execute("SET LOCAL TimeZone = 'Europe/Rome'")
                    assert await one.fetchval("SHOW TimeZone") == "Europe/Rome"
                assert await one.fetchval("SHOW my.own") == f"v{number}"
                assert await one.fetchval("SHOW TimeZone") == "Asia/Tokyo"
                assert await one.fetchval("SELECT email FROM account WHERE email = $1", f"{number}@x")

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(use(number))
        async with pool.acquire() as one:
            assert await one.fetchval("SELECT current_setting('my.own', true)") in (None, "")
    await through.assert_equal()


async def test_temporary_table_keeps_its_session_on_its_server(
    through: Crossing, connection: asyncpg.Connection
) -> None:
    await connection.execute("CREATE TEMP TABLE scratch (x int); INSERT INTO scratch VALUES (1), (2)")
    others = [await asyncpg.connect(through.url) for _ in range(3)]
    await asyncio.gather(
        *(
            other.execute("INSERT INTO account (email) VALUES ($1)", f"{n}@x")
            for n, other in enumerate(others)
        )
    )
    assert await connection.fetchval("SELECT sum(x) FROM scratch") == 3
    assert (
        await connection.execute("INSERT INTO account (email) SELECT x || '@temp' FROM scratch")
        == "INSERT 0 2"
    )
    told = await through.running.wait_for(lambda told: bool(told["clients"]["pinned"]))
    assert told["clients"]["pinned"][0]["reason"] == "temporary object"
    await connection.execute("DISCARD ALL")
    await through.running.wait_for(lambda told: not told["clients"]["pinned"])
    for other in others:
        await other.close()
    await through.assert_equal()


async def test_pool_connects_again_after_its_server_is_gone(through: Crossing) -> None:
    async with asyncpg.create_pool(through.url, min_size=2, max_size=2) as pool:
        async with pool.acquire() as lost:
            await lost.execute("INSERT INTO account (email) VALUES ('kept@x')")
            await lost.execute("BEGIN; INSERT INTO account (email) VALUES ('lost@x')")
            with pytest.raises(asyncpg.PostgresConnectionError) as caught:
                await lost.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert isinstance(caught.value.__cause__, asyncpg.AdminShutdownError)
        for _ in range(4):
            async with pool.acquire() as one:
                assert await one.fetchval("SELECT array_agg(email) FROM account") == ["kept@x"]
    await through.assert_equal()
