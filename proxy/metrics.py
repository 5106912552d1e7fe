"""The pinned metrics (DESIGN, section 10), made from plain numbers.

Every process counts in integers and floats; the supervisor adds them up and hands them
here. Nothing on the hot path knows Prometheus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_DATABASE, _TABLE = ("database",), ("database", "table")
_STATEMENT = ("database", "kind", "destination")

# Every metric with its labels. All are told of at every scrape, if only by their type: whoever
# writes an alert can see that the name exists before the first sample does.
GAUGES = {
    "crossfade_clients": ("Connected clients", ()),
    "crossfade_servers": ("Server connections", ("cluster", "role", "state")),
    "crossfade_ledger_entries": ("Rows that may differ on the mirror", _TABLE),
    "crossfade_ledger_oldest_seconds": ("Age of the oldest entry", _DATABASE),
    "crossfade_mirror_success_ratio": ("Entries converged without quarantine", _DATABASE),
    "crossfade_quarantined_keys": ("Keys the mirror refuses", _TABLE),
    "crossfade_backfill_progress_ratio": ("Chunks copied", _TABLE),
    "crossfade_read_parity_ratio": ("Shadow reads that agree", _DATABASE),
    "crossfade_reads_allowed_ratio": (
        "Share of reads that may go to new now",
        _DATABASE,
    ),
    "crossfade_gate_passed": ("1 while a gate holds", ("database", "gate")),
    "crossfade_authority": ("1 for the cluster that takes writes", ("database", "cluster")),
    "crossfade_epoch": ("Number of the authority's reign", _DATABASE),
    "crossfade_switch_pause_seconds": ("Pause of the last switch", _DATABASE),
}
COUNTERS = {
    "crossfade_statements_total": ("Requests answered", _STATEMENT),
    "crossfade_converged_rows_total": ("Rows made equal on the mirror", ("database", "table", "origin")),
    "crossfade_backfill_rows_total": ("Rows of history copied", _TABLE),
    "crossfade_breaker_trips_total": ("Times that reads were taken off new", _DATABASE),
    "crossfade_read_fallbacks_total": ("Reads that stayed on the authority", ("database", "reason")),
    "crossfade_config_reloads_total": ("Reloads of the configuration", ("result",)),
    "crossfade_capture_misses_total": ("Changes that no entry described", _TABLE),
}
HISTOGRAMS = {"crossfade_statement_seconds": ("From a request's arrival to its answer", _STATEMENT)}


class Gathered:
    """Samples under the names above."""

    def __init__(self) -> None:
        self._gauges = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()
        }
        self._counters = {
            name: CounterMetricFamily(name, text, labels=labels) for name, (text, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: HistogramMetricFamily(name, text, labels=labels)
            for name, (text, labels) in HISTOGRAMS.items()
        }

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a gauge."""
        self._gauges[name].add_metric(labels, value)

    def counter(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a counter."""
        self._counters[name].add_metric(labels, value)

    def histogram(
        self, name: str, bounds: Sequence[float], counts: Sequence[int], total: float, *labels: str
    ) -> None:
        """Add a histogram; `counts` are per bucket, one more than `bounds`."""
        cumulative, buckets = 0, []
        for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
            cumulative += count
            buckets.append((bound, float(cumulative)))
        self._histograms[name].add_metric(labels, buckets, total)

    def render(self) -> bytes:
        """Return the Prometheus text."""
        registry = CollectorRegistry(auto_describe=False)
        families = (*self._gauges.values(), *self._counters.values(), *self._histograms.values())
        registry.register(_Once(families))
        return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def gather(told: Mapping[str, Any], totals: Mapping[str, Any], bounds: Sequence[float]) -> bytes:
    """Return the metrics of everything.

    Args:
        told: The status (`admin.status_model.Status`).
        totals: What only counts: `clients`, `reloads` by result, and by database
            `statements` (kind, destination, count, seconds, buckets), `rows` (table,
            origin, count) and `last_pause_s`.
        bounds: Upper bounds of the statement histogram's buckets, in seconds.
    """
    out = Gathered()
    out.gauge("crossfade_clients", totals["clients"])
    for result, count in totals["reloads"].items():
        out.counter("crossfade_config_reloads_total", count, result)
    for labels, count in _servers(told).items():
        out.gauge("crossfade_servers", count, *labels)
    for name, database in told["databases"].items():
        of_database = totals["databases"].get(name, {})
        _database(out, name, database, of_database, bounds)
        _mirror(out, name, database, of_database)
    return out.render()


def _servers(told: Mapping[str, Any]) -> Counter[tuple[str, str, str]]:
    """Return connections by cluster, role and state: several replicas, or databases, are added up."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for database in told["databases"].values():
        for server in database["servers"]:
            for state in ("active", "idle"):
                counts[server["cluster"], server["role"], state] += server[state]
    return counts


def _database(
    out: Gathered, name: str, database: Mapping[str, Any], totals: Mapping[str, Any], bounds: Sequence[float]
) -> None:
    for cluster in ("old", "new"):
        out.gauge("crossfade_authority", float(database["authority"] == cluster), name, cluster)
    out.gauge("crossfade_epoch", database["epoch"], name)
    rollout = database["rollout"]
    out.gauge("crossfade_reads_allowed_ratio", rollout["reads_allowed_ratio"], name)
    out.counter("crossfade_breaker_trips_total", rollout["breaker_trips"], name)
    for reason, count in rollout["read_fallbacks"].items():
        out.counter("crossfade_read_fallbacks_total", count, name, reason)
    for gate in database["gates"]:
        out.gauge("crossfade_gate_passed", float(gate["passed"]), name, gate["name"])
    if totals.get("last_pause_s") is not None:
        out.gauge("crossfade_switch_pause_seconds", totals["last_pause_s"], name)
    for kind, destination, count, seconds, buckets in totals.get("statements", ()):
        out.counter("crossfade_statements_total", count, name, kind, destination)
        out.histogram("crossfade_statement_seconds", bounds, buckets, seconds, name, kind, destination)
    for table, count in database["capture_misses"].items():
        out.counter("crossfade_capture_misses_total", count, name, table)


def _mirror(out: Gathered, name: str, database: Mapping[str, Any], totals: Mapping[str, Any]) -> None:
    ledger, engine = database["ledger"], database["engine"]
    for table, count in ledger["tables"].items():
        out.gauge("crossfade_ledger_entries", count, name, table)
    out.gauge("crossfade_ledger_oldest_seconds", ledger["oldest_s"], name)
    ratio = 1.0 if engine["success_ratio"] is None else engine["success_ratio"]
    out.gauge("crossfade_mirror_success_ratio", ratio, name)
    for table, origin, count in totals.get("rows", ()):
        out.counter("crossfade_converged_rows_total", count, name, table, origin)
    for table, count in totals.get("quarantined", {}).items():
        out.gauge("crossfade_quarantined_keys", count, name, table)
    for table in database["backfill"]["tables"]:
        out.counter("crossfade_backfill_rows_total", table["rows"], name, table["table"])
        out.gauge("crossfade_backfill_progress_ratio", table["ratio"], name, table["table"])
    if database["read_parity_ratio"] is not None:
        out.gauge("crossfade_read_parity_ratio", database["read_parity_ratio"], name)
