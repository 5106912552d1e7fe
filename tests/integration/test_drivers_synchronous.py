"""psycopg 2, pg8000 and Django through the proxy: what their users do."""

from __future__ import annotations

import io
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pg8000.exceptions
import pg8000.native
import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from django.conf import settings

from tests.integration.through import Crossing, wait_until, wait_until_it_runs
from tests.running import DATABASE

KEYS = {"account": "id", "entry": "account, number"}


# psycopg 2


async def test_psycopg2(through: Crossing) -> None:
    db, other = psycopg2.connect(through.url), psycopg2.connect(through.url)
    other.autocommit = True
    with db, db.cursor() as cursor:
        cursor.execute("INSERT INTO account (email) VALUES (%s) RETURNING id, email", ("a@x",))
        account, email = cursor.fetchone()
        assert email == "a@x" and cursor.statusmessage == "INSERT 0 1"
        cursor.execute("PREPARE mine (int, numeric) AS INSERT INTO entry VALUES (1, $1, $2)")
        psycopg2.extras.execute_batch(cursor, "EXECUTE mine (%s, %s)", [(n, n + 1) for n in range(50)])
    for _ in range(3):  # in transactions of their own, hence perhaps elsewhere
        with db, db.cursor() as cursor:
            cursor.execute("EXECUTE mine (%s, 1)", (100 + _,))
    with pytest.raises(psycopg2.errors.CheckViolation), db, db.cursor() as cursor:
        cursor.execute("INSERT INTO entry VALUES (%s, 999, 0)", (account,))
    with db, db.cursor() as cursor, pytest.raises(psycopg2.errors.UndefinedColumn) as failed:
        cursor.execute("/* ü */ UPDATE account SET nope = 1")
    assert failed.value.diag.statement_position == "28"
    db.rollback()
    psycopg2_copies(db)
    psycopg2_cursors(db)
    psycopg2_cancels(db, other)
    psycopg2_listens(db, other)
    for connection in (db, other):
        connection.close()
    for number in range(5):
        again = psycopg2.connect(through.url)
        with again.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            assert cursor.fetchone() == (number,)
        again.close()
    await through.assert_equal(KEYS)


def psycopg2_copies(db: Any) -> None:
    with db, db.cursor() as cursor:
        lines = "".join(f"c{n}@x\n" for n in range(300))
        cursor.copy_expert("COPY account (email) FROM STDIN", io.StringIO(lines))
        out = io.StringIO()
        cursor.copy_expert(
            "COPY (SELECT email FROM account WHERE email LIKE 'c%' ORDER BY id) TO STDOUT", out
        )
        assert out.getvalue() == lines
    with pytest.raises(psycopg2.errors.UniqueViolation), db, db.cursor() as cursor:
        cursor.copy_expert("COPY account (email) FROM STDIN", io.StringIO(lines))


def psycopg2_cursors(db: Any) -> None:
    with db, db.cursor("named") as cursor:
        cursor.itersize = 40
        cursor.execute("SELECT id FROM account ORDER BY id")
        assert len(list(cursor)) == 301
    held = db.cursor("held", withhold=True)
    held.execute("SELECT id FROM account ORDER BY id")
    db.commit()
    assert len(held.fetchmany(10)) == 10
    held.close()
    db.commit()


def psycopg2_cancels(db: Any, other: Any) -> None:
    failures: list[str] = []

    def sleep() -> None:
        with db.cursor() as cursor:
            try:
                cursor.execute("SELECT pg_sleep(65)")
            except psycopg2.Error as error:
                failures.append(error.pgcode)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    wait_until_it_runs(other.cursor(), "SELECT pg_sleep(65)")
    db.cancel()
    sleeper.join(30)
    assert failures == ["57014"]
    db.rollback()


def psycopg2_listens(db: Any, other: Any) -> None:
    db.autocommit = True
    db.cursor().execute("LISTEN news")
    other.cursor().execute("SELECT pg_notify('news', 'hello')")
    while not db.notifies:
        assert select.select([db], [], [], 30) != ([], [], [])
        db.poll()
    assert db.notifies.pop().payload == "hello"
    db.cursor().execute("UNLISTEN *")


