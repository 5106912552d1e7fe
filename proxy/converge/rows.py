"""COPY streams from one cluster into the other, undecoded.

The chunks are whatever the driver reads from the socket. A short queue joins reader and
writer, so a slow target stops the reading and a range of any size is never in memory.

Rule 1: when the target refuses, the rest of the source's stream is read and dropped, so
that the source's transaction, and with it the snapshot, survives.

Rule 2: when the source fails, the target's COPY is failed too: half a stream must
never look like a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

import asyncpg

from proxy.ledger.connection import DRIVER_FAILURES

Format = Literal["binary", "text"]

_QUEUE_CHUNKS_MAX = 8
_COPY_TIMEOUT_S = 600.0


class Into(NamedTuple):
    """Where a stream goes; schema None is a temporary table."""

    schema: str | None
    name: str
    columns: list[str]


class SourceRefused(Exception):
    """The source could not produce the rows; `cause` is what it or the network said.

    `table_id` tells of which table, where that is known.
    """

    def __init__(self, cause: Exception, table_id: int | None = None) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.cause = cause
        self.table_id = table_id


class _SourceFailed(Exception):
    """The other half of the pipe failed; its own error says why."""


class _Pipe:
    """One stream on its way: what both halves know of each other."""

    def __init__(self) -> None:
        self.failure: Exception | None = None  # of the source
        self.refusal: Exception | None = None  # of the target
        self.rows_count = 0
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE_CHUNKS_MAX)
        self._is_read_out = False

    async def read(self, source: asyncpg.Connection, query: str, format: Format) -> None:
        try:
            await source.copy_from_query(
                query, output=self._queue.put, format=format, timeout=_COPY_TIMEOUT_S
            )
        except DRIVER_FAILURES as error:
            self.failure = error
        await self._queue.put(None)

    async def write(self, target: asyncpg.Connection, into: Into, format: Format) -> None:
        try:
            done = await target.copy_to_table(
                into.name,
                source=self._chunks(),
                schema_name=into.schema,
                columns=into.columns,
                format=format,
                timeout=_COPY_TIMEOUT_S,
            )
            self.rows_count = int(done.rpartition(" ")[2])
        except _SourceFailed:
            pass
        except DRIVER_FAILURES as error:
            self.refusal = error
        while not self._is_read_out:
            self._is_read_out = await self._queue.get() is None

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self._queue.get()) is not None:
            yield chunk
        self._is_read_out = True
        if self.failure is not None:
            raise _SourceFailed


async def pipe(
    source: asyncpg.Connection, query: str, target: asyncpg.Connection, into: Into, *, format: Format
) -> int:
    """Copy a query's rows into a table of the other cluster; return how many rows.

    Raises:
        SourceRefused: The source's half failed; its transaction is aborted.
        asyncpg.PostgresError: The target's half failed; the source's transaction lives on.
    """
    stream = _Pipe()
    async with asyncio.TaskGroup() as halves:
        halves.create_task(stream.read(source, query, format))
        halves.create_task(stream.write(target, into, format))
    if stream.failure is not None:
        raise SourceRefused(stream.failure) from stream.failure
    if stream.refusal is not None:
        raise stream.refusal
    return stream.rows_count
