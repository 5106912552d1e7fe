"""A statement between two calls that compare PostgreSQL's own counts.

This is the general answer for whatever its text does not show: functions, writable CTEs,
views, rules, cascades, other triggers. It needs no privilege. Both calls run in the
statement's transaction, so autocommit statements get a BEGIN and a COMMIT around them.

What changed is then known by table, not by key: a table entry makes the engine compare
the whole table. See `proxy.ledger.watching` for the functions and their limits.
"""

from __future__ import annotations

from collections.abc import Collection

WATCHED = b"\0\1watch_end\0"
"""How the RowDescription of `watch_after` begins."""


def watch_before() -> str:
    """Return the statement to run before the one that is watched."""
    return "SELECT crossfade.watch_begin()"


def audit_after(captured: Collection[int] = ()) -> str:
    """Return the statement to run after one that is audited: a miss is a warning (`MISSED`)."""
    return f"SELECT crossfade.audit_end('{{{','.join(map(str, sorted(captured)))}}}')"


def watch_after(captured: Collection[int] = ()) -> str:
    """Return the statement to run after it; its one value is the ids that got a table entry.

    Args:
        captured: Tables whose changes the watched statement writes as key entries itself.
    """
    return f"SELECT crossfade.watch_end('{{{','.join(map(str, sorted(captured)))}}}')"