# pg8000


async def test_pg8000(through: Crossing) -> None:
    """It has no cancel and no pipeline of its own: `pg8000_cancels` says what its users do instead."""
    where = {"user": "postgres", "host": "127.0.0.1", "port": through.running.port, "database": DATABASE}
    db, other = pg8000.native.Connection(**where), pg8000.native.Connection(**where)
    statement = db.prepare("INSERT INTO account (email, tags) VALUES (:email, :tags) RETURNING id, tags")
    for number in range(20):
        ((_, tags),) = statement.run(email=f"p{number}@x", tags=["a", None])
        assert tags == ["a", None]
    statement.close()
    db.run("START TRANSACTION")
    db.run("INSERT INTO entry VALUES (1, 1, :amount)", amount=5)
    db.run("SAVEPOINT here")
    with pytest.raises(pg8000.exceptions.DatabaseError) as failed:
        db.run("INSERT INTO entry VALUES (1, 2, :amount)", amount=0)
    assert failed.value.args[0]["C"] == "23514"
    db.run("ROLLBACK TO here")
    db.run("COMMIT")
    with pytest.raises(pg8000.exceptions.DatabaseError) as failed:
        db.run("/* ü */ UPDATE account SET nope = :n", n=1)
    assert (failed.value.args[0]["C"], failed.value.args[0]["P"]) == ("42703", "28")
    lines = "".join(f"c{n}@x\n" for n in range(300))
    db.run("COPY account (email) FROM STDIN", stream=io.StringIO(lines))
    assert db.row_count == 300
    out = io.StringIO()
    db.run("COPY (SELECT email FROM account WHERE email LIKE 'c%' ORDER BY id) TO STDOUT", stream=out)
    assert out.getvalue() == lines
    db.run("START TRANSACTION")
    db.run("DECLARE c CURSOR FOR SELECT id FROM account")
    assert len(db.run("FETCH 10 FROM c")) == 10
    db.run("ROLLBACK")
    pg8000_cancels(db, other)
    other.run("LISTEN news")
    db.run("SELECT pg_notify('news', :text)", text="hello")
    while not other.notifications:
        other.run("SELECT 1")
    assert other.notifications[0][2] == "hello"
    for connection in (db, other):
        connection.close()
    again = pg8000.native.Connection(**where)
    assert again.run("SELECT :n", n="again") == [["again"]]
    again.close()
    await through.assert_equal(KEYS)


def pg8000_cancels(db: Any, other: Any) -> None:
    """By time, or from another connection by the server's process id, which a transaction keeps."""
    db.run("START TRANSACTION")
    db.run("SET LOCAL statement_timeout = 50")
    with pytest.raises(pg8000.exceptions.DatabaseError) as late:
        db.run("SELECT pg_sleep(68)")
    assert late.value.args[0]["C"] == "57014"
    db.run("ROLLBACK")
    db.run("START TRANSACTION")
    ((server,),) = db.run("SELECT pg_backend_pid()")
    db.run("INSERT INTO account (email) VALUES ('undone@x')")
    with ThreadPoolExecutor(1) as threads:
        sleeping = threads.submit(db.run, "SELECT pg_sleep(69)")
        seen = f"SELECT 1 FROM pg_stat_activity WHERE pid = {server} AND wait_event = 'PgSleep'"
        wait_until(lambda: other.run(seen))
        assert other.run(f"SELECT pg_cancel_backend({server})") == [[True]]
        failed = sleeping.exception(30)
    assert isinstance(failed, pg8000.exceptions.DatabaseError) and failed.args[0]["C"] == "57014"
    db.run("ROLLBACK")
    assert db.run("SELECT count(*) FROM account WHERE email = 'undone@x'") == [[0]]


# Django


