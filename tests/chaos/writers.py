"""Clients that write through the proxy and remember what was acknowledged to them.

Each writer owns its rows, so that what must be there afterwards is known exactly: for
every row the last acknowledged version or, if the acknowledgement of the next one was lost
with the connection, that one. Its counter has counted every acknowledged step once, and
every doubtful one at most once. What it has written it must read.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from dataclasses import dataclass, field

import asyncpg

from proxy.demo.clusters import Cluster

WRITERS_MAX = 10
ROWS_COUNT = 20_000
SCHEMA = f"""
CREATE TABLE accounts (id int PRIMARY KEY, version int NOT NULL, note text);
CREATE TABLE requests (request text PRIMARY KEY, account int NOT NULL);
CREATE TABLE names (id bigserial PRIMARY KEY, owner int NOT NULL, name text UNIQUE);
CREATE TABLE counters (number int PRIMARY KEY, total int NOT NULL);
INSERT INTO accounts SELECT n, 0, repeat('x', n % 50) FROM generate_series(1, {ROWS_COUNT}) n;
INSERT INTO counters SELECT n, 0 FROM generate_series(0, {WRITERS_MAX - 1}) n;
"""
EMPTY_SCHEMA = SCHEMA.replace("INSERT INTO", "-- INSERT INTO")
TABLES = ("accounts", "requests", "names", "counters")
GONE = -1
PACE_S = 0.02  # between two writes of one client, so that a small machine has time for the rest

# What a killed proxy looks like from the outside; anything else is a failure. 40001 is the
# answer inside a transaction whose authority moved: the kill took the hold with it.
LOST = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError,
    asyncpg.SerializationError,
    asyncpg.InternalClientError,  # the driver's, after a FATAL that came between two statements
)  # fmt: skip


@dataclass
class Writer:
    """One client; `versions` holds the acknowledged version of each of its rows."""

    number: int
    url: str
    random: random.Random
    may_be_lost: bool  # the proxy is being killed: a lost connection is no failure
    versions: dict[int, int] = field(default_factory=dict)
    doubtful: dict[int, int] = field(default_factory=dict)  # sent, and the answer was lost
    requests: set[str] = field(default_factory=set)
    names: dict[int, str] = field(default_factory=dict)
    counted: int = 0
    counted_doubtful: int = 0
    failures: list[str] = field(default_factory=list)
    waits_s: list[tuple[float, float]] = field(default_factory=list)  # when answered, how long it took

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop, over a new connection whenever the last was lost."""
        while not stop.is_set():
            try:
                connection = await asyncpg.connect(self.url, timeout=20)
            except LOST as error:
                self._lost(error)
                await asyncio.sleep(0.02)
                continue
            try:
                while not stop.is_set():
                    await self._write(connection)
            except LOST as error:
                self._lost(error)
            except asyncpg.PostgresError as error:
                self.failures.append(f"{error.sqlstate}: {error}")
            finally:
                connection.terminate()

    def _lost(self, error: Exception) -> None:
        if not self.may_be_lost:
            self.failures.append(f"{type(error).__name__}: {error}")

    async def _write(self, connection: asyncpg.Connection) -> None:
        account = self.number + WRITERS_MAX * self.random.randint(1, 500)
        began_s = time.monotonic()
        action = self.random.choice(
            (self._upsert, self._update, self._transaction, self._delete, self._count, self._swap)
        )
        await action(connection, account)
        now_s = time.monotonic()
        self.waits_s.append((now_s, now_s - began_s))
        await asyncio.sleep(self.random.random() * 2 * PACE_S)

    async def _upsert(self, connection: asyncpg.Connection, account: int) -> None:
        version = self._next(account)
        self.doubtful[account] = version
        await connection.execute(
            "INSERT INTO accounts (id, version) VALUES ($1, $2)"
            " ON CONFLICT (id) DO UPDATE SET version = excluded.version",
            account,
            version,
        )
        self._acknowledged(account)

    async def _update(self, connection: asyncpg.Connection, account: int) -> None:
        """An UPDATE, which finds no row where it was deleted; and what it wrote is read."""
        version = self._next(account)
        known = self.versions.get(account, 0) if account not in self.doubtful else None
        if known is None or known == GONE:
            return
        self.doubtful[account] = version
        update = "UPDATE accounts SET version = $2 WHERE id = $1 RETURNING version"
        seen = await connection.fetchval(update, account, version)
        self._acknowledged(account)
        read = await connection.fetchval("SELECT version FROM accounts WHERE id = $1", account)
        if (seen, read) != (version, version):
            self.failures.append(f"account {account}: wrote {version}, got back {seen}, read {read}")

    async def _transaction(self, connection: asyncpg.Connection, account: int) -> None:
        version = self._next(account)
        request = f"{self.number}-{len(self.requests)}-{self.random.getrandbits(40)}"
        self.doubtful[account] = version
        async with connection.transaction():
            await connection.execute("INSERT INTO requests VALUES ($1, $2)", request, account)
            await connection.execute("DELETE FROM accounts WHERE id = $1", account)
            await connection.execute(f"INSERT INTO accounts (id, version) VALUES ({account}, {version})")
        self.requests.add(request)
        self._acknowledged(account)

    async def _delete(self, connection: asyncpg.Connection, account: int) -> None:
        self.doubtful[account] = GONE
        await connection.execute("DELETE FROM accounts WHERE id = $1", account)
        self._acknowledged(account)

    async def _count(self, connection: asyncpg.Connection, _: int) -> None:
        """One more; a statement that was run twice would show."""
        self.counted_doubtful += 1
        await connection.execute(f"UPDATE counters SET total = total + 1 WHERE number = {self.number}")
        self.counted_doubtful -= 1
        self.counted += 1

    async def _swap(self, connection: asyncpg.Connection, _: int) -> None:
        """Make two rows with names of their own, then exchange the names, which are unique."""
        first, second = (f"{self.number}-{self.random.getrandbits(60)}" for _ in range(2))
        insert = "INSERT INTO names (owner, name) VALUES ($1, $2) RETURNING id"
        async with connection.transaction():
            here, there = [await connection.fetchval(insert, self.number, name) for name in (first, second)]
        await connection.execute(
            f"BEGIN; UPDATE names SET name = NULL WHERE id = {here};"
            f" UPDATE names SET name = '{first}' WHERE id = {there};"
            f" UPDATE names SET name = '{second}' WHERE id = {here}; COMMIT"
        )
        self.names |= {here: second, there: first}

    def _next(self, account: int) -> int:
        return max(self.versions.get(account, 0), self.doubtful.get(account, 0), 0) + self.random.randint(
            1, 3
        )

    def _acknowledged(self, account: int) -> None:
        self.versions[account] = self.doubtful.pop(account)

    def missing(self, found: Found) -> list[str]:
        """Return every acknowledged write that a database does not show."""
        wrong = [f"request {request}" for request in self.requests - found.requests]
        for account, version in self.versions.items():
            allowed = {version, self.doubtful.get(account, version)}
            shown = found.versions.get(account, GONE)
            if shown not in allowed:
                wrong.append(f"account {account}: {shown}, acknowledged {allowed}")
        wrong += [f"name {key}: {name}" for key, name in self.names.items() if found.names.get(key) != name]
        steps, counted = found.counters[self.number], self.counted
        if not counted <= steps <= counted + self.counted_doubtful:
            wrong.append(f"counter {self.number}: {steps}, acknowledged {counted} of which none twice")
        return wrong


@dataclass
class Found:
    """What a database shows."""

    versions: dict[int, int]
    requests: set[str]
    names: dict[int, str]
    counters: dict[int, int]


async def missing(url: str, writers: list[Writer]) -> list[str]:
    """Return what one database lacks of all that was acknowledged."""
    connection = await asyncpg.connect(url)
    found = Found(
        versions=dict(await connection.fetch("SELECT id, version FROM accounts")),
        requests={row["request"] for row in await connection.fetch("SELECT request FROM requests")},
        names=dict(await connection.fetch("SELECT id, name FROM names")),
        counters=dict(await connection.fetch("SELECT number, total FROM counters")),
    )
    await connection.close()
    return [wrong for writer in writers for wrong in writer.missing(found)]


def contents(cluster: Cluster, url: str) -> str:
    """Return all rows of a database as text, in the order of their keys."""
    copies = [f"COPY (SELECT * FROM {table} ORDER BY 1) TO STDOUT;" for table in TABLES]
    return cluster.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", url, text="\n".join(copies))


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in listed.stdout.split()]
