"""What the clients were told: every acknowledged write, and every statement's wait.

A row belongs to one client, which alone writes it, so the last acknowledged value is
the row's value and nothing else can be. Rows that all clients write hold sums; there
the acknowledged deltas must add up. Rule 1: a write is noted after its commit was
acknowledged, never before. Rule 2: a row whose write failed is `uncertain`, since a
failed COMMIT may have happened, until a later acknowledged write settles it.

Values are kept as PostgreSQL's to_jsonb shows them, so that one query compares any
table: numbers, strings, lists, objects; uuid and timestamps are strings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg

_KEYS_PER_QUERY = 5000
_WAITS_MAX = 300_000  # some minutes' worth: `--keep` may run for days


class Row(NamedTuple):
    """A row's name: its table, and its key as text."""

    table: str
    key: tuple[str, ...]


class Lost(NamedTuple):
    """An acknowledged write that a database does not have."""

    row: Row
    column: str  # "" when the whole row is missing, or is there although deleted
    expected: object
    found: object

    def __str__(self) -> str:
        where = f"{self.row.table}({', '.join(self.row.key)})" + (self.column and f".{self.column}")
        return f"{where}: acknowledged {self.expected!r}, found {self.found!r}"


class Wait(NamedTuple):
    """One statement's time on the client's side."""

    started_s: float
    duration_s: float
    operation: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """The load so far."""

    statements_count: int
    failures_count: int
    writes_count: int
    longest_wait_s: float
    p50_s: float
    p99_s: float
    failures: tuple[tuple[str, int], ...]


