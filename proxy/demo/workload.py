"""The shop's load: what its clients do, and what they check while doing it.

Each client owns the users whose number leaves its own remainder, with all their rows, and
alone writes them. So it knows what every read of its own session must show, and says so
when it does not: an own write that is not seen, an order without its lines and an update
computed from an old value are failures like any error. Products and daily sales belong to
all; there every client adds, and the sums are checked at the end.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import NamedTuple

from proxy.clock import now_s
from proxy.demo import statements as sql
from proxy.demo.drivers import AsyncpgDriver, Driver, Failed, PsycopgDriver, Session
from proxy.demo.journal import Journal, Row

KEYS = {
    "users": ("id",),
    "products": ("id",),
    "sessions": ("id",),
    "orders": ("id",),
    "order_lines": ("order_id", "line"),
    "events": ("request_id",),
    "daily_sales": ("day", "product_id"),
}
PRODUCTS_COUNT = 1000
PRODUCT_STOCK = 1_000_000

_OWN_ROWS_MAX = 400
_TAGS = ["beta", "news", "vip", "Ünïcode", 'quo"te', "com,ma"]


class Shape(NamedTuple):
    """How much load: a rate that leaves a small machine time for the rest."""

    users_count: int
    asyncpg_clients_count: int = 8
    psycopg_clients_count: int = 4
    operations_per_s: float = 150.0

    @property
    def clients_count(self) -> int:
        """All clients, of both drivers."""
        return self.asyncpg_clients_count + self.psycopg_clients_count


class _Order(NamedTuple):
    row: Row
    lines: tuple[Row, ...]


class _RolledBack(Exception):
    """Ends a transaction that the application changed its mind about."""


def _loads(shown: str) -> object:
    return json.loads(shown, parse_float=Decimal, parse_int=Decimal)


class Client:
    """One client of the shop: picks an operation, runs it once, and notes what was acknowledged."""

    def __init__(self, number: int, shape: Shape, driver: Driver, journal: Journal, seed: int) -> None:
        self._number = number
        self._shape = shape
        self._driver = driver
        self._journal = journal
        self._random = random.Random(seed * 1000 + number)
        self._orders: deque[_Order] = deque(maxlen=_OWN_ROWS_MAX)
        self._sessions: deque[Row] = deque(maxlen=_OWN_ROWS_MAX)
        self._operations: dict[Callable[[Session], Awaitable[None]], int] = {
            self._read_user: 24,
            self._read_email: 6,
            self._read_orders: 12,
            self._read_newest: 2,
            self._place_order: 12,
            self._ship_order: 6,
            self._delete_order: 3,
            self._login: 8,
            self._touch_session: 8,
            self._keep_session: 5,
            self._logout: 4,
            self._edit_profile: 8,
            self._swap_emails: 4,
            self._change_mind: 2,
            self._record_events: 5,
        }

    async def run(self, stopping: asyncio.Event) -> None:
        """Work at the client's share of the rate until `stopping`, finishing what was begun."""
        interval_s = self._shape.clients_count / self._shape.operations_per_s
        methods, weights = list(self._operations), list(self._operations.values())
        due_s = now_s() + self._random.random() * interval_s
        while not stopping.is_set():
            await asyncio.sleep(due_s - now_s())
            # A client that was held does not make up for it with a burst.
            due_s = max(due_s + interval_s, now_s())
            (operation,) = self._random.choices(methods, weights)
            try:
                async with self._driver.session() as session:
                    await operation(session)
            except Failed:
                continue

    def _own_user(self) -> int:
        count = self._shape.clients_count
        number = self._number + count * self._random.randrange(self._shape.users_count // count)
        return number or count

    def _expect(self, operation: str, row: Row, column: str, found: object) -> None:
        """Complain when a value that this client alone writes is not the one it wrote."""
        known = self._journal.value(row, column)
        if known is not None and known != found:
            what = f"{row.table}{row.key}.{column} is {found!r}, wrote {known!r}"
            self._journal.failed(operation, f"own write not seen: {what}")

    def _require(self, operation: str, is_true: bool, reason: str) -> None:
        if not is_true:
            self._journal.failed(operation, reason)

    async def _read_user(self, session: Session) -> None:
        number = self._random.randint(1, self._shape.users_count)
        rows = await session.fetch("read user", sql.READ_USER, number)
        self._require("read user", len(rows) == 1, f"user {number}: {len(rows)} rows")

    async def _read_email(self, session: Session) -> None:
        email = f"user{self._random.randint(1, self._shape.users_count)}@example.com"
        rows = await session.fetch("read e-mail", sql.READ_EMAIL, email)
        self._require("read e-mail", len(rows) == 1, f"{email}: {len(rows)} rows")

    async def _read_orders(self, session: Session) -> None:
        user = self._random.choice(self._orders).row if self._orders and self._random.random() < 0.3 else None
        number = self._random.randint(1, self._shape.users_count)
        if user is not None:
            ((number,),) = await session.fetch("read order", sql.ORDER_USER, int(user.key[0])) or [(number,)]
        await session.fetch("read orders", sql.READ_ORDERS, number)
        for order, total, lines in await session.fetch("read totals", sql.READ_TOTALS, number):
            self._require("read totals", total == lines, f"torn order {order}: {total} but lines {lines}")

    async def _read_newest(self, session: Session) -> None:
        rows = await session.fetch("read newest", sql.READ_NEWEST)
        self._require("read newest", len(rows) == 20, f"{len(rows)} rows")

    async def _place_order(self, session: Session) -> None:
        user = self._own_user()
        products = sorted(self._random.sample(range(1, PRODUCTS_COUNT + 1), self._random.randint(1, 4)))
        quantities = [self._random.randint(1, 3) for _ in products]
        # In the order of their numbers, so that clients cannot deadlock.
        wanted = list(zip(products, quantities, strict=True))
        numbers = list(range(1, len(wanted) + 1))
        today = datetime.datetime.now(datetime.UTC).date()
        stocks = [Row("products", (str(product),)) for product in products]
        sales = [Row("daily_sales", (today.isoformat(), str(product))) for product in products]
        with self._journal.attempt(*stocks, *sales):
            async with session.transaction():
                ((order,),) = await session.fetch("insert order", sql.INSERT_ORDER, user, "by the demo")
                lines = await session.fetch(
                    "insert lines", sql.INSERT_LINES, order, numbers, products, quantities
                )
                for product, quantity in wanted:
                    await session.fetch("update stock", sql.UPDATE_STOCK, product, quantity)
                for product, quantity in wanted:
                    await session.fetch("upsert sales", sql.UPSERT_SALES, today, product, quantity)
                total = sum((amount for _, amount in lines), Decimal(0))
                await session.fetch("update order", sql.UPDATE_TOTAL, order, total)
        placed = _Order(
            Row("orders", (str(order),)),
            tuple(Row("order_lines", (str(order), str(line))) for line, _ in lines),
        )
        self._journal.wrote(placed.row, user_id=user, total=total, status="paid")
        for row, (_, amount) in zip(placed.lines, lines, strict=True):
            self._journal.wrote(row, amount=amount)
        for stock, sold, quantity in zip(stocks, sales, quantities, strict=True):
            self._journal.added(stock, "stock", -quantity, initial=PRODUCT_STOCK)
            self._journal.added(sold, "sold", quantity)
        self._orders.append(placed)
        seen = await session.fetch("read own order", sql.READ_ORDER, order)
        self._require("read own order", len(seen) == len(wanted), f"order {order}: {len(seen)} lines")

    async def _ship_order(self, session: Session) -> None:
        if not self._orders:
            return
        order = self._random.choice(self._orders).row
        with self._journal.attempt(order):
            rows = await session.fetch("ship order", sql.SHIP_ORDER, int(order.key[0]))
        self._require("ship order", len(rows) == 1, f"{order} is not there")
        self._journal.wrote(order, status="shipped")
        ((status,),) = await session.fetch("read status", sql.READ_STATUS, int(order.key[0])) or [(None,)]
        self._expect("read status", order, "status", status)

    async def _delete_order(self, session: Session) -> None:
        if len(self._orders) < 2:
            return
        order = self._orders.popleft()
        with self._journal.attempt(order.row, *order.lines):
            await session.fetch("delete order", sql.DELETE_ORDER, int(order.row.key[0]))
        for row in (order.row, *order.lines):
            self._journal.deleted(row)
        rows = await session.fetch("read deleted", sql.READ_ORDER, int(order.row.key[0]))
        self._require("read deleted", not rows, f"{order.row} was deleted, but is still read")

    async def _login(self, session: Session) -> None:
        number = self._own_user()
        user = Row("users", (str(number),))
        with self._journal.attempt(user):
            async with session.transaction():
                ((key,),) = await session.fetch("insert session", sql.INSERT_SESSION, number)
                ((settings,),) = await session.fetch("update login", sql.UPDATE_LOGIN, number)
        created = Row("sessions", (str(key),))
        self._journal.wrote(created, user_id=number)
        self._journal.wrote(user, settings=_loads(settings))
        self._sessions.append(created)

    async def _touch_session(self, session: Session) -> None:
        if not self._sessions:
            return
        touched = self._random.choice(self._sessions)
        seen = self._random.randrange(10**6)
        with self._journal.attempt(touched):
            await session.fetch("touch session", sql.TOUCH_SESSION, uuid.UUID(touched.key[0]), seen)
        self._journal.wrote(touched, data={"seen": seen})
        rows = await session.fetch("read session", sql.READ_SESSION, uuid.UUID(touched.key[0]))
        self._expect("read session", touched, "data", {"seen": rows[0][0]} if rows else None)

    async def _keep_session(self, session: Session) -> None:
        """Upsert: of a session of this client, or of one that is not there yet."""
        fresh = Row("sessions", (str(uuid.UUID(int=self._random.getrandbits(128), version=4)),))
        is_fresh = not self._sessions or self._random.random() < 0.5
        kept = fresh if is_fresh else self._random.choice(self._sessions)
        key, data = uuid.UUID(kept.key[0]), {"seen": self._random.randrange(10**6)}
        with self._journal.attempt(kept):
            await session.fetch("upsert session", sql.UPSERT_SESSION, key, self._own_user(), json.dumps(data))
        self._journal.wrote(kept, data=data)
        if is_fresh:
            self._sessions.append(kept)

    async def _logout(self, session: Session) -> None:
        if not self._sessions:
            return
        ended = self._sessions.popleft()
        with self._journal.attempt(ended):
            await session.fetch("delete session", sql.DELETE_SESSION, uuid.UUID(ended.key[0]))
        self._journal.deleted(ended)

    async def _edit_profile(self, session: Session) -> None:
        number = self._own_user()
        user = Row("users", (str(number),))
        tags = self._random.sample(_TAGS, self._random.randint(0, 4))
        theme = self._random.choice(["dark", "light", "plain"])
        with self._journal.attempt(user):
            ((credit, settings),) = await session.fetch("edit profile", sql.EDIT_PROFILE, number, tags, theme)
        known = self._journal.value(user, "credit")
        if isinstance(known, Decimal):
            self._require("edit profile", credit == known + 1, f"lost update: {known} + 1 = {credit}")
        self._journal.wrote(user, credit=credit, tags=tags, settings=_loads(settings))
        ((seen,),) = await session.fetch("read credit", sql.READ_CREDIT, number)
        self._expect("read credit", user, "credit", seen)

    async def _swap_emails(self, session: Session) -> None:
        """Exchange the unique e-mails of two users: no order of single rows can apply it."""
        first, second = sorted((self._own_user(), self._own_user()))
        if first == second:
            return
        rows = [Row("users", (str(number),)) for number in (first, second)]
        with self._journal.attempt(*rows):
            async with session.transaction():
                locked = await session.fetch("lock users", sql.LOCK_USERS, [first, second])
                emails = [email for _, email in locked]
                for row, email in zip(rows, emails, strict=True):
                    self._expect("lock users", row, "email", email)
                await session.fetch("swap e-mails", sql.SET_EMAIL, first, f"swap-{uuid.uuid4()}@example.com")
                await session.fetch("swap e-mails", sql.SET_EMAIL, second, emails[0])
                await session.fetch("swap e-mails", sql.SET_EMAIL, first, emails[1])
        self._journal.wrote(rows[0], email=emails[1])
        self._journal.wrote(rows[1], email=emails[0])

    async def _change_mind(self, session: Session) -> None:
        """Write, and roll back: to a savepoint first, then altogether."""
        number = self._own_user()
        try:
            async with session.transaction():
                await session.fetch("savepoint", "SAVEPOINT before_fee")
                await session.fetch("unwanted fee", sql.TAKE_FEE, number)
                await session.fetch("rollback to", "ROLLBACK TO SAVEPOINT before_fee")
                await session.fetch("unwanted fee", sql.TAKE_FEE, number)
                raise _RolledBack
        except _RolledBack:
            pass

    async def _record_events(self, session: Session) -> None:
        events = [
            (uuid.UUID(int=self._random.getrandbits(128), version=4), self._own_user(), json.dumps({"n": n}))
            for n in range(self._random.randint(1, 8))
        ]
        rows = [Row("events", (str(request),)) for request, _, _ in events]
        with self._journal.attempt(*rows):
            await session.many("insert events", sql.INSERT_EVENT, events)
        for n, row in enumerate(rows):
            self._journal.wrote(row, payload={"n": n})


class Workload:
    """All clients of the shop, through one URL.

    Args:
        url: Where the application connects: the proxy, or PostgreSQL itself.
        seed: Of every random choice; the same seed asks the same questions.
    """

    def __init__(self, url: str, journal: Journal, shape: Shape, *, seed: int = 1) -> None:
        self._url = url
        self._journal = journal
        self._shape = shape
        self._seed = seed
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def stop(self) -> None:
        """Let every client finish its operation, and wait until `run` has ended."""
        self._stopping.set()
        await self._ended.wait()

    async def run(self) -> None:
        """Work until `stop`."""
        shape = self._shape
        pool = await AsyncpgDriver.connect(self._url, self._journal, size=shape.asyncpg_clients_count)
        drivers: list[Driver] = [pool] * shape.asyncpg_clients_count
        drivers += [PsycopgDriver(self._url, self._journal) for _ in range(shape.psycopg_clients_count)]
        try:
            async with asyncio.TaskGroup() as group:
                for number, driver in enumerate(drivers):
                    client = Client(number, shape, driver, self._journal, self._seed)
                    group.create_task(client.run(self._stopping))
        finally:
            for driver in drivers[shape.asyncpg_clients_count - 1 :]:
                await driver.close()
            self._ended.set()
