"""The status is what engine and workers report, added up, and it says what it does not know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.app.status import assemble, totals
from proxy.config.load import loads
from proxy.config.model import Config
from proxy.crossing.gates import Snapshot, Verdict
from proxy.crossing.survey import Survey
from proxy.ledger.depth import Depth
from proxy.routing.breaker import BreakerStatistics
from proxy.routing.policy import Place, Side
from proxy.server.statistics import BUCKETS_S, Statistics
from tests.unit.capture.sample import catalog, table
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed

SNAPSHOT = Snapshot(
    mirror_success_ratio=1.0,
    ledger_entries_count=5,
    lag_s=0.5,
    quarantined_keys_count=0,
    backfill_chunks_left=3,
    verified_age_s=60.0,
    differences_count=0,
    unverified_tables=(),
    read_parity_ratio=None,
    schema_differences=(),
)
OLD, REPLICA = Place(Side.OLD, 0), Place(Side.OLD, 1)


def survey(**changes: Any) -> Survey:
    found: dict[str, Any] = {
        "snapshot": SNAPSHOT,
        "verdicts": {"backfill_complete": Verdict(False, "3 chunks left"), "verified": Verdict(True, "fine")},
        "depth": Depth({1: 4, 9: 1}, {}, 0.5),
        "catalog": catalog(table(1, "a"), table(2, "b")),
        "target_catalog": catalog(),
        "ledger_bytes": 8192,
    }
    return Survey(**{**found, **changes})


def engine(**changes: Any) -> dict[str, Any]:
    """Return what `app.engine.report` returns."""
    report = {
        "authority": "old", "epoch": 3, "owner": "host:1", "lease": 7, "is_switching": False, "refused": None,
        "last_pause_s": None, "last_error": None, "survey": survey(), "converged": None, "backfill": None,
    }  # fmt: skip
    return {"app": {**report, **changes}}


def worker(clients: int = 2, statistics: Statistics | None = None, **changes: Any) -> dict[str, Any]:
    """Return what a worker's `report` returns, its sessions using one connection to the old primary."""
    server = {"cluster": "old", "role": "primary", "number": 0}
    pool = {**server, "user": "app", "idle": 1, "lent": 1, "opening": 0, "waiting": 0, "waited_s_max": 0.0}
    database = {
        "authority": "old", "epoch": 3, "clients": clients, "held": 0, "writers": 0, "reruns": 0,
        "fallbacks": {"own_write": 2}, "breaker": BreakerStatistics(0.5, 1, "slow"),
        "statements": (statistics or Statistics()).statements(), "capture_misses": {},
        "last_misses": {}, "pinned": [],
        "pools": [pool],
        "servers": [
            {**server, "is_up": True, "lag_s": 0.0},
            {**server, "role": "replica", "number": 1, "is_up": False, "lag_s": None},
        ],
    }  # fmt: skip
    return {"clients": clients + 1, "databases": {"app": {**database, **changes}}}


def config(text: str = SAMPLE) -> Config:
    return loads(text, ENVIRONMENT)


def told(
    engine: dict[str, Any] | None = None, *workers: dict[str, Any], text: str = SAMPLE
) -> dict[str, Any]:
    """Return the status of the database."""
    status = assemble(config(text), "f.yaml", engine=engine or {}, workers=workers)
    return dict(status["databases"]["app"])


# Of the engine.


def test_what_the_engine_knows_is_told() -> None:
    status = told(engine(refused="not yet", is_switching=True, eta_s=12.0))
    assert (status["authority"], status["epoch"], status["switching"]) == ("old", 3, "switching")
    assert status["rollout"]["refused"] == "not yet" and status["rollout"]["writes_on"] == "old"
    assert status["ledger"] == {
        "entries": 5,
        "oldest_s": 0.5,
        "size_bytes": 8192,
        "tables": {"public.a": 4, "public.b": 0},
        "eta_s": 12.0,
        "walks": {},
    }
    assert status["gates"] == [
        {"name": "backfill_complete", "passed": False, "reason": "3 chunks left", "is_forced": False},
        {"name": "verified", "passed": True, "reason": "fine", "is_forced": False},
    ]
    assert (status["engine"]["owner"], status["engine"]["epoch"]) == ("host:1", 7)


