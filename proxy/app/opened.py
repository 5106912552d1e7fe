"""A database that a worker serves: what looks after it, and what it is told of switches.

Rule 1: both catalogs are read again when DDL went through us, and now and then. The mirror's
too: it is needed in the instant in which it becomes the authority.
Rule 2: when the tables to mirror have changed, the catalog is read before the change counts as
made: the engine may copy a new table from then on, so capture comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from proxy.config.model import Database as Configuration
from proxy.errors import UpstreamRefused
from proxy.ledger.connection import DRIVER_FAILURES, connect, raise_if_cancelled
from proxy.ledger.schema import is_installed
from proxy.routing.policy import Side
from proxy.server.database import Database
from proxy.server.monitor import Monitor
from proxy.server.probing import ProbingKeeper

_log = structlog.get_logger()
_CATALOG_INTERVAL_S = 5.0
_RETRY_S = 1.0


class Opened:
    """One database.

    Args:
        promoted: Called with its name when a replica may have been promoted.
    """

    def __init__(self, database: Database, promoted: Callable[[str], Awaitable[None]]) -> None:
        self.database = database
        self._promoted = promoted
        self._stale = asyncio.Event()
        self._promotion = asyncio.Event()
        self._monitor = Monitor(database, self._authority_is)
        database.on_schema_change = self._stale.set
        database.on_doubt = self._monitor.look_now
        database.on_promotion = self._promotion.set

    async def run(self) -> None:
        """Look after it until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.database.tend())
                group.create_task(self._monitor.run())
                group.create_task(self._keep_catalogs())
                group.create_task(self._tell_of_promotions())
        finally:
            self.database.close()

    async def configure(self, configuration: Configuration) -> None:
        """Take a new configuration into force."""
        tables = self.database.configuration.tables
        self.database.configure(configuration)
        if configuration.tables != tables:
            await self._read_catalog(self.database.authority, ProbingKeeper())
        self._stale.set()
        self._monitor.look_now()  # what it knows may matter from now on

    async def hold(self, *, limit_s: float, drain_s: float) -> int:
        """Hold new write transactions; return how many are still open after `drain_s`."""
        hold = self.database.hold
        hold.begin(limit_s=limit_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await hold.wait_drained()
        return hold.writers_count

    def release(self, authority: Side | None, epoch: int | None) -> None:
        """End the hold; the authority is new if the switch was done."""
        if authority is not None and epoch is not None:
            self._authority_is(authority, epoch)
        self.database.hold.end()

    def _authority_is(self, side: Side, epoch: int) -> None:
        database = self.database
        if epoch <= database.epoch:
            return  # known, or older than what is known
        _log.info("authority", database=database.name, cluster=side.value, epoch=epoch)
        database.move_authority(side, epoch)
        self._stale.set()
        database.hold.end()

    async def _tell_of_promotions(self) -> None:
        while True:
            await self._promotion.wait()
            await self._promoted(self.database.name)
            await asyncio.sleep(_RETRY_S)
            self._promotion.clear()

    async def _keep_catalogs(self) -> None:
        keepers = {side: ProbingKeeper() for side in Side}
        while True:
            for side in (self.database.authority, self.database.authority.other):
                await self._read_catalog(side, keepers[side])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATALOG_INTERVAL_S):
                    await self._stale.wait()
            self._stale.clear()

    async def _read_catalog(self, side: Side, keeper: ProbingKeeper) -> None:
        database = self.database
        try:
            connection = await connect(database.configuration.cluster(side.value).primary)
            try:
                catalog = await keeper.read(connection, database.configuration.tables)
                is_known = await is_installed(connection)
            finally:
                await connection.close()
        except (UpstreamRefused, *DRIVER_FAILURES) as error:
            raise_if_cancelled()
            _log.warning("catalog not read, the last one stays", database=database.name, error=str(error))
            return
        database.catalogs[side] = catalog
        if side is database.authority:
            was_known, database.has_state = database.has_state, is_known
            if catalog is not database.judge.catalog or is_known is not was_known:
                database.use_catalog(catalog)
