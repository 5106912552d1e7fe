"""Put together the status of everything from what the processes report. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from proxy.admin.status_model import (
    BackfillStatus,
    ClientsStatus,
    DatabaseStatus,
    GateStatus,
    LatencyStatus,
    RolloutStatus,
    ServerStatus,
    Side,
    Status,
)
from proxy.config import shown
from proxy.config.model import Config, Rollout
from proxy.config.model import Database as Configuration
from proxy.crossing.survey import Survey
from proxy.flags.watch import FlagWatch
from proxy.server.statistics import BUCKETS_S

Report = Mapping[str, Any]


def assemble(
    config: Config,
    file: str,
    *,
    engine: Report,
    workers: Sequence[Report],
    config_digest: str = "",
    config_problems: Sequence[str] = (),
    needs_restart: Sequence[str] = (),
    flags: FlagWatch | None = None,
) -> Status:
    """Return the status.

    Args:
        engine: `app.engine.report` by database; empty while the engine does not answer.
        workers: What each worker's `report` returned; empty where no proxy runs.
    """
    databases: dict[str, DatabaseStatus] = {}
    errors: dict[str, str] = {}
    for name, configuration in config.databases.items():
        of_workers = [worker["databases"][name] for worker in workers if name in worker["databases"]]
        databases[name] = _database(configuration, engine.get(name), of_workers)
        if name not in engine:
            errors[name] = "the engine does not answer"
    return Status(
        version=version("crossfade"),
        at=datetime.now(UTC).isoformat(),
        config_file=file,
        config_digest=config_digest,
        config=shown(config),
        config_problems=list(config_problems),
        needs_restart=list(needs_restart),
        flags={flag.key: str(value) for flag, value in flags.values.items()} if flags is not None else {},
        flag_problems=list(flags.problems.values()) if flags is not None else [],
        databases=databases,
        errors=errors,
    )


def totals(
    told: Status, engine: Report, workers: Sequence[Report], reloads: Mapping[str, int]
) -> dict[str, Any]:
    """Return the numbers that only metrics show; see `proxy.metrics.gather`."""
    databases = {}
    for name in told["databases"]:
        of_engine = engine.get(name) or {}
        converged = of_engine.get("converged") or {}
        databases[name] = {
            "statements": _statements(
                worker["databases"][name] for worker in workers if name in worker["databases"]
            ),
            "rows": [(table, origin, count) for (table, origin), count in converged.get("rows", {}).items()],
            "quarantined": converged.get("quarantined", {}),
            "last_pause_s": of_engine.get("last_pause_s"),
        }
    return {
        "clients": sum(worker["clients"] for worker in workers),
        "reloads": reloads,
        "databases": databases,
    }


def _database(
    configuration: Configuration, engine: Report | None, workers: Sequence[Report]
) -> DatabaseStatus:
    survey: Survey | None = engine["survey"] if engine is not None else None
    engine = engine or {}
    converged = engine.get("converged") or {}
    rollout = configuration.rollout
    authority: Side | None = engine.get("authority") or (workers[0]["authority"] if workers else None)
    names = (
        {table.id: f"{table.schema}.{table.name}" for table in survey.catalog.tables.values()}
        if survey
        else {}
    )
    misses: Counter[str] = Counter()
    last_misses: dict[str, str] = {}
    for worker in workers:
        misses.update(worker["capture_misses"])
        last_misses |= worker["last_misses"]
    return DatabaseStatus(
        authority=authority,
        epoch=engine.get("epoch") or (workers[0]["epoch"] if workers else 0),
        switching="switching" if engine.get("is_switching") else None,
        rollout=_rollout(rollout, engine, workers),
        gates=_gates(survey, rollout.force),
        ledger={
            "entries": sum(survey.depth.entries.values()) if survey else 0,
            "oldest_s": survey.depth.oldest_s if survey else 0.0,
            "size_bytes": survey.ledger_bytes if survey else 0,
            "tables": _ledger_tables(survey, names), "eta_s": engine.get("eta_s"),
            "walks": converged.get("walked", {}),
        },
        engine={
            "proxy": engine.get("proxy"), "owner": engine.get("owner"), "epoch": engine.get("lease", 0),
            "lag_s": converged.get("lag_s", 0.0),
            "success_ratio": converged.get("success_ratio") if configuration.mirror.enabled else None,
            "last_error": engine.get("last_error"), "error_at": None,
        },
        backfill=_backfill(configuration, engine, survey),
        quarantine=survey.quarantine if survey else [],  # type: ignore[typeddict-item]
        verification=_verification(survey),  # type: ignore[typeddict-item]
        read_parity_ratio=survey.snapshot.read_parity_ratio if survey else None,
        capture_misses=dict(misses),
        last_misses=last_misses,
        switches=survey.switches if survey else [],  # type: ignore[typeddict-item]
        proxies=survey.proxies if survey else [],  # type: ignore[typeddict-item]
        servers=_servers(configuration, workers),
        clients=_clients(workers),
        latency=_latency(workers),
    )  # fmt: skip


def _rollout(rollout: Rollout, engine: Report, workers: Sequence[Report]) -> RolloutStatus:
    fallbacks: Counter[str] = Counter()
    for worker in workers:
        fallbacks.update(worker["fallbacks"])
    breakers = [worker["breaker"] for worker in workers]
    share = min((each.share for each in breakers), default=1.0)
    return RolloutStatus(
        reads_on_new_ratio=rollout.reads_on_new_ratio,
        reads_allowed_ratio=rollout.reads_on_new_ratio * share,
        breaker=next((each.reason for each in breakers if each.reason), None),
        breaker_trips=sum(each.trips_count for each in breakers),
        read_fallbacks=dict(fallbacks),
        sticky_by=rollout.sticky_by,
        writes_on=rollout.writes_on,
        max_pause_s=rollout.max_pause_s,
        refused=engine.get("refused"),
    )


def _gates(survey: Survey | None, forced: Sequence[str]) -> list[GateStatus]:
    if survey is None:
        return [
            GateStatus(name="survey", passed=False, reason="the clusters have not been read", is_forced=False)
        ]
    return [
        GateStatus(name=name, passed=verdict.passed, reason=verdict.reason, is_forced=name in forced)
        for name, verdict in survey.verdicts.items()
    ]


def _ledger_tables(survey: Survey | None, names: Mapping[int, str]) -> dict[str, int]:
    if survey is None:
        return {}
    return {name: survey.depth.entries.get(number, 0) for number, name in names.items()}


def _backfill(configuration: Configuration, engine: Report, survey: Survey | None) -> BackfillStatus:
    copied = engine.get("backfill")
    tables = []
    for name, progress in (copied or {}).get("progress", {}).items():
        chunks, done = progress["chunks_count"], progress["migrated_count"]
        tables.append(
            {
                "table": name, "chunks": chunks, "chunks_done": done, "rows": progress["rows_count"],
                "rows_estimate": chunks * configuration.backfill.chunk_rows,
                "ratio": done / chunks if chunks else 0.0,
            }
        )  # fmt: skip
    is_complete = survey is not None and survey.snapshot.backfill_chunks_left == 0
    if not configuration.backfill.enabled or not configuration.mirror.enabled:
        state = "complete" if is_complete else "disabled"
    else:
        state = "complete" if is_complete else "paused" if configuration.backfill.pause else "running"
    blocked = "; ".join(f"{name}: {reason}" for name, reason in (copied or {}).get("blocked", {}).items())
    throttle = blocked or (copied["reason"] if copied and state != "complete" else None)
    return BackfillStatus(state=state, throttle=throttle, rows_per_s=0.0, tables=tables)  # type: ignore[typeddict-item]


def _verification(survey: Survey | None) -> dict[str, Any]:
    found = survey.verification if survey is not None else None
    if found is None:
        return {"at": None, "age_s": None, "tables": {}, "differing": 0, "differences": []}
    return {
        "at": found["at"].isoformat(), "age_s": found["age_s"], "tables": {"all": found["rows_count"]},
        "differing": found["differences_count"], "differences": [],
    }  # fmt: skip


def _servers(configuration: Configuration, workers: Sequence[Report]) -> list[ServerStatus]:
    found = []
    for server in workers[0]["servers"] if workers else ():
        cluster, number = server["cluster"], server["number"]
        pools = [
            pool for worker in workers for pool in worker["pools"]
            if (pool["cluster"], pool["number"]) == (cluster, number)
        ]  # fmt: skip
        dsn = configuration.cluster(cluster).servers()[number]
        found.append(
            ServerStatus(
                cluster=cluster, role=server["role"], address=f"{dsn.host}:{dsn.port}",
                is_up=server["is_up"], active=sum(pool["lent"] for pool in pools),
                idle=sum(pool["idle"] for pool in pools), lag_s=server["lag_s"],
                reason=None if server["is_up"] else "it does not answer, or is not what the file says",
            )
        )  # fmt: skip
    return found


def _clients(workers: Sequence[Report]) -> ClientsStatus:
    return ClientsStatus(
        count=sum(worker["clients"] for worker in workers),
        active=sum(pool["lent"] for worker in workers for pool in worker["pools"]),
        waiting=sum(pool["waiting"] for worker in workers for pool in worker["pools"])
        + sum(worker["held"] for worker in workers),
        pinned=[client for worker in workers for client in worker["pinned"]],
    )


def _statements(workers: Iterable[Report]) -> list[tuple[str, str, int, float, list[int]]]:
    merged: dict[tuple[str, str], tuple[int, float, list[int]]] = {}
    for worker in workers:
        for kind, destination, count, seconds, buckets in worker["statements"]:
            before = merged.get((kind, destination), (0, 0.0, [0] * len(buckets)))
            summed = [a + b for a, b in zip(before[2], buckets, strict=True)]
            merged[kind, destination] = (before[0] + count, before[1] + seconds, summed)
    return [(*key, *value) for key, value in merged.items()]


def _latency(workers: Sequence[Report]) -> list[LatencyStatus]:
    return [
        LatencyStatus(
            kind=kind, destination=destination, count=count, p50_ms=_quantile_ms(buckets, 0.5),
            p95_ms=_quantile_ms(buckets, 0.95), p99_ms=_quantile_ms(buckets, 0.99),
        )
        for kind, destination, count, _, buckets in _statements(workers)
    ]  # fmt: skip


def _quantile_ms(buckets: Sequence[int], share: float) -> float:
    """Return the upper bound of the bucket in which a quantile lies; the last bound beyond them all."""
    rank, seen = share * sum(buckets), 0
    for bound, count in zip(BUCKETS_S, buckets, strict=False):
        seen += count
        if seen >= rank:
            return bound * 1000
    return BUCKETS_S[-1] * 1000
