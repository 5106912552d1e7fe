"""Read, at one moment, everything about a database that gates, status and metrics look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from proxy.backfill import chunks
from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config.model import Database as Configuration
from proxy.config.model import Gates, Tables
from proxy.converge.plan import plans
from proxy.converge.statistics import Statistics as Converged
from proxy.crossing.gates import Limits, Snapshot, Trial, Verdict, judge
from proxy.ledger import proxies
from proxy.ledger.depth import Depth, depth
from proxy.ledger.state import read_state
from proxy.routing.policy import Side

_QUARANTINE_SHOWN_MAX = 20
_SWITCHES_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What was read; `catalog` is the authority's, `target_catalog` the mirror's.

    Of the authority alone (`read_alone`) there is one verdict, and both catalogs are its.
    """

    snapshot: Snapshot
    verdicts: Mapping[str, Verdict]
    depth: Depth
    catalog: Catalog
    target_catalog: Catalog
    writes_on: str | None = None  # what the file said then: other proxies were compared with it
    ledger_bytes: int = 0
    verification: Mapping[str, Any] | None = None
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    switches: list[dict[str, Any]] = field(default_factory=list)
    proxies: list[dict[str, Any]] = field(default_factory=list)


def limits_of(gates: Gates) -> Limits:
    """Return the limits that the configuration sets."""
    return Limits(
        mirror_success_ratio_min=gates.mirror_success_ratio,
        read_parity_ratio_min=gates.read_parity_ratio,
        verified_age_s_max=gates.verified_within_s,
        lag_s_max=gates.max_lag_s,
        ledger_entries_max=gates.ledger_entries_max,
    )


async def read(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    authority: Side,
    configuration: Configuration,
    converged: Converged | None,
    catalogs: tuple[Catalog, Catalog],
    trial: Trial | None,
    *,
    name: str | None = None,
) -> Survey:
    """Read both clusters; `source` is the authority's primary.

    Args:
        converged: What the engine counted; None where the reader is not the engine.
        catalogs: Of both, as `read_catalogs` returned them not long ago.
        trial: The newest; None: there was none yet.
        name: Of the proxy that reads, if it is one.
    """
    here, there = catalogs
    found = await depth(source)
    _, differences = plans(here, there)
    verification = await _verification(source, target)
    ids = [table.id for table in here.tables.values()]
    # Once the new side is the authority there is no history left to copy: what it lacks, the
    # old side has had since before the switch.
    left = await chunks.left(target, ids) if authority is Side.OLD else 0
    snapshot = Snapshot(
        mirror_success_ratio=converged.success_ratio if converged is not None else None,
        ledger_entries_count=sum(found.entries.values()),
        lag_s=found.oldest_s,
        quarantined_keys_count=sum(found.quarantined.values()),
        backfill_chunks_left=left,
        verified_age_s=verification["age_s"] if verification is not None else None,
        differences_count=verification["differences_count"] if verification is not None else 0,
        unverified_tables=tuple(verification["problems"]) if verification is not None else (),
        read_parity_ratio=None,
        schema_differences=tuple(sorted(differences.values())),
        trial=trial,
        dissenting_proxies=tuple(await proxies.dissenting(source, name, configuration.rollout.writes_on)),
    )
    return Survey(
        snapshot=snapshot,
        verdicts=judge(snapshot, limits_of(configuration.rollout.gates)),
        depth=found,
        catalog=here,
        target_catalog=there,
        writes_on=configuration.rollout.writes_on,
        ledger_bytes=await _ledger_bytes(source),
        verification=verification,
        quarantine=await _quarantine(source) if found.quarantined else [],
        switches=await _switches(source),
        proxies=[{**each._asdict(), "since": _iso(each.since)} for each in await proxies.known(source)],
    )


async def read_alone(source: asyncpg.Connection, tables: Tables, reason: str) -> Survey | None:
    """Read what one cluster knows by itself; None if it is not the authority.

    Args:
        reason: Why the other one is not read; it is the only verdict.
    """
    if not (await read_state(source)).is_authority:
        return None
    found = await depth(source)
    catalog = await read_catalog(source, tables)
    snapshot = Snapshot(
        mirror_success_ratio=None,
        ledger_entries_count=sum(found.entries.values()),
        lag_s=found.oldest_s,
        quarantined_keys_count=sum(found.quarantined.values()),
        backfill_chunks_left=None,
        verified_age_s=None,
        differences_count=0,
        unverified_tables=(),
        read_parity_ratio=None,
        schema_differences=(),
    )
    return Survey(
        snapshot=snapshot,
        verdicts={"both_clusters": Verdict(False, reason)},
        depth=found,
        catalog=catalog,
        target_catalog=catalog,
        ledger_bytes=await _ledger_bytes(source),
        quarantine=await _quarantine(source) if found.quarantined else [],
        switches=await _switches(source),
        proxies=[{**each._asdict(), "since": _iso(each.since)} for each in await proxies.known(source)],
    )


async def read_catalogs(
    source: asyncpg.Connection, target: asyncpg.Connection, tables: Tables
) -> tuple[Catalog, Catalog]:
    """Return what both clusters look like; it takes some tens of milliseconds."""
    return await read_catalog(source, tables), await read_catalog(target, tables)


async def _ledger_bytes(source: asyncpg.Connection) -> int:
    return int(await source.fetchval("SELECT pg_total_relation_size('crossfade.ledger')"))


async def _verification(source: asyncpg.Connection, target: asyncpg.Connection) -> dict[str, Any] | None:
    """Return the newest comparison of all tables, whichever side it was stored on."""
    newest: dict[str, Any] | None = None
    for connection in (source, target):
        row = await connection.fetchrow(
            "SELECT *, extract(epoch FROM clock_timestamp() - at)::float8 AS age_s"
            " FROM crossfade.verification WHERE is_whole ORDER BY at DESC LIMIT 1"
        )
        if row is not None and (newest is None or row["age_s"] < newest["age_s"]):
            newest = dict(row)
    return newest


async def _quarantine(source: asyncpg.Connection) -> list[dict[str, Any]]:
    found = await source.fetch(
        "SELECT DISTINCT ON (l.tbl, l.key) t.schema || '.' || t.name AS table, l.key, l.attempts, l.error,"
        " l.retry_at FROM crossfade.ledger l JOIN crossfade.tables t ON t.id = l.tbl"
        " WHERE l.attempts > 0 ORDER BY l.tbl, l.key, l.attempts DESC LIMIT $1",
        _QUARANTINE_SHOWN_MAX,
    )
    return [{**row, "key": list(row["key"] or ()), "retry_at": _iso(row["retry_at"])} for row in found]


async def _switches(source: asyncpg.Connection) -> list[dict[str, Any]]:
    found = await source.fetch(
        "SELECT epoch, at, moved_from, moved_to, pause_ms, outcome, coalesce(reason, '') AS reason"
        " FROM crossfade.switches ORDER BY at DESC LIMIT $1",
        _SWITCHES_SHOWN_MAX,
    )
    return [
        {"epoch": row["epoch"], "at": _iso(row["at"]), "from": row["moved_from"], "to": row["moved_to"],
         "pause_ms": row["pause_ms"], "outcome": row["outcome"], "reason": row["reason"]}
        for row in found
    ]  # fmt: skip


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