class Journal:
    """The log of all clients; one event loop writes it, so it needs no lock.

    Args:
        keys: Key columns of every table, by name.
    """

    def __init__(self, keys: dict[str, tuple[str, ...]]) -> None:
        self._keys = keys
        self._values: dict[Row, dict[str, object]] = {}
        self._deleted: set[Row] = set()
        self._uncertain: set[Row] = set()
        self._sums: dict[Row, dict[str, int]] = {}
        self._waits: deque[Wait] = deque(maxlen=_WAITS_MAX)
        self._statements_count = 0
        self._awaited: list[tuple[int, asyncio.Event]] = []  # until that many statements
        self._recent: deque[float] = deque(maxlen=2000)
        self._failures: Counter[str] = Counter()
        self._writes_count = 0

    def is_deleted(self, row: Row) -> bool:
        """Return whether the last acknowledged write deleted the row."""
        return row in self._deleted

    def value(self, row: Row, column: str) -> object | None:
        """Return the acknowledged value; None where it is not known."""
        return None if row in self._uncertain else self._values.get(row, {}).get(column)

    def wrote(self, row: Row, **columns: object) -> None:
        """Note that these columns of the row were acknowledged."""
        self._writes_count += 1
        self._deleted.discard(row)
        if row in self._uncertain:
            # The other columns are known no longer, unlike these.
            self._uncertain.discard(row)
            self._values[row] = {}
        self._values.setdefault(row, {}).update(columns)

    def deleted(self, row: Row) -> None:
        """Note that the row's deletion was acknowledged."""
        self._writes_count += 1
        self._values.pop(row, None)
        self._uncertain.discard(row)
        self._deleted.add(row)

    def added(self, row: Row, column: str, delta: int, *, initial: int = 0) -> None:
        """Note an acknowledged change of a sum that all clients write."""
        self._writes_count += 1
        sums = self._sums.setdefault(row, {})
        sums[column] = sums.get(column, initial) + delta

    @contextlib.contextmanager
    def attempt(self, *rows: Row) -> Iterator[None]:
        """Around a write of these rows: when it fails, they are uncertain."""
        try:
            yield
        except BaseException:
            self._uncertain.update(rows)
            raise

    def waited(
        self, started_s: float, duration_s: float, operation: str, *, is_statement: bool = True
    ) -> None:
        """Note how long a client waited, for one statement or for a connection."""
        self._statements_count += is_statement
        for awaited in [pair for pair in self._awaited if pair[0] <= self._statements_count]:
            awaited[1].set()
            self._awaited.remove(awaited)
        self._waits.append(Wait(started_s, duration_s, operation))
        self._recent.append(duration_s)

    async def wait_statements(self, count: int) -> None:
        """Wait until the clients have run this many more statements."""
        reached = asyncio.Event()
        self._awaited.append((self._statements_count + count, reached))
        await reached.wait()

    def failed(self, operation: str, reason: str) -> None:
        """Count a failed statement under its error."""
        self._failures[f"{operation}: {reason}"] += 1

    def longest_wait(self, from_s: float, until_s: float) -> Wait:
        """Return the longest wait of a statement that was under way in this span of time."""
        under_way = (
            wait
            for wait in reversed(self._waits)
            if wait.started_s <= until_s and wait.started_s + wait.duration_s >= from_s
        )
        return max(under_way, key=lambda wait: wait.duration_s, default=Wait(from_s, 0.0, "none"))

    def statistics(self) -> Statistics:
        """Return the counts so far; the percentiles are of the latest 2,000 statements."""
        recent = sorted(self._recent) or [0.0]
        return Statistics(
            statements_count=self._statements_count,
            failures_count=self._failures.total(),
            writes_count=self._writes_count,
            longest_wait_s=recent[-1],
            p50_s=recent[len(recent) // 2],
            p99_s=recent[len(recent) * 99 // 100],
            failures=tuple(self._failures.most_common(10)),
        )

    async def lost(self, connection: asyncpg.Connection[Any]) -> list[Lost]:
        """Return what this database lacks of the acknowledged writes."""
        lost: list[Lost] = []
        for table in self._keys:
            rows = [row for row in self._expected_rows() if row.table == table]
            for start in range(0, len(rows), _KEYS_PER_QUERY):
                part = rows[start : start + _KEYS_PER_QUERY]
                found = await self._read(connection, table, part)
                lost += [item for row in part for item in self._differences(row, found.get(row.key))]
        return lost

    def _expected_rows(self) -> Iterable[Row]:
        return (self._values.keys() | self._deleted | self._sums.keys()) - self._uncertain

    async def _read(
        self, connection: asyncpg.Connection[Any], table: str, rows: list[Row]
    ) -> dict[tuple[str, ...], dict[str, object]]:
        """Return the rows as to_jsonb shows them, by key; only those that exist."""
        columns = self._keys[table]
        arrays = ", ".join(f"${n}::text[]" for n in range(1, len(columns) + 1))
        types = await connection.fetch(
            "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
            " WHERE attrelid = $1::regclass AND attname = ANY ($2)",
            table,
            list(columns),
        )
        type_of = {record["attname"]: record["type"] for record in types}
        pairs = (f"t.{column} = k.k{n}::{type_of[column]}" for n, column in enumerate(columns))
        condition = " AND ".join(pairs)
        names = ", ".join(f"k{n}" for n in range(len(columns)))
        records = await connection.fetch(
            f"SELECT to_jsonb(t)::text AS shown, {names} FROM unnest({arrays}) k({names})"
            f" JOIN {table} t ON {condition}",
            *[[row.key[n] for row in rows] for n in range(len(columns))],
        )
        return {
            tuple(record[f"k{n}"] for n in range(len(columns))): json.loads(
                record["shown"], parse_float=Decimal, parse_int=Decimal
            )
            for record in records
        }

    def _differences(self, row: Row, found: dict[str, object] | None) -> Iterator[Lost]:
        if row in self._deleted:
            if found is not None:
                yield Lost(row, "", "deleted", "still there")
            return
        if found is None:
            yield Lost(row, "", "written", "missing")
            return
        expected = self._values.get(row, {}) | self._sums.get(row, {})
        for column, value in expected.items():
            if found[column] != value:
                yield Lost(row, column, value, found[column])
