"""The metrics are told of by their pinned names, with or without anything to tell."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import proxy
from proxy.metrics import COUNTERS, GAUGES, HISTOGRAMS, gather
from tests.unit.admin.sample import database_status, status

DESIGN = """
crossfade_clients crossfade_servers{cluster,role,state} crossfade_statements_total{database,kind,destination}
crossfade_statement_seconds{database,kind,destination} crossfade_ledger_entries{database,table}
crossfade_ledger_oldest_seconds{database} crossfade_converged_rows_total{database,table,origin}
crossfade_mirror_success_ratio{database} crossfade_quarantined_keys{database,table}
crossfade_backfill_rows_total{database,table} crossfade_backfill_progress_ratio{database,table}
crossfade_read_parity_ratio{database} crossfade_authority{database,cluster} crossfade_epoch{database}
crossfade_switch_pause_seconds{database} crossfade_config_reloads_total{result}
crossfade_capture_misses_total{database,table}
"""
NOTHING = {"clients": 0, "reloads": {}, "databases": {}}


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample; a scrape that holds one twice is refused by Prometheus."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def test_the_pinned_names_have_their_labels() -> None:
    pinned = {
        name: tuple(labels.split(",")) if labels else ()
        for name, labels in re.findall(r"(crossfade_\w+)(?:\{([\w,]+)\})?", DESIGN)
    }
    ours = {name: labels for name, (_, labels) in {**GAUGES, **COUNTERS, **HISTOGRAMS}.items()}
    assert pinned.items() <= ours.items()


def test_every_name_is_told_of_before_there_is_anything_to_tell() -> None:
    text = gather({"databases": {}}, NOTHING, ()).decode()
    for name in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} " in text


def test_several_servers_of_one_role_are_added_up() -> None:
    told = status()
    (server,) = told["databases"]["app"]["servers"]
    told["databases"]["app"]["servers"] = [
        server,
        {**server, "role": "replica"},
        {**server, "role": "replica"},
    ]
    told["databases"]["other"] = database_status()
    found = samples(gather(told, NOTHING, ()))
    labels = (("cluster", "old"), ("role", "replica"), ("state", "idle"))
    assert found["crossfade_servers", labels] == 4
    assert found["crossfade_servers", (("cluster", "old"), ("role", "primary"), ("state", "active"))] == 2


def test_histogram_adds_up() -> None:
    totals = {
        "clients": 3,
        "reloads": {"applied": 2},
        "databases": {
            "app": {"statements": [("read", "old_replica", 6, 1.5, [1, 2, 3])], "last_pause_s": 0.017}
        },
    }
    found = samples(gather(status(), totals, (0.1, 0.2)))
    labels = (("database", "app"), ("destination", "old_replica"), ("kind", "read"))
    assert found["crossfade_statements_total", labels] == 6
    assert found["crossfade_statement_seconds_count", labels] == 6
    assert found["crossfade_statement_seconds_sum", labels] == 1.5
    buckets = {
        dict(key)["le"]: value
        for (name, key), value in found.items()
        if name == "crossfade_statement_seconds_bucket"
    }
    assert buckets == {"0.1": 1, "0.2": 3, "+Inf": 6}
    assert found["crossfade_switch_pause_seconds", (("database", "app"),)] == 0.017
    assert found["crossfade_config_reloads_total", (("result", "applied"),)] == 2


def test_dashboards_and_alerts_use_names_that_exist() -> None:
    known = {*GAUGES, *COUNTERS, *HISTOGRAMS}
    for file in (Path(proxy.__file__).parent.parent / "config").iterdir():
        used = set(
            re.findall(
                r"\bcrossfade_[a-z_]+_(?:total|seconds|ratio)(?:_bucket|_count|_sum)?\b", file.read_text()
            )
        )
        assert {re.sub("_(bucket|count|sum)$", "", name) for name in used} <= known, file


def test_the_metrics_say_what_the_status_says() -> None:
    told = status()
    told["databases"]["app"]["capture_misses"] = {"public.users": 2}
    counted = {
        "statements": [],
        "rows": [("public.users", "live", 7)],
        "quarantined": {"public.users": 1},
        "last_pause_s": 0.017,
    }
    found = samples(gather(told, {"clients": 4, "reloads": {"ok": 3}, "databases": {"app": counted}}, ()))

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert value("crossfade_clients") == 4
    assert value("crossfade_config_reloads_total", result="ok") == 3
    for cluster, is_authority in (("old", 0), ("new", 1)):
        assert value("crossfade_authority", database="app", cluster=cluster) == is_authority
    table = {"database": "app", "table": "public.users"}
    assert value("crossfade_ledger_entries", **table) == 3
    assert value("crossfade_quarantined_keys", **table) == 1
    assert value("crossfade_backfill_rows_total", **table) == 100_000
    assert value("crossfade_backfill_progress_ratio", **table) == 0.5
    assert value("crossfade_capture_misses_total", **table) == 2
    assert value("crossfade_converged_rows_total", **table, origin="live") == 7
    for name, expected in (
        ("crossfade_epoch", 2),
        ("crossfade_ledger_oldest_seconds", 0.2),
        ("crossfade_mirror_success_ratio", 1.0),
        ("crossfade_read_parity_ratio", 0.999999),
        ("crossfade_switch_pause_seconds", 0.017),
    ):
        assert value(name, database="app") == expected


def test_what_is_not_known_is_not_told() -> None:
    told = status()
    told["databases"]["app"]["read_parity_ratio"] = None
    found = samples(gather(told, {**NOTHING, "databases": {"app": {"last_pause_s": None}}}, ()))
    names = {name for name, _ in found}
    assert not {"crossfade_read_parity_ratio", "crossfade_switch_pause_seconds"} & names
