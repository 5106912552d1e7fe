"""The loop that owns one database: lease, converge, backfill, switch.

    standby    somebody else holds the lease: ask every second
    settle     finish what a switch left unfinished; learn who the authority is
    work       passes over the ledger; between them backfill, and the switch when the
               configuration asks for one

Live writes go first: after every step of anything else comes a pass.

Whatever fails ends the ownership, and the lease is taken anew. That is not only simple: a
pass whose outcome is not known may still commit, and only a newer lease keeps it from
writing older rows over those of the next pass.

The configuration says where writes should be. A *change* of that line is an order to
move; the line as it stands when the process starts is not: a proxy restarted with an old
file must never move anything (it says so in `refused`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import asyncpg
import structlog

from proxy.backfill import chunks
from proxy.backfill.backfill import Backfill
from proxy.clock import Clock, now_s
from proxy.config.model import Database as Configuration
from proxy.converge.engine import Converger
from proxy.converge.statistics import Statistics
from proxy.crossing.conductor import Conductor, Proxies
from proxy.crossing.gates import refusals
from proxy.crossing.machine import Reign
from proxy.crossing.newcomers import Newcomers
from proxy.crossing.pace import Pace
from proxy.crossing.survey import Survey
from proxy.crossing.surveyor import Surveyor
from proxy.errors import LeaseLost, ProxyError, UpstreamLost
from proxy.ledger import entries
from proxy.ledger import lease as leases
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.ledger.lease import Lease
from proxy.routing.policy import Side

_log = structlog.get_logger()
_PASS_INTERVAL_S = 0.04  # lets writes gather; also about how stale the mirror is
_IDLE_INTERVAL_MAX_S = 0.2  # while nothing is written, and nobody reads the mirror or waits for it
_RETRY_S = 1.0
_SWITCH_RETRY_S = 3.0  # after one that was undone: it has cost the clients a pause; twice as long each time
_SWITCH_RETRY_MAX_S = 60.0
_CLOSE_TIMEOUT_S = 2.0

_FAILURES = (ProxyError, *DRIVER_FAILURES)


class Engine:
    """The engine of one database.

    Args:
        proxies: Hold and release the clients of this database.
        owner: The name under which it holds the lease.
        is_ordered: Whether the line writes_on is an order that an engine before this one has not
            carried out.
        obeyed: Called when the order that is given is one no more: writes are where it wanted them.
    """

    def __init__(
        self,
        configuration: Configuration,
        proxies: Proxies,
        owner: str,
        *,
        is_ordered: bool = False,
        obeyed: Callable[[Side], Awaitable[None]] | None = None,
        clock: Clock = now_s,
    ) -> None:
        self.configuration = configuration
        self.owner = owner
        self.lease: Lease | None = None
        self.reign: Reign | None = None
        self.converger: Converger | None = None
        self.backfill: Backfill | None = None
        self.moving = asyncio.Lock()  # held for as long as a switch takes
        self._undone: str | None = None  # what became of the last switch, until the next try
        self._undone_count = 0  # in a row
        self.last_pause_s: float | None = None
        self._last_error: str | None = None
        self._proxies = proxies
        self._clock = clock
        self._told = ""  # the objection that was logged last, without its numbers
        self._is_ordered = is_ordered
        self._obeyed = obeyed
        self._changed = asyncio.Event()
        self._surveyor = Surveyor(lambda: self.configuration, name=owner, clock=clock)
        self._switch_after_s = 0.0
        self._surveyed: Survey | None = None  # the last one that the backfill's tables were compared with

    @property
    def is_switching(self) -> bool:
        """Whether a switch is under way."""
        return self.moving.locked()

    @property
    def survey(self) -> Survey | None:
        """The newest look at the clusters; None before the first."""
        return self._surveyor.survey

    @property
    def pace(self) -> Pace:
        """How fast the ledger drains."""
        return self._surveyor.pace

    @property
    def last_error(self) -> str | None:
        """What went wrong last."""
        return self._last_error or self._surveyor.last_error

    def configure(self, configuration: Configuration, *, is_order: bool = True) -> None:
        """Take a new configuration into force.

        Args:
            is_order: Whether a changed writes_on is meant to move writes now.
        """
        before, self.configuration = self.configuration, configuration
        if configuration.rollout.writes_on != before.rollout.writes_on:
            self._is_ordered = is_order
            self._undone = None
            self._undone_count = 0
            self._surveyor.look_soon()
        if self.backfill is not None:
            self.backfill.configure(configuration.backfill)
        if (before.tables, before.mirror) != (configuration.tables, configuration.mirror):
            self._changed.set()

    async def run(self) -> None:
        """Run until cancelled; whatever fails is tried again."""
        while True:
            reason = ""
            try:
                await self._own()
            except LeaseLost as lost:
                reason = str(lost)
                _log.debug("standing by", database=self.configuration.name, reason=reason)
            except _FAILURES as error:
                reason = str(error) or type(error).__name__
                if _is_uninstalled(error):
                    reason = "schema crossfade is missing: nothing is mirrored (crossfade init creates it)"
                else:
                    self._last_error = reason
                    _log.warning("engine will try again", database=self.configuration.name, error=reason)
            except Exception as error:
                # A fault of ours. A new process would know no better, and nothing of an order that is given.
                self._last_error = reason = f"{type(error).__name__}: {error}"
                _log.exception("engine will try again", database=self.configuration.name)
            finally:
                self.lease = self.reign = None
            await self._authority_is(await self._surveyor.look_alone(reason))
            await asyncio.sleep(_RETRY_S)

    async def _own(self) -> None:
        """Take the lease, and work for as long as it is ours."""
        configuration = self.configuration
        name = leases.application_name(self.owner)
        async with contextlib.AsyncExitStack() as stack:
            old = await connect(configuration.old.primary, application_name=name)
            stack.callback(old.terminate)
            new = await connect(configuration.new.primary, application_name=name)
            stack.callback(new.terminate)
            lease = self.lease = await leases.take(old, new, self.owner)
            _log.info("engine", database=configuration.name, lease=lease.epoch)
            try:
                await self._keep_and_work(lease)
            finally:
                with contextlib.suppress(*DRIVER_FAILURES):
                    async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                        for side in (old, new):
                            await leases.release(side, lease)

    async def _keep_and_work(self, lease: Lease) -> None:
        old, new = self.configuration.old.primary, self.configuration.new.primary
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(leases.keep(lease, old, new))
                group.create_task(self._reigns(lease))
        except* _FAILURES as errors:
            first = errors.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    async def _reigns(self, lease: Lease) -> None:
        old, new = self.configuration.old.primary, self.configuration.new.primary
        conductor = Conductor(self.configuration, lease, self._proxies)
        while True:
            found = await conductor.recover()
            self.reign = Reign(found.authority, found.epoch)
            await self._authority_is(found.authority)
            source, target = (old, new) if found.authority is Side.OLD else (new, old)
            configuration = self.configuration
            self.converger = Converger(
                source, target, lease=lease, tables=configuration.tables,
                deletes_max=configuration.mirror.deletes_max,
            )  # fmt: skip
            self.backfill = None
            if found.authority is Side.OLD:
                self.backfill = Backfill(
                    source,
                    target,
                    self.converger,
                    tables=configuration.tables,
                    settings=configuration.backfill,
                )
            self._changed.clear()
            try:
                async with asyncio.TaskGroup() as group:
                    surveying = group.create_task(self._surveyor.run(self.reign, self._counted))
                    await self._work(conductor, self.reign)
                    surveying.cancel()
            finally:
                await self._close()

    async def _close(self) -> None:
        self._surveyor.stop_verifying()
        if self.backfill is not None:
            await self.backfill.close()
        if self.converger is not None:
            await self.converger.close()

    def _counted(self) -> Statistics | None:
        return self.converger.statistics() if self.converger is not None else None

    async def _work(self, conductor: Conductor, reign: Reign) -> None:
        """Converge until the authority has moved, or the tables have changed."""
        converger = self.converger
        assert converger is not None
        newcomers = Newcomers(self.configuration, reign.authority)
        backfill_at_s = 0.0
        interval_s = _PASS_INTERVAL_S
        while not self._changed.is_set():
            if not self.configuration.mirror.enabled:
                await self._idle(reign)
                continue
            done = await converger.converge_entries()
            if await newcomers.look(has_ddl=done.has_ddl):
                await converger.refresh()
            backfill = self.backfill if self.configuration.backfill.enabled else None
            if backfill is not None and not self._is_covered(backfill):
                await backfill.refresh()
            if backfill is not None and self._clock() >= backfill_at_s:
                step = await backfill.step()
                backfill_at_s = self._clock() + (step.wait_s if step is not None else _RETRY_S)
            if await self._switch_if_ordered(conductor, reign):
                return
            is_idle = done.entries_count == 0 and not self._is_mirror_used
            interval_s = min(interval_s * 1.5, _IDLE_INTERVAL_MAX_S) if is_idle else _PASS_INTERVAL_S
            if done.is_complete or done.rows_count == 0:
                left_s = backfill_at_s - self._clock() if backfill is not None else interval_s
                await asyncio.sleep(min(interval_s, max(left_s, 0.0)))

    @property
    def _is_mirror_used(self) -> bool:
        """Whether clients read the mirror, or wait for it."""
        return self.configuration.rollout.reads_on_new_ratio > 0 or self.configuration.mirror.ack == "sync"

    def _is_covered(self, backfill: Backfill) -> bool:
        """Return whether the backfill knows the tables as the last survey saw them."""
        before, now = self._surveyed, self.survey
        self._surveyed = now
        return now is before or now is None or backfill.covers(now.catalog, now.target_catalog)

    async def _idle(self, reign: Reign) -> None:
        """Wait while mirroring is off: nothing is captured, so what was copied or verified is void."""
        for side in Side:
            connection = await connect(self.configuration.cluster(side.value).primary)
            try:
                await connection.execute("DELETE FROM crossfade.verification")
                if side is Side.NEW and reign.authority is Side.OLD:
                    await chunks.reset(connection)
                elif side is reign.authority is Side.NEW:
                    # There is no backfill of the old side: every table is to be compared.
                    await entries.add_tables(connection)
            finally:
                connection.terminate()
        await self._changed.wait()

    # Moving the authority.

    def _wanted(self) -> Side:
        return Side(self.configuration.rollout.writes_on)

    async def _authority_is(self, authority: Side | None) -> None:
        """Take an order as carried out, by whomever, or as taken back: it is obeyed once."""
        if self._is_ordered and authority is self._wanted():
            self._is_ordered = False
            if self._obeyed is not None:
                await self._obeyed(authority)

    @property
    def refused(self) -> str | None:
        """Why writes are not where the configuration wants them; None: they are, or soon will be."""
        return self._objection(self.reign) if self.reign is not None else self._undone

    def _objection(self, reign: Reign) -> str | None:
        wanted = self._wanted()
        if wanted is reign.authority:
            return None
        if not self._is_ordered:
            return (
                f"the file says writes_on: {wanted} since before this process started, and the authority is "
                f"{reign.authority}: change the line to {reign.authority}, or to and fro to order a switch"
            )
        if self._undone is not None and self._clock() < self._switch_after_s:
            return self._undone
        if self.survey is None:
            return "the clusters have not been read yet"
        against = refusals(self.survey.verdicts, self.configuration.rollout.force)
        return "; ".join(f"{name}: {verdict.reason}" for name, verdict in against.items()) or None

    async def _switch_if_ordered(self, conductor: Conductor, reign: Reign) -> bool:
        """Switch if the configuration asks for it and the gates hold; return whether it was done."""
        wanted, objection = self._wanted(), self._objection(reign)
        kind = re.sub(r"[\d.]+", "", objection or "")  # a lag that grows is told once
        if kind != self._told:
            self._told = kind
            if objection is not None:
                name = self.configuration.name
                _log.warning("writes are not moved", database=name, to=wanted.value, reason=objection)
        if wanted is reign.authority:
            await self._authority_is(wanted)
            return False
        if self.survey is None or objection is not None:
            return False
        if self.survey.writes_on != wanted:
            return False  # it is of before the order: the next one comes soon
        self._undone = None
        return await self._switch(conductor, reign, wanted, self.survey)

    async def _switch(self, conductor: Conductor, reign: Reign, to: Side, survey: Survey) -> bool:
        assert self.converger is not None
        self._surveyor.stop_verifying()
        max_pause_s = self.configuration.rollout.max_pause_s
        _log.info(
            "switch begins",
            database=self.configuration.name,
            to=to.value,
            gates={name: verdict.reason for name, verdict in survey.verdicts.items()},
            overruled=[name for name, verdict in survey.verdicts.items() if not verdict.passed],
        )
        async with self.moving, self._surveyor.quiet:
            outcome = await conductor.switch(
                self.converger, survey.catalog, to, reign.epoch, max_pause_s=max_pause_s
            )
        self.last_pause_s = outcome.pause_s
        pause_ms = round(outcome.pause_s * 1000, 1)
        if outcome.is_done:
            _log.info(
                "switch done",
                database=self.configuration.name,
                to=to.value,
                epoch=outcome.epoch,
                pause_ms=pause_ms,
            )
            return True
        self._undone = f"undone after {pause_ms} ms: {outcome.reason}"
        _log.warning(
            "switch undone",
            database=self.configuration.name,
            to=to.value,
            reason=outcome.reason,
            pause_ms=pause_ms,
        )
        self._switch_after_s = self._clock() + retry_s(self._undone_count)
        self._undone_count += 1
        raise UpstreamLost(f"the switch was {self._undone}")

    # Looking.

    async def look(self) -> None:
        """Wait for a survey that begins after this call; the caller bounds the time."""
        await self._surveyor.look()


def _is_uninstalled(error: Exception) -> bool:
    is_undefined = isinstance(error, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError)
    return is_undefined and "crossfade" in str(error)


def retry_s(undone_count: int) -> float:
    """Return how long to wait after a switch that was undone, and as many in a row before it."""
    return min(_SWITCH_RETRY_S * 2.0 ** min(undone_count, 10), _SWITCH_RETRY_MAX_S)
