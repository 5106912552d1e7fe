"""SQLAlchemy 2 through the proxy, blocking over psycopg and with asyncio over asyncpg."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import ForeignKey, Identity, create_engine, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT, insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.types import TIMESTAMP, BigInteger, Numeric

from tests.integration.through import Crossing, wait_until_it_runs


class Base(AsyncAttrs, DeclarativeBase):
    """The tables of `through.SCHEMA` as classes."""


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str | None]
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2), server_default="0")
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    attributes: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    created: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    entries: Mapped[list[Entry]] = relationship(order_by="Entry.number", cascade="all, delete-orphan")


class Entry(Base):
    __tablename__ = "entry"
    account: Mapped[int] = mapped_column(ForeignKey("account.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    note: Mapped[str | None]


def accounts(count: int) -> list[Account]:
    """Return new accounts with two entries each."""
    return [
        Account(
            email=f"{n}@x", tags=["a", "b"], attributes={"n": n}, created=datetime(2024, 1, 1, tzinfo=UTC),
            entries=[Entry(number=1, amount=Decimal(n)), Entry(number=2, amount=Decimal("-0.5"))],
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


async def test_unit_of_work_over_psycopg(through: Crossing) -> None:
    engine = create_engine(through.url.replace("postgresql:", "postgresql+psycopg:"), pool_size=4)
    with Session(engine) as session:
        session.add_all(accounts(200))  # one INSERT of many rows, with RETURNING, matched by a sentinel
        session.commit()
        found = session.scalars(
            select(Account).where(Account.id <= 3).order_by(Account.id).options(selectinload(Account.entries))
        ).all()
        assert [[entry.amount for entry in account.entries] for account in found][2] == [3, Decimal("-0.50")]
        found[0].entries.pop()
        found[1].name = "renamed"
        session.delete(found[2])
        session.flush()
        nested = session.begin_nested()
        session.add(Account(email="1@x"))
        with pytest.raises(IntegrityError):
            session.flush()
        nested.rollback()
        session.commit()
        returned = session.execute(
            update(Account).where(Account.id < 10).values(balance=Account.balance + 1).returning(Account.id)
        ).all()
        assert len(returned) == 8
        session.rollback()
        upsert = insert(Account).values([{"email": "2@x", "name": "u"}, {"email": "new@x", "name": "u"}])
        statement = upsert.on_conflict_do_update(
            index_elements=["email"], set_={"name": upsert.excluded.name}
        )
        names = session.execute(statement.returning(Account.email, Account.name)).all()
        assert [tuple(row) for row in names] == [("2@x", "u"), ("new@x", "u")]
        session.commit()
        streamed = session.execute(select(Entry).execution_options(yield_per=25)).scalars()
        assert sum(1 for _ in streamed) == 200 * 2 - 3
        session.execute(delete(Entry).where(Entry.account == 5))
        session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text("INSERT INTO account (email) VALUES (:email)"), [{"email": f"a{n}"} for n in range(9)]
        )
    engine.dispose()
    await through.assert_equal({"account": "id", "entry": "account, number"})


async def test_unit_of_work_over_asyncpg(through: Crossing) -> None:
    engine = create_async_engine(through.url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=4)
    make = async_sessionmaker(engine, expire_on_commit=False)
    async with make() as session, session.begin():
        session.add_all(accounts(100))

    async def work(number: int) -> None:
        async with make() as session, session.begin():
            account = await session.get_one(Account, number)
            account.balance += 1
            async with session.begin_nested() as nested:
                session.add(Entry(account=number, number=9, amount=Decimal(1)))
                await session.flush()
                if number % 2:
                    await nested.rollback()
            assert isinstance(session, AsyncSession)
            total = await session.scalar(select(func.count()).where(Entry.account == number))
            assert total == (2 if number % 2 else 3)

    async with asyncio.TaskGroup() as group:
        for number in range(1, 41):
            group.create_task(work(number))
    async with make() as session:
        with pytest.raises(DBAPIError) as caught:
            await session.execute(text("UPDATE account SET balance = balance / 0 RETURNING id"))
        assert getattr(caught.value.orig, "sqlstate", None) == "22012"
        await session.rollback()
        streamed = await session.stream_scalars(select(Account.id).order_by(Account.id))
        assert [number async for number in streamed] == list(range(1, 101))
        assert await session.scalar(select(func.sum(Account.balance))) == 40
    await engine.dispose()
    await through.assert_equal({"account": "id", "entry": "account, number"})


async def test_what_lies_below_an_engine_over_psycopg(through: Crossing) -> None:
    engine = create_engine(through.url.replace("postgresql:", "postgresql+psycopg:"), pool_pre_ping=True)
    with engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor:
            with cursor.copy("COPY account (email) FROM STDIN") as copy:
                for number in range(300):
                    copy.write_row((f"c{number}@x",))
            with cursor.copy("COPY (SELECT id FROM account ORDER BY id) TO STDOUT") as copy:
                assert b"".join(copy).split() == [b"%d" % number for number in range(1, 301)]
    every = engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, every.connect() as other:
        driver = connection.connection.driver_connection
        assert driver is not None
        sleeping = asyncio.create_task(asyncio.to_thread(connection.execute, text("SELECT pg_sleep(66)")))
        await asyncio.to_thread(wait_until_it_runs, other.connection.cursor(), "SELECT pg_sleep(66)")
        await asyncio.to_thread(driver.cancel_safe)
        with pytest.raises(DBAPIError) as cancelled:
            await sleeping
        assert getattr(cancelled.value.orig, "sqlstate", None) == "57014"
        connection.rollback()
        connection.execute(text("LISTEN news"))
        connection.commit()
        other.execute(text("SELECT pg_notify('news', 'hello')"))
        heard = await asyncio.to_thread(lambda: next(driver.notifies(timeout=30, stop_after=1)))
        assert heard.payload == "hello"
        with pytest.raises(DBAPIError) as lost:
            other.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert lost.value.connection_invalidated
        other.rollback()
        assert other.scalar(text("SELECT count(*) FROM account")) == 300, "it reconnects"
    engine.dispose()
    await through.assert_equal({"account": "id"})


async def test_what_lies_below_an_engine_over_asyncpg(through: Crossing) -> None:
    engine = create_async_engine(through.url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        many = [{"email": f"m{number}@x"} for number in range(100)]
        await connection.execute(text("INSERT INTO account (email) VALUES (:email)"), many)
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        copied = await driver.copy_records_to_table(
            "account", records=[(f"c{number}@x",) for number in range(300)], columns=["email"]
        )
        assert copied == "COPY 300"
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        heard: asyncio.Queue[str] = asyncio.Queue()
        await driver.add_listener("news", lambda *event: heard.put_nowait(event[3]))
        await connection.execute(text("SELECT pg_notify('news', 'hello')"))
        await connection.commit()
        assert await asyncio.wait_for(heard.get(), 30) == "hello"
        with pytest.raises(TimeoutError):
            await driver.execute("SELECT pg_sleep(67)", timeout=0.2)
        assert await connection.scalar(text("SELECT count(*) FROM account")) == 400
        with pytest.raises(DBAPIError) as lost:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert lost.value.connection_invalidated
        await connection.rollback()
        assert await connection.scalar(text("SELECT count(*) FROM account")) == 400, "it reconnects"
    await engine.dispose()
    await through.assert_equal({"account": "id"})
