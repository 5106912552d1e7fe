"""Which servers are up, how fresh each is, and who the authority is.

Freshness without clocks of other machines: the monitor notes its own clock, *then* reads
the authority's position. Whatever was acknowledged before the noted time is part of that
position, so a server that has reached the position is fresh until the noted time.

    a replica of the authority    replayed the WAL up to the position's LSN
    the mirror's primary          converged up to a snapshot that dominates the position's
    a replica of the mirror       replayed the mirror's WAL up to where the mirror was fresh

Both primaries also say who is the authority, so a worker that missed a switch learns of it.
What a primary said may be older than what the worker knows already: only a newer epoch
counts. Positions belong to a reign, and are forgotten with it, whoever told of the new one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
import structlog

from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.ledger.connection import DRIVER_FAILURES
from proxy.ledger.snapshot import dominates
from proxy.routing.policy import NEVER_S, Freshness, Place, Side
from proxy.server.database import Database
from proxy.tls import contexts

_log = structlog.get_logger()
_POLL_INTERVAL_S = 0.05
_IDLE_INTERVAL_S = 0.5  # while nothing depends on how fresh a server is
_RETRY_INTERVAL_S = 0.5
_TIMEOUT_S = 3.0
_POSITIONS_MAX = 600  # half a minute of positions: a server further behind is not asked anyway

_PRIMARY = (
    "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS lsn, pg_current_snapshot()::text AS snapshot"
)
_STATE = ", s.is_authority, s.epoch, s.progress FROM crossfade.state s"
_REPLICA = (
    "SELECT pg_is_in_recovery() AS is_replica, coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0) AS lsn,"
    " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS age_s"
)


class Position(NamedTuple):
    """Where a primary was, and until when it is known to be complete."""

    complete_until_s: float
    lsn: int
    snapshot: str


@dataclass(slots=True)
class Reign:
    """What a primary says about who is the authority."""

    is_authority: bool
    epoch: int


class Monitor:
    """Poll every server of one database.

    Args:
        on_authority: Called when the clusters say that the authority is elsewhere.
    """

    def __init__(
        self, database: Database, on_authority: Callable[[Side, int], None], *, clock: Clock = now_s
    ) -> None:
        self._database = database
        self._on_authority = on_authority
        self._clock = clock
        self._positions: dict[Side, deque[Position]] = {side: deque(maxlen=_POSITIONS_MAX) for side in Side}
        self._reigns: dict[Side, Reign] = {}
        self._epoch = database.epoch  # of the reign that the positions belong to
        self._wake = asyncio.Event()

    def look_now(self) -> None:
        """Poll at once: somebody has reason to believe that something changed."""
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled; one task per server, restarted when the configuration changes."""
        while True:
            addresses = self._database.addresses()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._follow(place, dsn)) for place, dsn in addresses.items()]
                while self._database.addresses() == addresses:
                    await asyncio.sleep(_RETRY_INTERVAL_S)
                for task in tasks:
                    task.cancel()

    async def _follow(self, place: Place, dsn: Dsn) -> None:
        """Poll one server for ever, over one connection for as long as that lives."""
        while True:
            freshness = self._database.servers.get(place, Freshness())
            try:
                await self._follow_connection(place, dsn, freshness)
            except asyncpg.UndefinedTableError:
                self._database.on_schema_change()  # the migration was retired: there is no state any more
            except DRIVER_FAILURES as error:
                if freshness.is_up:
                    _log.warning(
                        "server is down", database=self._database.name, server=str(place), error=str(error)
                    )
                freshness.is_up = False
                freshness.fresh_until_s = NEVER_S
            await asyncio.sleep(_RETRY_INTERVAL_S)

    async def _follow_connection(self, place: Place, dsn: Dsn, freshness: Freshness) -> None:
        connection: asyncpg.Connection = await asyncpg.connect(
            dsn.url(),
            ssl=contexts.for_driver(dsn),
            timeout=_TIMEOUT_S,
            command_timeout=_TIMEOUT_S,
            server_settings={"application_name": "crossfade monitor"},
        )
        try:
            while True:
                if place.number:
                    await self._look_at_replica(connection, place, freshness)
                else:
                    await self._look_at_primary(connection, place, freshness)
                try:
                    async with asyncio.timeout(self._interval_s):
                        await self._wake.wait()
                    self._wake.clear()
                except TimeoutError:
                    pass
        finally:
            connection.terminate()

    @property
    def _interval_s(self) -> float:
        """How soon to look again."""
        return _POLL_INTERVAL_S if self._database.needs_freshness else _IDLE_INTERVAL_S

    async def _look_at_primary(
        self, connection: asyncpg.Connection, place: Place, freshness: Freshness
    ) -> None:
        noted_s = self._clock()
        query = _PRIMARY + (_STATE if self._database.has_state else "")
        row = await connection.fetchrow(query)
        if row is None:
            return
        freshness.is_up = True
        if self._database.has_state:
            self._reigns[place.side] = Reign(row["is_authority"], row["epoch"])
            self._judge_authority()
            if row["is_authority"] != (place.side is self._database.authority):
                return  # asked before a switch, answered after it: it says nothing of either reign
        if place.side is self._database.authority:
            freshness.fresh_until_s = noted_s
            freshness.lag_s = 0.0
            self._positions[place.side].append(Position(noted_s, int(row["lsn"]), row["snapshot"]))
            return
        progress = row["progress"] if self._database.has_state else None
        if progress is None:
            freshness.fresh_until_s = NEVER_S
            return
        reached = _reached(
            self._positions[place.side.other],
            # Positions without a snapshot are from before a switch, when that side was the mirror.
            lambda position: position.snapshot != "" and dominates(progress, position.snapshot),
        )
        self._advance(freshness, reached)
        self._database.settle_acks()
        self._positions[place.side].append(Position(freshness.fresh_until_s, int(row["lsn"]), ""))

    async def _look_at_replica(
        self, connection: asyncpg.Connection, place: Place, freshness: Freshness
    ) -> None:
        row = await connection.fetchrow(_REPLICA)
        if row is None:
            return
        freshness.is_up = bool(row["is_replica"])  # a promoted one is no replica of anybody
        if not freshness.is_up and not self._database.servers[Place(place.side, 0)].is_up:
            self._database.on_promotion()
        lsn = int(row["lsn"])
        reached = _reached(self._positions[place.side], lambda position: lsn >= position.lsn)
        self._advance(freshness, reached)

    def _advance(self, freshness: Freshness, reached_s: float) -> None:
        freshness.fresh_until_s = max(freshness.fresh_until_s, reached_s)
        if freshness.fresh_until_s > NEVER_S:
            freshness.lag_s = self._clock() - freshness.fresh_until_s

    def _judge_authority(self) -> None:
        """Follow a switch that somebody else performed: the newer epoch that claims authority wins."""
        claims = [(reign.epoch, side) for side, reign in self._reigns.items() if reign.is_authority]
        if claims and max(claims)[0] > self._database.epoch:
            epoch, side = max(claims)
            self._on_authority(side, epoch)
        if self._epoch != self._database.epoch:
            self._epoch = self._database.epoch
            for positions in self._positions.values():
                positions.clear()
            for freshness in self._database.servers.values():
                freshness.fresh_until_s = NEVER_S


def _reached(positions: deque[Position], has_reached: Callable[[Position], bool]) -> float:
    """Return until when a server is fresh that has reached some of a primary's positions."""
    for position in reversed(positions):
        if has_reached(position):
            return position.complete_until_s
    return NEVER_S
