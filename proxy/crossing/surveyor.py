"""Keep looking at both clusters, for gates, status and metrics, and verify when it is due.

Rule 1: what is not known opens no gate. Where the mirror cannot be read, the survey is of
the authority alone (how much waits in the ledger is known all the same), and its one
verdict says why.
Rule 2: every look is bounded in time, or a mirror that hangs would hide the authority. One that
was too slow is begun again from nothing, so the next may take twice as long: on a machine that
is short of time no look would ever end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import asyncpg
import structlog

from proxy.catalog.keeper import CatalogKeeper
from proxy.catalog.model import Catalog
from proxy.clock import Clock
from proxy.config.model import Database as Configuration
from proxy.converge.statistics import Statistics as Converged
from proxy.crossing import survey as surveys
from proxy.crossing import trial as trials
from proxy.crossing.gates import Trial
from proxy.crossing.machine import Reign
from proxy.crossing.pace import Pace
from proxy.crossing.survey import Survey
from proxy.errors import ProxyError
from proxy.ledger.connection import DRIVER_FAILURES, connect, raise_if_cancelled
from proxy.routing.policy import Side
from proxy.verify.verifier import verify

_log = structlog.get_logger()
_INTERVAL_S = 0.5
_LOOK_S_MAX = 5.0  # at first
_SLOW_LOOK_S_MAX = 40.0
_RETRY_S = 1.0
_TRIAL_INTERVAL_S = 15.0
_REPAIR_RETRY_S = 5.0

_FAILURES = (ProxyError, *DRIVER_FAILURES)


class Surveyor:
    """Surveys one database.

    Args:
        configuration: Returns the one in force.
        name: This proxy's, among those that stand before the database.
    """

    def __init__(
        self, configuration: Callable[[], Configuration], *, clock: Clock, name: str | None = None
    ) -> None:
        self._name = name
        self.survey: Survey | None = None
        self.pace = Pace()
        self.last_error: str | None = None
        self._configuration = configuration
        self._clock = clock
        self.quiet = asyncio.Lock()  # whoever holds it is not disturbed: a survey takes processor time
        self._look_s_max = _LOOK_S_MAX
        self._asked = asyncio.Event()
        self._surveyed = asyncio.Event()
        self._verifying: asyncio.Task[None] | None = None
        self._verify_after_s = 0.0
        self._trial: Trial | None = None
        self._try_after_s = 0.0

    def look_soon(self) -> None:
        """Begin the next survey at once."""
        self._asked.set()

    async def look(self) -> None:
        """Wait for a survey that begins after this call; the caller bounds the time."""
        for _ in range(2):  # the one under way began before
            self._asked.set()
            await self._surveyed.wait()

    async def run(self, reign: Reign, counted: Callable[[], Converged | None]) -> None:
        """Survey again and again until cancelled.

        Args:
            counted: What the engine has counted.
        """
        self.survey = self._trial = None  # those of another reign
        self._try_after_s = 0.0
        while True:
            try:
                await self._look_at_both(reign, counted)
            except _FAILURES as error:
                reason = str(error) or type(error).__name__
                if reason != self.last_error:
                    _log.warning("clusters not surveyed", database=self._configuration().name, reason=reason)
                self.last_error = reason
                if isinstance(error, TimeoutError):
                    self._look_s_max = min(2 * self._look_s_max, _SLOW_LOOK_S_MAX)
                await self._look_at(reign.authority, f"the mirror cannot be read: {reason}")
            raise_if_cancelled()
            await asyncio.sleep(_RETRY_S)

    async def look_alone(self, reason: str) -> Side | None:
        """Survey the authority while this process does not run the engine; return which it is.

        Args:
            reason: Why it does not.
        """
        self.survey = None
        for side in Side:
            if await self._look_at(side, reason):
                return side
        return None

    def stop_verifying(self) -> None:
        """End a comparison that is under way: what it compares is about to change."""
        if self._verifying is not None:
            self._verifying.cancel()
            self._verifying = None

    async def _look_at_both(self, reign: Reign, counted: Callable[[], Converged | None]) -> None:
        configuration = self._configuration()
        here, there = CatalogKeeper(), CatalogKeeper()
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(self._look_s_max):
                source = await connect(configuration.cluster(reign.authority.value).primary)
                stack.callback(source.terminate)
                target = await connect(configuration.cluster(reign.authority.other.value).primary)
                stack.callback(target.terminate)
            while True:
                self._asked.clear()
                configuration = self._configuration()
                async with self.quiet, asyncio.timeout(self._look_s_max):
                    tables = configuration.tables
                    catalogs = await here.read(source, tables), await there.read(target, tables)
                    await self._try_out(source, target, catalogs, reign.authority)
                    self.survey = await surveys.read(
                        source, target, reign.authority, configuration, counted(), catalogs, self._trial,
                        name=self._name,
                    )  # fmt: skip
                self._look_s_max = _LOOK_S_MAX
                self.pace.note(self._clock(), self.survey.snapshot.ledger_entries_count)
                self._has_looked()
                self._verify_if_due(self.survey, reign)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL_S):
                        await self._asked.wait()

    async def _look_at(self, side: Side, reason: str) -> bool:
        """Survey one cluster; return whether it answered and is the authority."""
        configuration = self._configuration()
        try:
            async with asyncio.timeout(self._look_s_max):
                source = await connect(configuration.cluster(side.value).primary)
                try:
                    found = await surveys.read_alone(source, configuration.tables, reason)
                finally:
                    source.terminate()
        except _FAILURES:
            found = None
        self.survey = found
        self._has_looked()
        return found is not None

    async def _try_out(
        self,
        source: asyncpg.Connection,
        target: asyncpg.Connection,
        catalogs: tuple[Catalog, Catalog],
        authority: Side,
    ) -> None:
        """Try the way back again when that is due; soon where it did not work."""
        if self._clock() < self._try_after_s:
            return
        users = [user.name for user in self._configuration().users]
        self._trial = await trials.run(source, target, catalogs, authority, users)
        self._try_after_s = self._clock() + (_RETRY_S if any(self._trial) else _TRIAL_INTERVAL_S)

    def _has_looked(self) -> None:
        self._surveyed.set()
        self._surveyed = asyncio.Event()

    def _verify_if_due(self, survey: Survey, reign: Reign) -> None:
        """Start a comparison when the history is there and the last one is old, or found something."""
        if self._verifying is not None and not self._verifying.done():
            return
        configuration = self._configuration()
        if not configuration.mirror.enabled or survey.snapshot.backfill_chunks_left != 0:
            return
        age_s, found = survey.snapshot.verified_age_s, survey.snapshot.differences_count
        within_s = configuration.rollout.gates.verified_within_s
        is_due = age_s is None or age_s > within_s / 2 or found > 0 or survey.snapshot.unverified_tables
        if is_due and self._clock() >= self._verify_after_s:
            self._verifying = asyncio.get_running_loop().create_task(self._verify(survey, reign))

    async def _verify(self, survey: Survey, reign: Reign) -> None:
        """Compare every table in the background; differences become ledger entries."""
        configuration = self._configuration()
        source = configuration.cluster(reign.authority.value).primary
        target = configuration.cluster(reign.authority.other.value).primary
        try:
            report = await verify(source, target, (survey.catalog, survey.target_catalog), repair=True)
            _log.info(
                "verified",
                database=configuration.name,
                rows=report.rows_count,
                differences=report.differences_count,
            )
        except _FAILURES as error:
            self.last_error = f"verification: {str(error) or type(error).__name__}"
        self._verify_after_s = self._clock() + _REPAIR_RETRY_S
