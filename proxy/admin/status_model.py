"""The shape of a status: what `crossfade status --json` and `/api/status` return.

One value per question an operator asks, plain enough for JSON. Who fills it reads
the clusters and the proxies once; the dashboard, the report and the console only
show it, so that all three agree. Ratios are between 0 and 1. Times are ISO 8601
with their zone, None where there is none yet.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

Side = Literal["old", "new"]


class WalkStatus(TypedDict):
    """How far a table is that is compared as a whole, or searched for copied rows."""

    ratio: float
    eta_s: float | None  # None: it cannot be told yet


class LedgerStatus(TypedDict):
    """Entries waiting on the authority."""

    entries: int
    oldest_s: float
    size_bytes: int
    tables: dict[str, int]  # entries by "schema.table"
    eta_s: float | None  # until it is empty, as things go; None: it does not shrink
    walks: dict[str, WalkStatus]  # by "schema.table"


class EngineStatus(TypedDict):
    """The process that converges, and how well it does."""

    proxy: str | None  # what this proxy is called in the clusters
    owner: str | None  # who holds the lease; None: nobody
    epoch: int  # of the lease, not of the authority
    lag_s: float
    success_ratio: float | None  # of the last minutes; None: nothing was tried
    last_error: str | None
    error_at: str | None


class BackfillTable(TypedDict):
    """How far one table's history is copied."""

    table: str
    chunks: int
    chunks_done: int
    rows: int  # copied so far
    rows_estimate: int
    ratio: float


class BackfillStatus(TypedDict):
    """How far all of it is copied, and what holds it back."""

    state: str  # running, complete, paused, disabled
    throttle: str | None  # the reason it is slowed down; None: it is not
    rows_per_s: float
    tables: list[BackfillTable]


class GateStatus(TypedDict):
    """One gate's verdict at this instant."""

    name: str
    passed: bool
    reason: str
    is_forced: bool  # the operator overrules it


class QuarantinedKey(TypedDict):
    """A row that cannot be converged, and why."""

    table: str
    key: list[str]
    attempts: int
    error: str
    retry_at: str | None


# The functional form, because `from` is no name Python lets a class have.
SwitchStatus = TypedDict(
    "SwitchStatus",
    {
        "epoch": int,
        "at": str,
        "from": Side,
        "to": Side,
        "pause_ms": float | None,  # the longest that a write was held
        "outcome": str,  # done, undone
        "reason": str,
    },
)


class RolloutStatus(TypedDict):
    """What the configuration asks for; the authority says what is."""

    reads_on_new_ratio: float
    reads_allowed_ratio: float  # what the circuit breaker leaves of it, in the worker that has least
    breaker: str | None  # why it is less
    breaker_trips: int
    read_fallbacks: dict[str, int]  # reads that stayed on the authority: down, own_write, stale
    sticky_by: str
    writes_on: Side
    max_pause_s: float
    refused: str | None  # why writes are not where the file wants them; None: they are, or soon will


class ProxyStatus(TypedDict):
    """A proxy that takes part in a switch, on whatever host."""

    name: str
    host: str | None
    since: str
    digest: str | None  # of its configuration file, as `config_digest`
    heard_s: float  # how long ago it was heard last
    state: str  # serving, holding; silent: it does not answer, and a switch goes on without it


class ServerStatus(TypedDict):
    """The pool of connections to one server, all users and workers together."""

    cluster: Side
    role: Literal["primary", "replica"]
    address: str
    is_up: bool
    active: int
    idle: int
    lag_s: float | None
    reason: str | None  # why it is not used


class PinnedClient(TypedDict):
    """A session that cannot move between servers."""

    address: str
    user: str
    application_name: str
    reason: str


class ClientsStatus(TypedDict):
    """Application sessions, all workers together."""

    count: int
    active: int
    waiting: int
    pinned: list[PinnedClient]


class Difference(TypedDict):
    """One row that differs."""

    table: str
    key: list[str]
    kind: str  # missing, extra, differing
    columns: list[str]


class VerificationStatus(TypedDict):
    """The last finished comparison of whole tables."""

    at: str | None
    age_s: float | None
    tables: dict[str, int]  # rows compared, by table
    differing: int
    differences: list[Difference]  # the first of them


class LatencyStatus(TypedDict):
    """Statements of one kind to one destination."""

    kind: str
    destination: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class DatabaseStatus(TypedDict):
    """All about one database."""

    authority: Side | None  # None: for the milliseconds of a switch
    epoch: int
    switching: str | None  # the step under way
    rollout: RolloutStatus
    gates: list[GateStatus]
    ledger: LedgerStatus
    engine: EngineStatus
    backfill: BackfillStatus
    quarantine: list[QuarantinedKey]
    verification: VerificationStatus
    read_parity_ratio: float | None
    capture_misses: dict[str, int]  # by table
    last_misses: dict[str, str]  # by table: the statement, and what to do
    switches: list[SwitchStatus]  # newest first
    proxies: list[ProxyStatus]  # the oldest first
    servers: list[ServerStatus]
    clients: ClientsStatus
    latency: list[LatencyStatus]


class Status(TypedDict):
    """All about everything."""

    version: str
    at: str
    uptime_s: NotRequired[float]  # absent where no proxy runs
    config_file: str
    config_digest: str  # of the file's text as last read, taken or refused: `config.digest`
    config: dict[str, str]  # what is in force, by key; passwords are hidden
    config_problems: list[str]  # of the last reload; empty: it was taken
    needs_restart: list[str]  # changes that wait for one
    flags: dict[str, str]  # the last values, by the provider's keys
    flag_problems: list[str]  # why a last value is kept
    databases: dict[str, DatabaseStatus]
    errors: dict[str, str]  # databases whose status could not be read, and why


class Plan(TypedDict):
    """What a reload of the file would change, and what stands in the way of it."""

    is_running: bool  # False: no proxy to compare with, so nothing is listed as changed
    live: list[str]
    needs_restart: list[str]
    refused: list[str]  # what the file asks for and a gate would refuse now
    gates: dict[str, list[GateStatus]]  # by database


class Readiness(TypedDict):
    """Whether the way back is open at this instant, and what would stand in it."""

    is_ready: bool
    to: Side
    reasons: list[str]


def way_back(database: DatabaseStatus) -> Readiness:
    """Return whether the authority could move to the other side now.

    Before the first switch this is the way forward; after it, the rollback. Both
    are the same switch, judged by the same gates.
    """
    to: Side = "old" if database["authority"] == "new" else "new"
    reasons = [
        f"{gate['name']}: {gate['reason']}"
        for gate in database["gates"]
        if not gate["passed"] and not gate["is_forced"]
    ]
    if database["authority"] is None:
        reasons.insert(0, "a switch is under way")
    if database["engine"]["owner"] is None:
        reasons.append("engine: no process holds the lease, so nothing converges")
    reasons += [
        f"{server['cluster']} primary {server['address']}: {server['reason'] or 'down'}"
        for server in database["servers"]
        if server["role"] == "primary" and server["cluster"] == to and not server["is_up"]
    ]
    return Readiness(is_ready=not reasons, to=to, reasons=reasons)