def configure_django(port: int) -> None:
    """Set Django up, once for the process, and point it to a proxy."""
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": DATABASE, "USER": "postgres",
        "HOST": "127.0.0.1", "PORT": port, "CONN_MAX_AGE": None,
        "OPTIONS": {"prepare_threshold": 2, "server_side_binding": True},
    }  # fmt: skip
    if not settings.configured:
        settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True)
        django.setup()


async def test_django(through: Crossing) -> None:
    configure_django(through.running.port)
    worker = threading.Thread(target=_in_django, args=(failures := [],))
    worker.start()
    worker.join(60)
    assert failures == ["done"], failures
    await through.assert_equal(KEYS)


def _in_django(outcome: list[Any]) -> None:
    try:
        _work_in_django()
        outcome.append("done")
    except BaseException as problem:
        outcome.append(problem)


def _work_in_django() -> None:
    from django.db import IntegrityError, connection, models, transaction

    class Account(models.Model):
        email = models.TextField(unique=True)
        name = models.TextField(null=True)
        balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
        attributes = models.JSONField(null=True)

        class Meta:
            app_label = "app"
            db_table = "account"
            managed = False

    first = Account.objects.create(email="a@x", attributes={"k": [1, 2]})
    Account.objects.bulk_create(Account(email=f"b{n}@x", balance=n) for n in range(100))
    assert Account.objects.get(pk=first.pk).attributes == {"k": [1, 2]}
    assert Account.objects.filter(balance__gte=50).update(name="rich") == 50
    with pytest.raises(IntegrityError), transaction.atomic():
        Account.objects.create(email="a@x")
    with transaction.atomic():
        locked = Account.objects.select_for_update().get(email="b1@x")
        with pytest.raises(IntegrityError), transaction.atomic():
            Account.objects.create(email="b2@x")
        locked.name = "after a savepoint"
        locked.save()
    assert Account.objects.filter(name="after a savepoint").count() == 1
    assert sum(1 for _ in Account.objects.order_by("pk").iterator(chunk_size=30)) == 101
    with transaction.atomic():
        assert Account.objects.filter(balance__lt=10).exclude(email="a@x").delete()[0] == 10
    assert Account.objects.aggregate(total=models.Sum("balance"))["total"] == sum(range(10, 100))
    account, is_new = Account.objects.update_or_create(email="c@x", defaults={"name": "new"})
    assert is_new and account.pk
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('TimeZone', 'Asia/Tokyo', false)")
        cursor.execute("INSERT INTO entry VALUES (%s, 1, 2.5) RETURNING amount", [account.pk])
        assert str(cursor.fetchone()[0]) == "2.50"
    connection.close()
    assert Account.objects.count() == 92, "it reconnects"
    _work_below_django(connection)
    connection.close()


def _work_below_django(connection: Any) -> None:
    """Do what Django leaves to psycopg: its connection is at hand, and is the same one."""
    driver = connection.connection
    with connection.cursor() as cursor:
        with cursor.copy("COPY account (email, balance) FROM STDIN") as copy:
            for number in range(300):
                copy.write_row((f"copied{number}@x", number))
        with cursor.copy("COPY (SELECT email FROM account WHERE email LIKE 'copied%') TO STDOUT") as copy:
            assert len(b"".join(copy).split()) == 300
    with driver.pipeline():
        piped = [driver.execute("SELECT %s::int", (number,)) for number in range(20)]
        assert [cursor.fetchone() for cursor in piped] == [(number,) for number in range(20)]
    other = connection.copy()
    with other.cursor() as cursor, ThreadPoolExecutor(1) as threads:
        sleeping = threads.submit(driver.execute, "SELECT pg_sleep(70)")
        wait_until_it_runs(cursor, "SELECT pg_sleep(70)")
        driver.cancel_safe()
        assert getattr(sleeping.exception(30), "sqlstate", None) == "57014"
        connection.cursor().execute("LISTEN news")
        cursor.execute("SELECT pg_notify('news', 'hello')")
    assert next(driver.notifies(timeout=30, stop_after=1)).payload == "hello"
    connection.cursor().execute("UNLISTEN *")
    other.close()
