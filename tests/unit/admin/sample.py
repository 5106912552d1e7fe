"""A status as a proxy in the middle of a crossing would give it."""

from __future__ import annotations

from proxy.admin.status_model import DatabaseStatus, Status


def database_status() -> DatabaseStatus:
    """Return a database whose writes moved to new, all gates holding."""
    return {
        "authority": "new",
        "epoch": 2,
        "switching": None,
        "rollout": {
            "reads_on_new_ratio": 0.5,
            "reads_allowed_ratio": 0.5,
            "breaker": None,
            "breaker_trips": 0,
            "read_fallbacks": {},
            "sticky_by": "session",
            "writes_on": "new",
            "max_pause_s": 5.0,
            "refused": None,
        },
        "gates": [
            {"name": "read_parity", "passed": True, "reason": "100%, at least 99.9%", "is_forced": False}
        ],
        "ledger": {
            "entries": 3,
            "oldest_s": 0.2,
            "size_bytes": 8192,
            "tables": {"public.users": 3},
            "eta_s": 1.0,
            "walks": {"public.users": {"ratio": 0.5, "eta_s": 12.0}},
        },
        "engine": {
            "proxy": "host:1",
            "owner": "host:1",
            "epoch": 7,
            "lag_s": 0.2,
            "success_ratio": 1.0,
            "last_error": None,
            "error_at": None,
        },
        "backfill": {
            "state": "running",
            "throttle": None,
            "rows_per_s": 90_000.0,
            "tables": [
                {
                    "table": "public.users",
                    "chunks": 200,
                    "chunks_done": 100,
                    "rows": 100_000,
                    "rows_estimate": 200_000,
                    "ratio": 0.5,
                }
            ],
        },
        "quarantine": [],
        "verification": {
            "at": "2030-01-01T00:00:00+00:00",
            "age_s": 60.0,
            "tables": {"public.users": 200_000},
            "differing": 0,
            "differences": [],
        },
        "read_parity_ratio": 0.999999,
        "capture_misses": {},
        "last_misses": {},
        "proxies": [
            {
                "name": "a-7-00",
                "host": "a",
                "since": "2026-01-02T03:04:05+00:00",
                "digest": "0123456789abcdef",
                "heard_s": 0.4,
                "state": "serving",
            },
            {
                "name": "b-9-00",
                "host": "b",
                "since": "2026-01-02T03:04:06+00:00",
                "digest": "0123456789abcdef",
                "heard_s": 0.7,
                "state": "serving",
            },
        ],
        "switches": [
            {
                "epoch": 2,
                "at": "2030-01-01T00:00:00+00:00",
                "from": "old",
                "to": "new",
                "pause_ms": 17.25,
                "outcome": "done",
                "reason": "",
            }
        ],
        "servers": [
            {
                "cluster": "old",
                "role": "primary",
                "address": "127.0.0.1:5501",
                "is_up": True,
                "active": 1,
                "idle": 2,
                "lag_s": None,
                "reason": None,
            }
        ],
        "clients": {"count": 4, "active": 1, "waiting": 0, "pinned": []},
        "latency": [
            {"kind": "read", "destination": "old replica", "count": 9, "p50_ms": 1, "p95_ms": 2, "p99_ms": 3}
        ],
    }


def status() -> Status:
    """Return the status around it."""
    return {
        "version": "0.1.0",
        "at": "2030-01-01T00:01:00+00:00",
        "uptime_s": 60.0,
        "config_file": "crossfade.yaml",
        "config_digest": "0123456789abcdef",
        "config": {"databases.app.rollout.writes_on": "new"},
        "config_problems": [],
        "needs_restart": [],
        "flags": {},
        "flag_problems": [],
        "databases": {"app": database_status()},
        "errors": {},
    }
