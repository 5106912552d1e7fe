"""Two proxies before one pair of databases, a TCP balancer before both, and the clients of a bank.

A client moves money between accounts. Every transfer has a request id, and is asked for again
under the same id when its answer was lost, as a careful application does. So afterwards it
is known exactly what must be there: each request once, and each account the sum of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import asyncpg

from tests.chaos.writers import children
from tests.running import Running

TRAPPED = Path(__file__).parent / "trapped"
ACCOUNTS = 200
SCHEMA = f"""
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
CREATE TABLE requests (
    id text PRIMARY KEY, number bigserial, payer int NOT NULL, payee int NOT NULL, amount int NOT NULL);
INSERT INTO accounts (id) SELECT generate_series(1, {ACCOUNTS});
"""
EMPTY_SCHEMA = SCHEMA.replace("INSERT INTO", "-- INSERT INTO")
PAY = "UPDATE accounts SET balance = balance + $2 WHERE id = $1"
ENTER = "INSERT INTO requests (id, payer, payee, amount) VALUES ($1, $2, $3, $4)"
LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
)
_BUCKETS_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Client:
    """One client of the bank; `done` holds the requests that it knows to be done."""

    def __init__(self, number: int, url: str, *, pace_s: float) -> None:
        self.done: set[str] = set()
        self.waits: list[tuple[float, float]] = []  # when sent, when answered
        self.failures: list[str] = []
        self.lost_count = 0
        self.refused_count = 0  # by 40001
        self._number = number
        self._url = url
        self._pace_s = pace_s
        self._chance = random.Random(number)

    async def run(self, stop: asyncio.Event) -> None:
        """Move money until told to stop; the last transfer is done when this returns."""
        connection: asyncpg.Connection | None = None
        try:
            while not stop.is_set():
                connection = await self._move_money(connection)
                await asyncio.sleep(self._chance.random() * 2 * self._pace_s)
                if self.failures:
                    return
        finally:
            if connection is not None:
                connection.terminate()

    async def _move_money(self, connection: asyncpg.Connection | None) -> asyncpg.Connection | None:
        """Get one transfer done, however often it takes; return the connection that is open now."""
        request = f"{self._number}-{len(self.done)}-{self._chance.getrandbits(40)}"
        payer, payee = sorted(self._chance.sample(range(1, ACCOUNTS + 1), 2))
        while True:
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self._url, timeout=20)
                await self._transfer(connection, request, payer, payee, self._chance.randint(-50, 50))
                break
            except asyncpg.SerializationError:
                self.refused_count += 1
            except asyncpg.UniqueViolationError:
                break  # the answer was lost, and it had been done
            except LOST:
                self.lost_count += 1
                if connection is not None:
                    connection.terminate()
                await asyncio.sleep(0.05)
            except asyncpg.PostgresError as error:
                self.failures.append(f"{error.sqlstate}: {error}")
                return connection
        self.done.add(request)
        return connection

    async def _transfer(
        self, connection: asyncpg.Connection, request: str, payer: int, payee: int, amount: int
    ) -> None:
        began_s = time.monotonic()
        if self._number % 2:
            async with connection.transaction():
                await connection.execute(ENTER, request, payer, payee, amount)
                await connection.execute(PAY, payer, -amount)
                await connection.execute(PAY, payee, amount)
        else:  # one request, the simple protocol
            await connection.execute(
                "INSERT INTO requests (id, payer, payee, amount)"
                f" VALUES ('{request}', {payer}, {payee}, {amount});"
                f"UPDATE accounts SET balance = balance - {amount} WHERE id = {payer};"
                f"UPDATE accounts SET balance = balance + {amount} WHERE id = {payee}"
            )
        self.waits.append((began_s, time.monotonic()))

    def longest_ms(self, since_s: float, until_s: float) -> float:
        """Return the longest wait of all that overlap a stretch of time."""
        found = [end - begin for begin, end in self.waits if end >= since_s and begin <= until_s]
        return max(found, default=0.0) * 1000


def histogram(waits_ms: list[float]) -> str:
    """Return how many waits lie below each bound."""
    bounds = [*_BUCKETS_MS, float("inf")]
    counts = dict.fromkeys(bounds, 0)
    for wait_ms in waits_ms:
        counts[next(bound for bound in bounds if wait_ms <= bound)] += 1
    return ", ".join(f"<= {bound:g} ms: {count}" for bound, count in counts.items() if count)


async def wrong(url: str, clients: list[Client]) -> list[str]:
    """Return what one database shows that cannot be, given what the clients know."""
    connection = await asyncpg.connect(url)
    try:
        found = {row["id"] for row in await connection.fetch("SELECT id FROM requests")}
        unbalanced = await connection.fetch(
            "SELECT a.id, a.balance, s.total FROM accounts a CROSS JOIN LATERAL (SELECT coalesce(sum("
            " CASE a.id WHEN r.payer THEN -r.amount ELSE r.amount END), 0) AS total"
            " FROM requests r WHERE a.id IN (r.payer, r.payee)) s WHERE a.balance <> s.total"
        )
        total = await connection.fetchval("SELECT sum(balance) FROM accounts")
    finally:
        await connection.close()
    known = {request for client in clients for request in client.done}
    problems = [f"lost: {request}" for request in known - found]
    problems += [f"nobody's: {request}" for request in found - known]
    problems += [f"account {row['id']}: {row['balance']}, not {row['total']}" for row in unbalanced]
    return problems + ([f"the sum is {total}"] if total else [])


class Balancer:
    """A TCP balancer: each connection goes to the next proxy in turn that takes it."""

    def __init__(self, ports: list[int]) -> None:
        self.port = 0
        self._ports = ports
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self._open:
            for writer in self._open:
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            for _ in self._ports:
                self._ports.append(self._ports.pop(0))
                with suppress(OSError):
                    their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._ports[-1])
                    break
            else:
                return
            self._open.add(their_writer)
            await asyncio.gather(_copy(reader, their_writer), _copy(their_reader, writer))
            self._open.discard(their_writer)
        finally:
            writer.transport.abort()
            self._open.discard(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Relay one direction; its end is the end of both."""
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()


