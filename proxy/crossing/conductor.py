"""Perform one switch, in either direction (DESIGN, section 8).

    hold       new write transactions wait in the proxies; those in flight end
    lock       the authority's ledger: an exact drain of all writes, known proxies or not
    drain      converge until the ledger is empty, deleting on the locked connection
    sequences  on the target, beyond what the source has given out
    fence      commit: the source resigns, its ledger refuses inserts
    decide     commit: the target reigns, its ledger accepts inserts
    release    held clients go on, on the new authority

Rule 1: up to the fence every failure leaves everything as it was: the transaction rolls
back, the hold ends.
Rule 2: after the fence the way is forward. Back is possible only while it is certain that
the decision was not sent; otherwise whoever owns the lease next asks the target.
Rule 3: the hold has a limit of its own in every proxy. No crash here can extend it.
Rule 4: every commit that says who reigns holds the lease, and whoever reads the states waits
for those in flight. A conductor that stalls and wakes up later can change nothing, and one
that lost patience with a commit cannot misread what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import asyncpg
import structlog

from proxy.catalog.model import Catalog
from proxy.clock import Clock, now_s
from proxy.config.model import Database as Configuration
from proxy.converge.engine import Converger
from proxy.converge.sequences import set_sequences
from proxy.crossing import fences
from proxy.crossing.machine import Reading, Situation, read
from proxy.errors import ProxyError, SwitchRefused
from proxy.ledger import lease as leases
from proxy.ledger import state as states
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.ledger.lease import Lease
from proxy.routing.policy import Side

_log = structlog.get_logger()
_LOCK_TIMEOUT_S = 0.25  # short: while it waits, later writers queue behind it
_LOCK_PAUSE_S = 0.05
_DRAIN_SHARE = 0.5  # of max_pause, for transactions in flight to end
_SEQUENCE_MARGIN = 1000
_PASSES_MAX = 3

_FAILURES = (ProxyError, *DRIVER_FAILURES)


class Note(NamedTuple):
    """Where the authority is going, and the epoch it will have there."""

    to: Side
    epoch: int


class Proxies(Protocol):
    """The proxies in front of the database, as far as a switch needs them."""

    async def hold(self, *, limit_s: float, drain_s: float) -> int:
        """Hold new write transactions; return how many are still open after `drain_s`."""

    async def release(self, authority: Side | None, epoch: int | None) -> None:
        """End the hold; the authority is new if the switch was done."""


class Outcome(NamedTuple):
    """What a switch came to."""

    is_done: bool
    authority: Side
    epoch: int
    pause_s: float = 0.0  # from the hold to the release
    reason: str = ""  # why it was not done


class Conductor:
    """Switches one database; the caller owns the lease."""

    def __init__(
        self, configuration: Configuration, lease: Lease, proxies: Proxies, *, clock: Clock = now_s
    ) -> None:
        self._dsns = {side: configuration.cluster(side.value).primary for side in Side}
        self._fence_form = configuration.fence
        self._users = [user.name for user in configuration.users]
        self._lease = lease
        self._proxies = proxies
        self._clock = clock
        self._steps_ms: dict[str, float] = {}
        self._step_at_s = 0.0
        # Of the switch under way: what is certain (None: only the clusters know), and since when it holds.
        self._known: Outcome | None = None
        self._held_s = 0.0

    async def recover(self, *, is_own: bool = False) -> Reading:
        """Bring an unfinished switch to its end, and return who the authority is.

        Args:
            is_own: We have begun it, and shall write it into the history.

        Raises:
            SwitchRefused: The states contradict each other; an operator must look.
            UpstreamRefused: A cluster cannot be reached; ask again.
            asyncpg.PostgresError: A commit of the one before is still in flight; ask again.
        """
        async with self._connected() as connections:
            found = read(*[await states.read_certain_state(connections[side]) for side in Side])
            if found.situation is Situation.IMPOSSIBLE:
                raise SwitchRefused(found.reason, hint="see crossfade.state on both clusters")
            if found.situation is Situation.FINISH:
                _log.warning("finishing a switch", to=found.authority.value, epoch=found.epoch)
                await self._reign(connections[found.authority], found.epoch)
            if found.situation is not Situation.SETTLED:
                await self._follow(connections[found.authority.other], found.epoch)
                await self._proxies.release(found.authority, found.epoch)
        if found.has_moved and not is_own:
            await self._record(
                Outcome(True, found.authority, found.epoch, reason="finished after its engine had ended"),
                found.authority,
            )
        return found._replace(situation=Situation.SETTLED)

    async def switch(
        self, converger: Converger, catalog: Catalog, to: Side, epoch: int, *, max_pause_s: float
    ) -> Outcome:
        """Move the authority to a side.

        Args:
            converger: Of the present direction; it is of no use after the switch.
            catalog: The present authority's, for its sequences; read beforehand, as it takes time.
            epoch: The present one.

        Returns:
            What happened. If it was not done everything is as it was, but a pass may still be in
            flight: the lease must be taken anew before the next one.

        Raises:
            ProxyError, OSError, asyncpg.PostgresError: It is not known what happened: `recover`
                must be called, until it answers.
        """
        note = Note(to, epoch + 1)
        self._known = Outcome(False, to.other, epoch)
        self._held_s = self._clock()
        outcome = None
        try:
            outcome = await self._attempt(converger, catalog, note, max_pause_s)
        finally:
            await self._release(outcome, epoch)
        outcome = outcome._replace(pause_s=self._clock() - self._held_s)
        _log.info("switch steps", to=to.value, is_done=outcome.is_done, **self._steps_ms)
        await self._record(outcome, to)
        return outcome

    async def _attempt(
        self, converger: Converger, catalog: Catalog, note: Note, max_pause_s: float
    ) -> Outcome:
        """Go through the steps; where they broke off, find out what became of the switch."""
        reason = ""
        try:
            async with self._connected() as connections:
                source, target = connections[note.to.other], connections[note.to]
                await self._refuse_long_writes(source, max_pause_s)
                async with asyncio.timeout(max_pause_s):
                    await self._move(converger, catalog, note, source, target, max_pause_s)
        except TimeoutError:
            reason = f"it took longer than max_pause ({max_pause_s:g} s)"
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
        known = self._known
        if known is None:
            found = await self.recover(is_own=True)
            known = Outcome(found.authority is note.to, found.authority, found.epoch)
        return known if known.is_done else known._replace(reason=reason)

    async def _move(
        self, converger: Converger, catalog: Catalog, note: Note,
        source: asyncpg.Connection, target: asyncpg.Connection, max_pause_s: float,
    ) -> None:  # fmt: skip
        """Go through the steps; from the first on clients wait."""
        await self._hold(max_pause_s)
        self._took("hold")
        async with self._locked(source, self._held_s + max_pause_s) as transaction:
            self._took("lock")
            await self._drain(converger, source)
            self._took("drain")
            await self._set_sequences(source, target, catalog)
            self._took("sequences")
            await self._resign(source, note)
        await self._fence(transaction)
        self._took("fence")
        await self._decide_or_take_back(source, target, note)
        self._took("decide")

    # The steps, in their order.

    def _took(self, step: str) -> None:
        """Note how long a step took; where the pause goes is the first question of an operator."""
        now = self._clock()
        self._steps_ms[step] = round((now - self._step_at_s) * 1000, 1)
        self._step_at_s = now

    async def _refuse_long_writes(self, source: asyncpg.Connection, max_pause_s: float) -> None:
        """Hold nobody for a drain that would be in vain: of a client, or a proxy, that has stopped in one."""
        found = await states.longest_write(source)
        if found is not None and found[1] > max_pause_s:
            raise SwitchRefused(
                f"a write transaction has been open for {found[1]:.0f} s on the authority (pid {found[0]})",
                hint="wait for its end, or end it by pg_terminate_backend",
            )

    async def _hold(self, max_pause_s: float) -> None:
        self._held_s = self._step_at_s = self._clock()
        self._steps_ms = {}
        left = await self._proxies.hold(limit_s=max_pause_s, drain_s=max_pause_s * _DRAIN_SHARE)
        if left:
            raise SwitchRefused(
                f"{left} write transactions were still open after {max_pause_s * _DRAIN_SHARE:g} s"
            )

    @asynccontextmanager
    async def _locked(
        self, source: asyncpg.Connection, deadline_s: float
    ) -> AsyncIterator[asyncpg.transaction.Transaction]:
        """Hold the ledger's lock, in a transaction that is for the caller to commit afterwards."""
        transaction = await self._lock(source, deadline_s)
        try:
            yield transaction
        except BaseException:
            await transaction.rollback()
            raise

    async def _lock(self, source: asyncpg.Connection, deadline_s: float) -> asyncpg.transaction.Transaction:
        """Return an open transaction that holds the ledger's lock."""
        while True:
            transaction = source.transaction()
            await transaction.start()
            try:
                await states.lock_ledger(source, timeout_s=_LOCK_TIMEOUT_S)
            except asyncpg.LockNotAvailableError:
                await transaction.rollback()
                if self._clock() + _LOCK_PAUSE_S + _LOCK_TIMEOUT_S > deadline_s:
                    raise SwitchRefused("a write outside these proxies held the ledger") from None
                await asyncio.sleep(_LOCK_PAUSE_S)
            except BaseException:
                await transaction.rollback()
                raise
            else:
                return transaction

    async def _drain(self, converger: Converger, locked: asyncpg.Connection) -> None:
        for _ in range(_PASSES_MAX):
            done = await converger.converge_entries(locked)
            if done.left_count:
                raise SwitchRefused(
                    f"{done.left_count} keys cannot be converged", hint="see status: quarantine"
                )
            if await locked.fetchval("SELECT NOT EXISTS (SELECT FROM crossfade.ledger)"):
                return
        raise SwitchRefused("the ledger did not become empty")

    async def _set_sequences(
        self, source: asyncpg.Connection, target: asyncpg.Connection, catalog: Catalog
    ) -> None:
        """Set the target's sequences, within a transaction that keeps it from becoming the authority.

        One that woke up long after would otherwise set back what the new authority has given out.
        """
        async with target.transaction():
            await leases.check(target, self._lease, is_target=True)
            await set_sequences(source, target, catalog, margin=_SEQUENCE_MARGIN)

    async def _resign(self, source: asyncpg.Connection, note: Note) -> None:
        await leases.check(source, self._lease)
        await fences.close(source, self._fence_form, self._users)
        await states.resign(source, {"to": note.to.value, "epoch": note.epoch})

    async def _fence(self, transaction: asyncpg.transaction.Transaction) -> None:
        """Commit the source's resignation: when this returns nobody is the authority."""
        self._known = None
        await transaction.commit()

    async def _decide_or_take_back(
        self, source: asyncpg.Connection, target: asyncpg.Connection, note: Note
    ) -> None:
        """Make the target the authority, or the source again if the decision surely was not sent."""
        try:
            decision = await self._prepare(target, note)
        except BaseException:
            # Nothing was committed there: the connection was lost, or the time is up.
            await self._take_back(source, note)
            raise
        await self._decide(decision, note)

    async def _prepare(self, target: asyncpg.Connection, note: Note) -> asyncpg.transaction.Transaction:
        """Return the open transaction that makes the target the authority when it commits."""
        decision = target.transaction()
        await decision.start()
        await leases.check(target, self._lease)
        await fences.open_again(target, self._fence_form, self._users)
        await states.reign(target, note.epoch)
        return decision

    async def _take_back(self, source: asyncpg.Connection, note: Note) -> None:
        await self._reign(source, note.epoch)
        self._known = Outcome(False, note.to.other, note.epoch)

    async def _decide(self, decision: asyncpg.transaction.Transaction, note: Note) -> None:
        await decision.commit()
        self._known = Outcome(True, note.to, note.epoch)

    async def _release(self, outcome: Outcome | None, epoch: int) -> None:
        """End the hold; the proxies are told of the authority only if it has a new epoch."""
        if outcome is None or outcome.epoch == epoch:
            await self._proxies.release(None, None)
        else:
            await self._proxies.release(outcome.authority, outcome.epoch)

    # Parts of them.

    async def _reign(self, connection: asyncpg.Connection, epoch: int) -> None:
        """Make a side the authority; doing it again changes nothing."""
        async with connection.transaction():
            await leases.check(connection, self._lease)
            await fences.open_again(connection, self._fence_form, self._users)
            await states.reign(connection, epoch)

    async def _follow(self, connection: asyncpg.Connection, epoch: int) -> None:
        """Tell the other side; one that woke up long after must not wipe out a newer note."""
        async with connection.transaction():
            await leases.check(connection, self._lease)
            await states.follow(connection, epoch)

    async def _record(self, outcome: Outcome, to: Side) -> None:
        """Write the switch into the history of both clusters; the history is for people."""
        for side in Side:
            try:
                connection = await connect(self._dsns[side], application_name=self._lease.application_name)
                try:
                    await self._follow(connection, outcome.epoch)
                    await connection.execute(
                        "INSERT INTO crossfade.switches (epoch, moved_from, moved_to, pause_ms, outcome,"
                        " reason) SELECT $1, $2, $3, $4, $5::text, $6 WHERE $5 <> 'done' OR NOT EXISTS"
                        " (SELECT FROM crossfade.switches WHERE epoch = $1 AND outcome = 'done')",
                        outcome.epoch, to.other.value, to.value, outcome.pause_s * 1000 or None,
                        "done" if outcome.is_done else "undone", outcome.reason or None,
                    )  # fmt: skip
                finally:
                    connection.terminate()
            except _FAILURES as error:
                _log.warning("switch not recorded", side=side.value, error=str(error))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[dict[Side, asyncpg.Connection]]:
        opened: dict[Side, asyncpg.Connection] = {}
        try:
            for side in Side:
                opened[side] = await connect(self._dsns[side], application_name=self._lease.application_name)
            yield opened
        finally:
            for connection in opened.values():
                connection.terminate()
