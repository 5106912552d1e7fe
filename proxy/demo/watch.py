"""What the proxy says about itself, as values: its admin API and `verify --json`.

The only file of the demo that knows the shape of either answer. `Watch` asks for the
status five times a second; whoever waits for something to become true is woken by the
answer in which it is, and each such wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

from proxy.admin.status_model import DatabaseStatus
from proxy.admin.status_model import Status as FullStatus
from proxy.clock import now_s

_ASK_EVERY_S = 0.2
_ANSWER_TIMEOUT_S = 5


class TimedOut(Exception):
    """Something did not become true in time; the message has the last status."""


class Status(NamedTuple):
    """One database's part of `/api/status`, as far as the demo looks at it."""

    authority: str  # "old", "new", or "" in the middle of a switch
    epoch: int
    has_converged: bool  # the engine is at work, and has something to show for it
    reads_on_new_ratio: float
    ledger_entries: int
    ledger_oldest_s: float
    backfill_state: str
    backfill_ratio: float
    backfill_rows: int
    refusals: tuple[str, ...]  # gates that do not hold, each with its reason
    refused: str | None  # why the switch that the file asks for was refused
    pause_s: float | None  # of the latest switch

    @classmethod
    def of(cls, database: DatabaseStatus) -> Status:
        """Pick it from the answer."""
        engine, ledger, backfill = database["engine"], database["ledger"], database["backfill"]
        chunks = sum(table["chunks"] for table in backfill["tables"])
        done = sum(table["chunks_done"] for table in backfill["tables"])
        pause_ms = database["switches"][0]["pause_ms"] if database["switches"] else None
        return cls(
            authority=database["authority"] or "",
            epoch=database["epoch"],
            has_converged=engine["owner"] is not None and engine["success_ratio"] is not None,
            reads_on_new_ratio=database["rollout"]["reads_on_new_ratio"],
            ledger_entries=ledger["entries"],
            ledger_oldest_s=ledger["oldest_s"],
            backfill_state=backfill["state"],
            backfill_ratio=done / chunks if chunks else 0.0,
            backfill_rows=sum(table["rows"] for table in backfill["tables"]),
            refusals=tuple(
                f"{gate['name']}: {gate['reason']}" for gate in database["gates"] if not gate["passed"]
            ),
            refused=database["rollout"]["refused"],
            pause_s=None if pause_ms is None else pause_ms / 1000,
        )


class Verification(NamedTuple):
    """What `crossfade verify --json` found."""

    rows_count: int
    differences: tuple[str, ...]
    pending_count: int = 0  # rows whose difference the ledger explains: none, once it is empty

    @classmethod
    def parse(cls, output: str) -> Verification:
        """Read what the command printed."""
        tables = json.loads(output)["tables"]
        return cls(
            sum(table["rows"] for table in tables),
            tuple(
                f"{table['table']}({', '.join(row['key'])}) {row['kind']}"
                for table in tables
                for row in table["differing"]
            ),
            sum(table["pending"] for table in tables),
        )


class Watch:
    """The status of one database, asked for again and again.

    Args:
        url: Root of the admin API.
        on_change: Called after every answer.
    """

    def __init__(self, url: str, database: str, on_change: Callable[[], None]) -> None:
        self._url = url
        self._database = database
        self._on_change = on_change
        self._answered = asyncio.Condition()
        self._asked_s = 0.0  # when the latest answer was asked for
        self.latest: Status | None = None

    async def run(self) -> None:
        """Ask until cancelled. An answer that does not come leaves the latest one standing."""
        while True:
            asked_s = now_s()
            # Not up yet, or busy: whoever waits has a limit of its own.
            with contextlib.suppress(OSError):
                self._take(await asyncio.to_thread(self._ask), asked_s)
            async with self._answered:
                self._answered.notify_all()
            self._on_change()
            await asyncio.sleep(_ASK_EVERY_S)

    def _ask(self) -> FullStatus:
        with urllib.request.urlopen(f"{self._url}/api/status", timeout=_ANSWER_TIMEOUT_S) as answer:
            status: FullStatus = json.load(answer)
        return status

    def _take(self, answer: FullStatus, asked_s: float) -> None:
        # A database that could not be read just now is missing from the answer.
        if self._database in answer["databases"]:
            self._asked_s = asked_s
            self.latest = Status.of(answer["databases"][self._database])

    async def until(self, what: str, is_true: Callable[[Status], bool], *, timeout_s: float) -> Status:
        """Wait for a status, asked for from now on, in which something is true; return it.

        Raises:
            TimedOut: It did not become true in time.
        """
        from_s = now_s()
        async with self._answered:
            try:
                async with asyncio.timeout(timeout_s):
                    while self.latest is None or self._asked_s < from_s or not is_true(self.latest):
                        await self._answered.wait()
            except TimeoutError:
                late = f"{what}: not within {timeout_s:.0f} s; the latest status: {self.latest}"
                raise TimedOut(late) from None
            return self.latest