class Fleet:
    """Two `crossfade serve` before the same databases, each with its own file.

    Args:
        has_traps: They can be killed at a point; see `chaos/trapped`.
    """

    def __init__(self, folder: Path, old: str, new: str, *, has_traps: bool = False) -> None:
        self.old, self.new = old, new
        self.proxies: list[Running] = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            proxy = Running(folder / name, old, new)
            if has_traps:
                paths = [str(TRAPPED), *filter(None, [os.environ.get("PYTHONPATH")])]
                proxy.environment = {
                    "CROSSFADE_TRAP": str(folder / name), "PYTHONPATH": os.pathsep.join(paths)
                }  # fmt: skip
            self.proxies.append(proxy)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.proxies[0].command("init")
        for proxy in self.proxies:
            await asyncio.to_thread(self._stack.enter_context(proxy).start)
        await (await self.owner()).wait_converged()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def owner(self) -> Running:
        """Return the proxy whose engine has the lease."""
        async with asyncio.timeout(60):
            while True:
                for proxy in self.proxies:
                    with suppress(OSError):
                        if (await asyncio.to_thread(proxy.status))["engine"]["owner"] is not None:
                            return proxy
                await asyncio.sleep(0.02)

    def other(self, proxy: Running) -> Running:
        """Return the other of the two."""
        return self.proxies[1 - self.proxies.index(proxy)]

    async def ready(self) -> None:
        """Wait until the gates are open."""
        owner = await self.owner()
        await owner.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))

    def order(self, to: str) -> None:
        """Order a switch as operators do: both files say so."""
        for proxy in self.proxies:
            proxy.database.setdefault("rollout", {})["writes_on"] = to
            proxy.write()

    async def settle(self, to: str) -> None:
        """Wait until both proxies know that the authority is there."""
        for proxy in self.proxies:
            if proxy.process is not None:
                await proxy.wait_for(lambda told: told["authority"] == to)


def signalled(proxy: Running, number: signal.Signals) -> None:
    """Send a signal to all processes of a proxy, children first."""
    assert proxy.process is not None
    for pid in (*children(proxy.process.pid), proxy.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Wait for something that a client or proxy will do."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
