"""What all sessions of one database share: pools, the authority, the hold, the forms.

Everything here is decided synchronously; what needs I/O (reading the catalog, watching
the servers, following the authority) is done by `app.worker`, which sets the results.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import structlog

from proxy.catalog.model import Catalog
from proxy.clock import now_s
from proxy.config.dsn import Dsn
from proxy.config.model import Database as Configuration
from proxy.errors import AuthorityMoved, UpstreamRefused
from proxy.routing.breaker import Breaker, BreakerLimits
from proxy.routing.policy import (
    NEVER_S,
    Freshness,
    Place,
    ReadRule,
    Side,
    choose_read,
    fallback_reason,
    sticky_fraction,
)
from proxy.server.accounts import Accounts
from proxy.server.acks import Acks
from proxy.server.audit import Sampler, report
from proxy.server.forms import Forms
from proxy.server.hold import Hold
from proxy.server.judge import Judge, SearchPath
from proxy.server.request import Request
from proxy.server.statistics import Statistics
from proxy.session.search_path import acting, current_user, marks, resolved
from proxy.session.settings import Settings
from proxy.sql.statement import Kind, Statement
from proxy.upstream.cancels import Cancels
from proxy.upstream.connection import ServerConnection, open_connection
from proxy.upstream.pool import Pool, PoolStatistics, Waiter
from proxy.wire.auth import NO_PROOF

if TYPE_CHECKING:
    from proxy.server.link import Link
    from proxy.server.session import Session
    from proxy.server.state import State

_log = structlog.get_logger()
_TEND_INTERVAL_S = 0.1
_ASLEEP_S = 1.0
_UNLIMITED = 1 << 30
_DEFAULT_SEARCH_PATH = '"$user", public'


class Sticky(NamedTuple):
    """What may decide where a session reads, besides its settings."""

    session: str  # something no other session has
    user: str


class Database:
    """One database of the configuration, in one worker.

    Args:
        configuration: Its section of the file; replaced by `configure`.
        authority: The cluster that writes go to, read from the clusters' state.
        catalog: What the authority looks like.
    """

    def __init__(self, configuration: Configuration, authority: Side, catalog: Catalog) -> None:
        self.configuration = configuration
        self.name = configuration.name
        self.authority = authority
        self._primary = Place(authority, 0)  # its server for writes
        self.epoch = 0
        self.has_state = False  # schema crossfade exists: the clusters know who the authority is
        self.catalogs: dict[Side, Catalog] = {}  # of both, as last read
        self.judge = Judge(catalog, captures=configuration.mirror.enabled)
        self.judge.is_installed = lambda: self.has_state
        self.forms = Forms(self.judge)
        self.hold: Hold[Request] = Hold()
        self.statistics = Statistics()
        self.acks = Acks()
        self.audits = Sampler()
        self.cancels = Cancels()
        self.sessions: set[Session] = set()
        self.servers: dict[Place, Freshness] = {}
        self.accounts = Accounts(self)
        self.defaults: dict[str, str] = {}  # user -> search_path that the servers give it
        self.on_doubt: Callable[[], None] = lambda: None  # the authority may have moved: look
        self.on_promotion: Callable[[], None] = lambda: None  # a replica may be the primary now: look
        self.on_schema_change: Callable[[], None] = lambda: None
        self._pools: dict[tuple[Place, str, bool], Pool] = {}
        self._turn = itertools.count()
        self.grace: asyncio.TimerHandle | None = None  # after it sessions end that could not follow
        self._rule = ReadRule()
        self._is_breaker_on = False
        self.breaker = Breaker(BreakerLimits())
        self.configure(configuration)

    def configure(self, configuration: Configuration) -> None:
        """Take a new configuration into force; sessions and pools stay."""
        captures = configuration.mirror.enabled
        before = {place: dsn for place, dsn in self.addresses().items() if place in self.servers}
        if captures != self.configuration.mirror.enabled:
            self.use_catalog(self.judge.catalog, captures=captures)
        self.configuration = configuration
        self.accounts.lookup.clear()
        rollout = configuration.rollout
        mirror = configuration.mirror
        self.judge.ddl_of = mirror.ddl_of
        self.audits.ratio = mirror.audit_ratio if mirror.enabled else 0.0
        self.acks.timeout_s = mirror.ack_timeout_s if mirror.enabled and mirror.ack == "sync" else None
        self.breaker.limits = BreakerLimits(
            rollout.breaker.bad_ratio, rollout.breaker.latency_max_s, rollout.breaker.window_s,
            rollout.breaker.rest_s, rollout.breaker.enabled,
        )  # fmt: skip
        self._scale_reads()
        after = self.addresses()
        kept = {place for place, dsn in after.items() if before.get(place) == dsn}
        self.servers = {place: self.servers[place] if place in kept else Freshness() for place in after}
        for key in [key for key in self._pools if key[0] not in kept]:
            self._pools.pop(key).close()
        for (_, user, *_), pool in self._pools.items():
            self._size(pool, user)

    def use_catalog(self, catalog: Catalog, *, captures: bool | None = None) -> None:
        """Judge and capture by another catalog from now on."""
        if captures is None:
            captures = self.configuration.mirror.enabled
        self.judge.use(catalog, captures=captures)
        self.forms.change_schema()

    def move_authority(self, authority: Side, epoch: int) -> None:
        """The authority is there now. Idle connections stay: reads and the way back use them."""
        self.authority = authority
        self._primary = Place(authority, 0)
        self.epoch = epoch
        self._scale_reads()
        if authority in self.catalogs:
            self.use_catalog(self.catalogs[authority])
        if self.grace is not None:
            self.grace.cancel()
            self.grace = None
        if self.sessions:
            loop = asyncio.get_running_loop()
            self.grace = loop.call_later(self.configuration.rollout.grace_s, self.end_grace)
            for session in list(self.sessions):
                session.authority_moved()

    @property
    def needs_freshness(self) -> bool:
        """Whether it matters how fresh each server is, or is in doubt who the authority is."""
        has_choice = len(self.servers) > 2 or self.configuration.rollout.reads_on_new_ratio > 0
        return has_choice or self.acks.timeout_s is not None or self.hold.is_on

    def may_run(self, request: Request, server: ServerConnection) -> bool:
        """Return whether the server that a request has waited for is still the one for it."""
        is_astray = request.goes_to_authority and self.is_elsewhere(server)
        return not (is_astray or (request.is_write and self.hold.is_on))

    def is_elsewhere(self, server: ServerConnection) -> bool:
        """Return whether a server is not of the authority."""
        return server.place.side is not self.authority

    def end_grace(self) -> None:
        """End the sessions that could not follow the authority."""
        for session in list(self.sessions):
            session.grace_ended()

    def lend(self, link: Link, state: State, request: Request, waiter: Waiter) -> ServerConnection | None:
        """Link an idle server for a request outside a transaction, or let it wait for one."""
        is_read = not request.goes_to_authority
        pool = self.read_pool(state) if is_read else self.write_pool(state)
        drawer = state if request.reads_drawn else None
        return link.take_or_wait(pool, state.wanted(is_read=is_read), waiter, drawer)

    def write_pool(self, state: State) -> Pool:
        """Return the pool of the authority."""
        return self.pool(self._primary, state.user)

    def read_pool(self, state: State) -> Pool:
        """Return the pool from which a read gets its server."""
        if len(self.servers) == 2 and not self._rule.reads_on_new_ratio:
            return self.pool(self._primary, state.user)  # there is nowhere else to go
        place = choose_read(
            self.authority,
            self.servers,
            self._rule,
            fraction=state.fraction,
            last_write_s=state.last_write_s,
            now_s=now_s(),
            turn=next(self._turn),
        )
        if place == self._primary:
            self._count_fallback(state)
        return self.pool(place, state.user)

    def observe(self, label: str, place: Place, seconds: float, *, has_failed: bool) -> None:
        """Count a request that was answered, or whose server was lost."""
        self.statistics.observe(label, place, seconds)
        if label == Kind.READ and self._is_breaker_on:
            self.breaker.observe(is_on_new=place.side is Side.NEW, seconds=seconds, has_failed=has_failed)

    def _count_fallback(self, state: State) -> None:
        reason = fallback_reason(
            self.authority, self.servers, self._rule, fraction=state.fraction, last_write_s=state.last_write_s
        )
        if reason is not None:
            self.statistics.fallbacks[reason] += 1

    def _scale_reads(self) -> None:
        """Let through what the breaker leaves of the percentage.

        Once the new cluster is the authority there is nothing to save its reads from: the old
        one is the mirror then.
        """
        rollout = self.configuration.rollout
        self._is_breaker_on = self.authority is Side.OLD and rollout.reads_on_new_ratio > 0
        share = self.breaker.share if self._is_breaker_on else 1.0
        self._rule = ReadRule(rollout.reads_on_new_ratio * share, rollout.max_staleness_s)

    def _tend_breaker(self) -> None:
        change = self.breaker.tend(now_s()) if self._is_breaker_on else None
        if change is not None:
            _log.warning("circuit breaker", database=self.name, change=change)
            self._scale_reads()

    def pool(self, place: Place, user: str) -> Pool:
        """Return the pool of a server for a user, made at first use.

        A cluster's primary has two: one that may write, used while it is the authority,
        and a read-only one, used while it is the mirror.
        """
        is_read_only = place.number > 0 or place.side is not self.authority
        key = (place, user, is_read_only)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._make_pool(place, user, is_read_only=is_read_only)
        return pool

    def dsn(self, place: Place, user: str) -> Dsn:
        """Return where a pool connects to, and as whom."""
        cluster = self.configuration.cluster(place.side.value)
        account = self.configuration.user(user)
        dsn = cluster.servers()[place.number]
        if account is None and user == dsn.user == self.accounts.auth_user:
            return dsn
        return dsn.as_user(user, account.password if account is not None else None)

    def search_path(self, user: str, settings: Settings) -> SearchPath:
        """Return the schemas in which a session's unqualified names are looked up."""
        setting = settings.values.get("search_path") or self.defaults.get(user, _DEFAULT_SEARCH_PATH)
        role = current_user(settings.values, user)
        return (*resolved(setting, role), *marks(settings.values), acting(role))

    def fraction(self, sticky: Sticky, settings: Settings) -> float:
        """Return where a session falls between 0 and 1: it reads on new below the percentage."""
        by = self.configuration.rollout.sticky_by
        if by in ("session", "user"):
            return sticky_fraction(sticky.session if by == "session" else sticky.user)
        return sticky_fraction(settings.values.get(by, sticky.user))

    def learn_write(self, request: Request) -> None:
        """A server refused a request we took for a read."""
        self.statistics.reruns_count += 1
        used = request.batch.used if request.batch is not None else ()
        for text in [each.query.decode(errors="surrogateescape") for each in used] or [request.text]:
            self.judge.learn_write(text)
        self.forms.forget()

    def authority_in_doubt(self, session: Session, request: Request, side: Side) -> None:
        """The fence of a side refused a write: hold it until it is known who the authority is.

        If that is known already the write goes there at once: nobody would end a hold that
        begins after the news has come. A write that has waited for too long fails.
        """
        rollout, waited_s = self.configuration.rollout, now_s() - request.started_s
        if side is not self.authority:
            session.resume(request)
        elif waited_s > rollout.max_pause_s + self.configuration.pool.wait_s:
            session.server_refused(AuthorityMoved("no cluster is the authority now", hint="try again"))
        else:
            if not self.hold.is_on:
                self.hold.begin(limit_s=rollout.max_pause_s)
            self.hold.queue(session, request)
            self.on_doubt()

    def missed(self, warning: bytes, request: Request) -> None:
        """An audit found changes that were not captured."""
        report(warning, request, self.judge.catalog, self.statistics, self.name)

    def settle_acks(self) -> None:
        """Acknowledge commits that the mirror has by now, or that have waited long enough."""
        mirror = self.servers.get(Place(self.authority.other, 0))
        fresh_until_s = mirror.fresh_until_s if mirror is not None else NEVER_S
        self.acks.settle(fresh_until_s=fresh_until_s, now_s=now_s())

    def schema_changed(self, statement: Statement | None = None) -> None:
        """A session ran DDL: the catalog must be read again."""
        if statement is not None and statement.ddl and self.judge.ddl_of(statement.ddl) == "warn":
            _log.warning("DDL is not mirrored", database=self.name, kind=statement.ddl, tag=statement.tag)
        self.forms.change_schema()
        self.on_schema_change()

    def session_closed(self, session: Session) -> None:
        """Forget a session."""
        self.sessions.discard(session)

    def pools(self) -> list[tuple[Place, str, PoolStatistics]]:
        """Return the statistics of every pool."""
        return [(place, user, pool.statistics()) for (place, user, _), pool in self._pools.items()]

    async def tend(self) -> None:
        """Look after the pools until cancelled."""
        looked_s = now_s()
        while True:
            await asyncio.sleep(_TEND_INTERVAL_S)
            looked_before_s, looked_s = looked_s, now_s()
            late_s = looked_s - looked_before_s - _TEND_INTERVAL_S
            asleep_s = late_s if late_s > _ASLEEP_S else 0.0  # stopped, or its machine paused
            settings = self.configuration.pool
            self.settle_acks()
            self._tend_breaker()
            for key, pool in list(self._pools.items()):
                pool.tend(idle_s=settings.idle_s, lifetime_s=settings.lifetime_s, asleep_s=asleep_s)
                if pool.is_forgettable:
                    del self._pools[key]  # of a user who is gone

    def close(self) -> None:
        """Close all pools."""
        for pool in self._pools.values():
            pool.close()
        if self.grace is not None:
            self.grace.cancel()

    def addresses(self) -> dict[Place, Dsn]:
        """Return where every server is."""
        return {
            Place(side, number): dsn
            for side in Side
            for number, dsn in enumerate(self.configuration.cluster(side.value).servers())
        }

    def _make_pool(self, place: Place, user: str, *, is_read_only: bool) -> Pool:
        settings = self.configuration.pool

        async def connect() -> ServerConnection:
            parameters = {"client_encoding": "UTF8"}
            if is_read_only:
                # Should the classifier take a write for a read, the server refuses it.
                parameters["options"] = "-c default_transaction_read_only=on"
            try:
                async with asyncio.timeout(settings.login_timeout_s):
                    proof = self.accounts.proofs.get(user, NO_PROOF)
                    return await open_connection(place, self.dsn(place, user), parameters, proof)
            except TimeoutError:
                raise UpstreamRefused(f"{place.side} {place.role} did not answer the login in time") from None
            except UpstreamRefused:
                if self._is_breaker_on:
                    self.breaker.observe(is_on_new=place.side is Side.NEW, seconds=0.0, has_failed=True)
                raise

        pool = Pool(
            connect,
            size_max=settings.size,
            wait_s=settings.wait_s,
            is_optional=is_read_only,
            spare=lambda is_needed: self._spare(place, is_needed=is_needed),
        )
        self._size(pool, user)
        return pool

    def _size(self, pool: Pool, user: str) -> None:
        """Give a pool the sizes of the configuration."""
        settings, account = self.configuration.pool, self.configuration.user(user)
        own = account.pool_size if account is not None else None
        pool.size_max = settings.size if own is None else own
        pool.size_min, pool.wait_s = min(settings.min, pool.size_max), settings.wait_s
        pool.reserve, pool.reserve_timeout_s = settings.reserve, settings.reserve_timeout_s

    def _spare(self, place: Place, *, is_needed: bool) -> int:
        """Return how many more connections a server may get; where it is needed, an idle one makes room."""
        limit = self.configuration.pool.max_connections
        if limit is None:
            return _UNLIMITED
        pools = [pool for (at, *_), pool in self._pools.items() if at == place]
        spare = limit - sum(pool.count for pool in pools)
        if spare <= 0 and is_needed:
            idle = [(pool.idle_since_s, pool) for pool in pools if pool.idle_since_s is not None]
            if idle:
                min(idle, key=lambda each: each[0])[1].evict()
                spare += 1
        return max(spare, 0)