def test_a_forced_gate_is_shown_as_such() -> None:
    text = changed("writes_on: old", "writes_on: old\n      force: [backfill_complete]")
    assert [gate["is_forced"] for gate in told(engine(), text=text)["gates"]] == [True, False]


def test_an_engine_that_does_not_answer_is_an_error_and_opens_no_gate() -> None:
    status = assemble(config(), "f.yaml", engine={}, workers=[worker()])
    assert status["errors"] == {"app": "the engine does not answer"}
    database = status["databases"]["app"]
    assert [gate["passed"] for gate in database["gates"]] == [False]
    assert (database["authority"], database["epoch"]) == ("old", 3)  # the workers know
    assert database["engine"]["owner"] is None


def test_nobody_who_answers_is_no_authority() -> None:
    status = told()
    assert (status["authority"], status["epoch"]) == (None, 0)


def test_the_success_of_a_mirror_that_is_off_is_not_told() -> None:
    converged = {"rows": {}, "quarantined": {}, "paused": {}, "success_ratio": 0.5, "lag_s": 2.0}
    assert told(engine(converged=converged))["engine"]["success_ratio"] == 0.5
    off = changed("mirror: {enabled: true, ack: async}", "mirror: {enabled: false}")
    assert told(engine(converged=converged), text=off)["engine"]["success_ratio"] is None


COPIED = {
    "progress": {"public.a": {"chunks_count": 4, "migrated_count": 1, "rows_count": 1000}},
    "blocked": {},
    "reason": "ledger depth",
    "is_complete": False,
}


@pytest.mark.parametrize(
    ("line", "left", "state", "throttle"),
    [
        ("backfill: {enabled: true, chunk_rows: 1000}", 3, "running", "ledger depth"),
        ("backfill: {enabled: true, chunk_rows: 1000}", None, "running", "ledger depth"),
        ("backfill: {enabled: true, chunk_rows: 1000}", 0, "complete", None),
        ("backfill: {pause: true, chunk_rows: 1000}", 3, "paused", "ledger depth"),
        ("backfill: {enabled: false, chunk_rows: 1000}", 3, "disabled", "ledger depth"),
        ("backfill: {enabled: false, chunk_rows: 1000}", 0, "complete", None),
    ],
)
def test_how_far_the_history_is_and_what_holds_it_back(
    line: str, left: int | None, state: str, throttle: str | None
) -> None:
    text = changed("backfill: {enabled: true, chunk_rows: 1000}", line)
    found = survey(snapshot=SNAPSHOT.__class__(**{**_fields(SNAPSHOT), "backfill_chunks_left": left}))
    backfill = told(engine(survey=found, backfill=COPIED), text=text)["backfill"]
    assert (backfill["state"], backfill["throttle"]) == (state, throttle)
    assert backfill["tables"] == [
        {
            "table": "public.a",
            "chunks": 4,
            "chunks_done": 1,
            "rows": 1000,
            "rows_estimate": 4000,
            "ratio": 0.25,
        }
    ]


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {name: getattr(snapshot, name) for name in snapshot.__slots__}


def test_a_table_that_cannot_be_copied_is_the_reason_whatever_else_is() -> None:
    copied = {**COPIED, "blocked": {"public.b": "no key"}}
    assert told(engine(backfill=copied))["backfill"]["throttle"] == "public.b: no key"


def test_the_last_comparison_is_told_with_its_zone() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    found = {"at": at, "age_s": 60.0, "rows_count": 10, "differences_count": 2}
    verification = told(engine(survey=survey(verification=found)))["verification"]
    assert (verification["at"], verification["age_s"], verification["differing"]) == (
        "2030-01-01T00:00:00+00:00",
        60.0,
        2,
    )
    assert told(engine())["verification"]["at"] is None


# Of the workers.


def test_workers_are_added_up() -> None:
    first = worker(held=2, capture_misses={"public.a": 1}, pinned=[{"reason": "LISTEN"}])
    second = worker(clients=3, capture_misses={"public.a": 2, "public.b": 1})
    status = told(engine(), first, second)
    assert status["clients"] == {"count": 5, "active": 2, "waiting": 2, "pinned": [{"reason": "LISTEN"}]}
    assert status["capture_misses"] == {"public.a": 3, "public.b": 1}
    primary, replica = status["servers"]
    assert (primary["address"], primary["active"], primary["idle"]) == ("127.0.0.1:5501", 2, 2)
    assert (primary["reason"], replica["address"]) == (None, "127.0.0.1:5503")
    assert replica["reason"] is not None and not replica["is_up"]


