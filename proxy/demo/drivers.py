"""The two drivers that applications really use, behind one small face.

Both prepare statements on their own accord: asyncpg always, psycopg from a statement's
fifth execution. Every statement's wait is noted in the journal, from the call to the
whole answer. A failure is counted once, where it happened, and raised as `Failed`;
nothing is ever sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import asyncpg
import psycopg

from proxy.clock import now_s
from proxy.demo.journal import Journal

Record = Sequence[Any]

_CONNECT_TIMEOUT_S = 15
_STATEMENT_TIMEOUT_S = 60


class Failed(Exception):
    """A statement failed; it is already counted."""


class Session(Protocol):
    """One connection, lent to one operation."""

    async def fetch(self, operation: str, sql: str, *arguments: object) -> list[Record]:
        """Run one statement with `$1` parameters; return its rows."""

    async def many(self, operation: str, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement for each of these rows, in one go."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Around the statements of one transaction; an exception rolls it back."""


class Driver(Protocol):
    """Lends sessions of one client."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Return a session, connected."""

    async def close(self) -> None:
        """Close its connections."""


@contextlib.contextmanager
def _noted(journal: Journal, operation: str, *, is_statement: bool = True) -> Iterator[None]:
    """Note the wait of what runs inside, and its failure."""
    started_s = now_s()
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError, TimeoutError) as error:
        journal.failed(operation, f"{getattr(error, 'sqlstate', None) or type(error).__name__} {error}")
        raise Failed(operation) from error
    finally:
        journal.waited(started_s, now_s() - started_s, operation, is_statement=is_statement)


class _AsyncpgSession:
    def __init__(self, connection: Any, journal: Journal) -> None:
        self._connection = connection
        self._journal = journal

    async def fetch(self, operation: str, sql: str, *arguments: object) -> list[Record]:
        with _noted(self._journal, operation):
            return list(await self._connection.fetch(sql, *arguments))

    async def many(self, operation: str, sql: str, rows: Sequence[Sequence[object]]) -> None:
        with _noted(self._journal, operation):
            await self._connection.executemany(sql, rows)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        transaction = self._connection.transaction()
        with _noted(self._journal, "begin"):
            await transaction.start()
        try:
            yield
        except BaseException:
            # After a failed statement the connection may be gone as well: one failure, counted once.
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await transaction.rollback()
            raise
        with _noted(self._journal, "commit"):
            await transaction.commit()


class AsyncpgDriver:
    """A pool, as web applications keep it: a session is a connection borrowed for one operation."""

    def __init__(self, pool: asyncpg.Pool[Any], journal: Journal) -> None:
        self._pool = pool
        self._journal = journal

    @classmethod
    async def connect(cls, url: str, journal: Journal, *, size: int) -> AsyncpgDriver:
        """Open a pool of `size` connections."""
        pool = await asyncpg.create_pool(
            url,
            min_size=size,
            max_size=size,
            timeout=_CONNECT_TIMEOUT_S,
            command_timeout=_STATEMENT_TIMEOUT_S,
            server_settings={"application_name": "shop"},
        )
        return cls(pool, journal)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        with _noted(self._journal, "acquire", is_statement=False):
            connection = await self._pool.acquire()
        try:
            yield _AsyncpgSession(connection, self._journal)
        finally:
            # It resets the connection's settings: a round trip of its own.
            with _noted(self._journal, "release"):
                await self._pool.release(connection)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), _CONNECT_TIMEOUT_S)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()


class _PsycopgSession:
    def __init__(self, connection: psycopg.AsyncConnection[Any], journal: Journal) -> None:
        self._connection = connection
        self._journal = journal

    async def fetch(self, operation: str, sql: str, *arguments: object) -> list[Record]:
        with _noted(self._journal, operation):
            async with asyncio.timeout(_STATEMENT_TIMEOUT_S):
                cursor = await self._connection.execute(sql.encode(), arguments)
                return list(await cursor.fetchall()) if cursor.description else []

    async def many(self, operation: str, sql: str, rows: Sequence[Sequence[object]]) -> None:
        # psycopg sends these as one pipeline.
        with _noted(self._journal, operation):
            async with asyncio.timeout(_STATEMENT_TIMEOUT_S), self._connection.transaction():
                await self._connection.cursor().executemany(sql.encode(), rows)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with _noted(self._journal, "begin"):
            await self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(psycopg.Error, OSError):
                await self._connection.execute("ROLLBACK")
            raise
        with _noted(self._journal, "commit"):
            await self._connection.execute("COMMIT")


class PsycopgDriver:
    """One long-lived connection in autocommit, opened again only after it was lost."""

    def __init__(self, url: str, journal: Journal) -> None:
        self._url = url
        self._journal = journal
        self._connection: psycopg.AsyncConnection[Any] | None = None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        if self._connection is None or self._connection.closed:
            with _noted(self._journal, "connect", is_statement=False):
                # Raw cursors send `$1` as it stands, so both drivers share their SQL.
                self._connection = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    cursor_factory=psycopg.AsyncRawCursor,
                )
        yield _PsycopgSession(self._connection, self._journal)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
