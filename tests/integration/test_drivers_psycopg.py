"""psycopg 3 through the proxy: blocking, asyncio and pipeline mode, prepared and not."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.integration.through import Crossing

INSERT = "INSERT INTO account (email, name) VALUES (%s, %s) RETURNING id"


async def test_ordinary_work_blocking(through: Crossing) -> None:
    with psycopg.connect(through.url, row_factory=dict_row) as connection:
        first = connection.execute(INSERT, ("a@x", "a"), prepare=True).fetchone()
        assert first == {"id": 1}
        row = connection.execute(
            "UPDATE account SET tags = %s, attributes = %s WHERE id = %s RETURNING *, id AS again",
            (["x", None], Jsonb({"a": 1}), 1),
        ).fetchone()
        assert row is not None
        assert (row["tags"], row["attributes"], row["again"]) == (["x", None], {"a": 1}, 1)
        connection.commit()
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute(INSERT, ("b@x", "b"))
            with connection.transaction():
                connection.execute(INSERT, ("c@x", "c"))
            connection.execute(INSERT, ("a@x", "again"))
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM account")
        with connection.transaction():
            with pytest.raises(psycopg.errors.NotNullViolation), connection.transaction():
                connection.execute(INSERT, (None, "d"))
            connection.execute(INSERT, ("e@x", "e"))
        assert connection.execute("SELECT email FROM account ORDER BY id").fetchall() == [
            {"email": "a@x"}, {"email": "e@x"},
        ]  # fmt: skip
    await through.assert_equal()


async def test_errors_say_what_and_where(through: Crossing) -> None:
    with psycopg.connect(through.url, autocommit=True) as connection:
        for text, values in (
            ("/* ü */ UPDATE account SET nope = %s", (1,)),
            ("INSERT INTO account (email) VALUES ('x') RETURNING nope", None),
            ("SELECT 1; DELETE FROM account WHERE nope = 1", None),
        ):
            with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
                connection.execute(text, values)
            sent = text.replace("%s", "$1")
            assert caught.value.diag.statement_position == str(sent.index("nope") + 1)
        with pytest.raises(psycopg.errors.CheckViolation) as check:
            connection.execute("WITH a AS (INSERT INTO account (email) VALUES ('y') RETURNING id)"
                               " INSERT INTO entry SELECT id, 1, 0 FROM a")  # fmt: skip
        assert check.value.diag.constraint_name == "entry_amount_check"
        assert connection.execute("SELECT count(*) FROM account").fetchone() == (0,)


async def test_statements_prepared_by_use_survive_other_servers(through: Crossing) -> None:
    connections = [psycopg.connect(through.url, autocommit=True, prepare_threshold=1) for _ in range(4)]
    for number in range(50):
        for at, connection in enumerate(connections):
            found = connection.execute(INSERT, (f"{at}-{number}@x", None)).fetchone()
            assert found is not None
            assert connection.execute("SELECT email FROM account WHERE id = %s", found).fetchone() == (
                f"{at}-{number}@x",
            )
    for connection in connections:
        connection.prepared_max = 1  # evicts: DEALLOCATE, or Close, of what is no longer kept
        connection.execute("SELECT 1", prepare=True)
        connection.execute("SELECT 2", prepare=True)
        connection.close()
    await through.assert_equal()


async def test_many_parameter_sets_and_results_in_one_call(through: Crossing) -> None:
    with psycopg.connect(through.url) as connection, connection.cursor() as cursor:
        cursor.executemany(INSERT, [(f"{n}@x", "m") for n in range(300)], returning=True)
        ids = [row[0] for _ in cursor.results() for row in cursor.fetchall()]
        assert ids == list(range(1, 301))
        cursor.executemany("UPDATE account SET name = %s WHERE id = %s", [(f"n{n}", n) for n in ids])
        assert cursor.rowcount == 300
        cursor.execute(
            "INSERT INTO account (email) VALUES ('s@x'); SELECT count(*) FROM account; DELETE FROM entry"
        )
        assert cursor.statusmessage == "INSERT 0 1"
        assert cursor.nextset() and cursor.fetchone() == (301,)
        assert cursor.nextset() and cursor.statusmessage == "DELETE 0"
        assert not cursor.nextset()
    await through.assert_equal()


async def test_copy_in_both_directions(through: Crossing) -> None:
    with psycopg.connect(through.url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY account (id, email, name) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "text", "text"])
            for number in range(1, 1001):
                copy.write_row((number, f"{number}@x", None))
        assert cursor.statusmessage == "COPY 1000"
        with pytest.raises(ZeroDivisionError), cursor.copy("COPY account (email) FROM STDIN") as broken:
            broken.write_row(("lost@x",))
            raise ZeroDivisionError
        connection.rollback()
        with cursor.copy("COPY account (email, name) FROM STDIN") as copy:
            copy.write_row(("tab\t@x", "line\nbreak"))
        with cursor.copy("COPY (SELECT email, name FROM account) TO STDOUT") as copy:
            assert list(copy.rows()) == [("tab\t@x", "line\nbreak")]
        connection.commit()
    await through.assert_equal()


async def test_server_side_cursors(through: Crossing) -> None:
    with psycopg.connect(through.url) as connection:
        connection.execute("INSERT INTO account (email) SELECT n || '@x' FROM generate_series(1, 500) n")
        with connection.cursor("named", scrollable=True) as cursor:
            cursor.itersize = 30
            cursor.execute("SELECT id FROM account ORDER BY id")
            for at, (number,) in enumerate(cursor, 1):
                assert number == at
                if at % 100 == 0:
                    connection.execute("UPDATE account SET name = 'seen' WHERE id = %s", (number,))
            cursor.scroll(-2)
            assert cursor.fetchone() == (500,)
        connection.commit()
        with connection.cursor("held", withhold=True) as cursor:
            cursor.execute("SELECT id FROM account ORDER BY id")
            connection.commit()
            assert cursor.fetchmany(2) == [(1,), (2,)]
    await through.assert_equal()


async def test_pipeline_mode(through: Crossing) -> None:
    with psycopg.connect(through.url, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            inserts = [connection.execute(INSERT, (f"{n}@x", "p")) for n in range(100)]
            pipeline.sync()
            updated = connection.execute("UPDATE account SET name = 'q' WHERE id <= 10")
            read = connection.execute("SELECT count(*) FROM account WHERE name = 'q'")
            assert [cursor.fetchone() for cursor in inserts] == [(n,) for n in range(1, 101)]
            assert read.fetchone() == (10,)
            assert updated.rowcount == 10
        with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
            connection.execute(INSERT, ("undone@x", "with its batch"))
            connection.execute(INSERT, ("0@x", "twice"))
            connection.execute(INSERT, ("never@x", "skipped"))
        with connection.pipeline(), connection.transaction():
            connection.execute(INSERT, ("in a transaction@x", None))
            with connection.transaction():
                connection.execute(INSERT, ("nested@x", None))
        names = connection.execute("SELECT count(*) FROM account WHERE name IS NULL OR name LIKE '%% %%'")
        assert names.fetchone() == (2,)
    await through.assert_equal()


async def test_ordinary_work_with_asyncio(through: Crossing) -> None:
    async with await psycopg.AsyncConnection.connect(through.url, autocommit=True) as connection:
        await connection.set_autocommit(False)
        async with connection.cursor() as cursor:
            await cursor.executemany(INSERT, [(f"{n}@x", "async") for n in range(50)])
            await cursor.execute("DELETE FROM account WHERE id <= 5 RETURNING email")
            assert len(await cursor.fetchall()) == 5
        await connection.commit()
        async with connection.cursor("server") as cursor:
            await cursor.execute("SELECT id FROM account ORDER BY id")
            assert [number async for (number,) in cursor] == list(range(6, 51))
        async with connection.pipeline():
            await connection.execute("UPDATE account SET balance = balance + 1")
            total = await connection.execute("SELECT sum(balance) FROM account")
            assert await total.fetchone() == (45,)
        await connection.commit()
    await through.assert_equal()


async def test_cancel_and_notifications(through: Crossing) -> None:
    with psycopg.connect(through.url, autocommit=True) as connection:
        connection.execute(INSERT, ("a@x", None))
        timer = threading.Timer(0.2, connection.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("UPDATE account SET name = 'x' WHERE pg_sleep(60) IS NOT NULL")
        timer.join()
        connection.execute("LISTEN news")
        with psycopg.connect(through.url, autocommit=True) as other:
            other.execute("NOTIFY news, 'hello'")
        heard = await asyncio.to_thread(lambda: next(connection.notifies(timeout=10, stop_after=1)))
        assert (heard.channel, heard.payload) == ("news", "hello")
        connection.execute("UNLISTEN *")
    await through.assert_equal()


async def test_settings_of_the_session_and_of_one_transaction(through: Crossing) -> None:
    options = "-c TimeZone=Asia/Tokyo -c my.own=start"
    with psycopg.connect(through.url, options=options, autocommit=True) as connection:
        assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        connection.execute("SET my.own = 'changed'")
        with connection.transaction():
            connection.execute("SET LOCAL TimeZone = 'Europe/Rome'")
            assert connection.execute("SHOW TimeZone").fetchone() == ("Europe/Rome",)
        assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
        with connection.transaction(force_rollback=True):
            connection.execute("SET my.own = 'undone'")
        assert connection.execute("SHOW my.own").fetchone() == ("changed",)
        connection.execute("RESET my.own")
        assert connection.execute("SHOW my.own").fetchone() == ("start",)
        connection.execute("SET my.own = 'changed'")
        connection.execute("DISCARD ALL")
        assert connection.execute("SHOW my.own").fetchone() == ("start",)
        assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
    with psycopg.connect(through.url, autocommit=True) as other:
        found = other.execute(
            "SELECT current_setting('my.own', true), current_setting('TimeZone')"
        ).fetchone()
        assert found in ((None, "UTC"), ("", "UTC"))


async def test_lost_server_ends_the_connection_and_a_new_one_works(through: Crossing) -> None:
    with psycopg.connect(through.url, autocommit=True) as connection:
        connection.execute(INSERT, ("kept@x", None))
        with pytest.raises(psycopg.OperationalError), connection.transaction():
            connection.execute(INSERT, ("lost@x", None))
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert connection.broken
    for _ in range(5):
        with psycopg.connect(through.url) as again:
            assert again.execute("SELECT email FROM account").fetchall() == [("kept@x",)]
    await through.assert_equal()
