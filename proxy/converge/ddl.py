"""Running the authority's DDL on the mirror, one statement after the other.

What fails is put into quarantine with the remedy, and everything behind it waits: order is
the point. Tables that are not concerned go on. An operator who runs the statement on the
mirror by hand, in whatever form fits there, is done: when it is tried again and is found to
exist already (or, for DROP, to be gone), the entry is cleared.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from proxy.converge import failure
from proxy.converge.links import Links
from proxy.ledger import ddl, entries
from proxy.ledger.ddl import Change
from proxy.ledger.lease import Lease, raise_if_lost
from proxy.sql.quote import quote_name, quote_text

# duplicate_table, _column, _object, _schema, _function; undefined_table, _object, _column, _function, _schema
_EXISTS = {"42P07", "42701", "42710", "42P06", "42723"}
_GONE = {"42P01", "42704", "42703", "42883", "3F000"}
_REMEDY = "run it on the mirror in a form that fits there; then it is done"


class Applied(NamedTuple):
    """How many statements were run or cleared, how many are left, and why."""

    done_count: int
    left_count: int
    error: str | None = None


async def apply_all(
    links: Links, lease: Lease, deleter: asyncpg.Connection | None, seen: set[str]
) -> Applied:
    """Run what the ledger holds, in order, up to the first that fails.

    Args:
        seen: What earlier calls have run. Only that is cleared: until then whoever waits for new
            tables has seen the DDL, and a crash before that shows it again.

    Raises:
        LeaseLost: Somebody else owns the engine; nothing more was run.
    """
    writer = deleter or links.writer
    changes = await ddl.read(writer)
    left_count = 0
    for at, change in enumerate(changes):
        if not change.is_due:
            return Applied(at, len(changes) - at)
        try:
            if change.name not in seen:
                await _run(links.target, lease, change)
                seen.add(change.name)
                left_count += 1
                continue
        except asyncpg.PostgresError as error:
            raise_if_lost(error)
            if failure.meaning(error) is failure.Meaning.LINK:
                raise
            if not _is_done(change, error):
                sentence = f"{change.text}: {failure.sentence(error)}"
                if failure.meaning(error) is not failure.Meaning.RETRY:
                    await entries.quarantine(
                        writer, lease, f"{{{_quoted(change)}}}", f"{sentence}; {_REMEDY}"
                    )
                return Applied(at, len(changes) - at, sentence)
        seen.discard(change.name)
        await entries.delete(writer, lease, f"{{{_quoted(change)}}}")
    return Applied(len(changes), left_count)


def _is_done(change: Change, error: asyncpg.PostgresError) -> bool:
    is_drop = change.text.lstrip()[:4].upper() == "DROP"
    return error.sqlstate in (_GONE if is_drop else _EXISTS)


async def _run(target: asyncpg.Connection, lease: Lease, change: Change) -> None:
    """Run a statement, unless it has run before."""
    async with target.transaction():
        await target.execute(lease.guard(is_target=True))
        noted = await target.fetchval(
            "INSERT INTO crossfade.applied (statement) VALUES ($1) ON CONFLICT DO NOTHING RETURNING true",
            change.name,
        )
        if not noted:
            return
        may_act = await target.fetchval(
            "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = $1 AND $1 <> current_user",
            change.role,
        )
        path = f"SELECT set_config('search_path', {quote_text(change.search_path)}, true)"
        # A table that is being read on the mirror must not hold everything up behind it.
        await target.execute(f"SET LOCAL lock_timeout = '5s'; {path}")
        if may_act:
            await target.execute(f"SET LOCAL ROLE {quote_name(change.role)}")
        await target.execute(change.text)


def _quoted(change: Change) -> str:
    return f'"{change.ctid}"'