def test_a_worker_that_has_not_opened_the_database_yet_is_left_out() -> None:
    starting = {"clients": 0, "databases": {}}
    assert told(engine(), starting, worker())["clients"]["count"] == 2


def observed(*seconds: float, place: Place = OLD) -> Statistics:
    statistics = Statistics()
    for each in seconds:
        statistics.observe("read", place, each)
    return statistics


def test_latencies_of_all_workers_are_one_histogram() -> None:
    fast, slow = observed(*[0.0004] * 90), observed(*[0.3] * 10)
    (latency,) = told(engine(), worker(statistics=fast), worker(statistics=slow))["latency"]
    assert (latency["kind"], latency["destination"], latency["count"]) == ("read", "old_primary", 100)
    assert (latency["p50_ms"], latency["p95_ms"], latency["p99_ms"]) == (0.5, 500.0, 500.0)


def test_each_destination_has_its_own() -> None:
    both = observed(0.001)
    both.observe("read", REPLICA, 20.0)
    found = {
        each["destination"]: each["p50_ms"] for each in told(engine(), worker(statistics=both))["latency"]
    }
    assert found == {"old_primary": 1.0, "old_replica": 10_000.0}  # beyond the last bound: at least that


@given(st.lists(st.floats(0.0001, 9.9), min_size=1, max_size=200), st.sampled_from([50, 95, 99]))
def test_a_quantile_is_the_bound_of_the_bucket_that_holds_it(seconds: list[float], percent: int) -> None:
    (latency,) = told(engine(), worker(statistics=observed(*seconds)))["latency"]
    ordered = sorted(seconds)
    rank = -(-len(ordered) * percent // 100)  # of the smallest that at least this share does not exceed
    bound_ms = next(bound for bound in BUCKETS_S if bound >= ordered[rank - 1]) * 1000
    assert latency[f"p{percent}_ms"] == bound_ms  # type: ignore[literal-required]


def test_what_only_counts_is_added_up_for_metrics() -> None:
    converged = {"rows": {("public.a", "live"): 3}, "quarantined": {"public.b": 1}}
    report = engine(converged=converged, last_pause_s=0.02)
    workers = [worker(statistics=observed(0.001)), worker(clients=5, statistics=observed(0.001))]
    status = assemble(config(), "f.yaml", engine=report, workers=workers)
    found = totals(status, report, workers, {"ok": 2})
    assert (found["clients"], found["reloads"]) == (9, {"ok": 2})
    ((kind, destination, count, seconds, buckets),) = found["databases"]["app"].pop("statements")
    assert (kind, destination, count, round(seconds, 6), sum(buckets)) == ("read", "old_primary", 2, 0.002, 2)
    assert found["databases"]["app"] == {
        "rows": [("public.a", "live", 3)],
        "quarantined": {"public.b": 1},
        "last_pause_s": 0.02,
    }


def test_there_is_something_to_count_before_the_engine_answers() -> None:
    status = assemble(config(), "f.yaml", engine={}, workers=[])
    assert totals(status, {}, [], {})["databases"]["app"]["rows"] == []


def test_the_file_and_what_is_wrong_with_it_are_told() -> None:
    status = assemble(
        config(), "f.yaml", engine={}, workers=[], config_problems=["line 3"], needs_restart=["listen"]
    )
    assert (status["config_file"], status["config_problems"], status["needs_restart"]) == (
        "f.yaml",
        ["line 3"],
        ["listen"],
    )
    assert datetime.fromisoformat(status["at"]).tzinfo is not None


def test_reads_say_what_the_breaker_lets_through_in_the_worker_that_has_least() -> None:
    text = changed("reads_on_new: 0%", "reads_on_new: 50%")
    free = worker(breaker=BreakerStatistics(1.0, 1, None))
    rollout = told(engine(), worker(), free, text=text)["rollout"]
    assert rollout["reads_allowed_ratio"] == 0.25
    assert (rollout["breaker"], rollout["breaker_trips"]) == ("slow", 2)
    assert rollout["read_fallbacks"] == {"own_write": 4}
