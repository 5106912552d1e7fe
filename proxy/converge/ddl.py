"""Running the authority's DDL on the mirror, one statement after the other.

What fails is put into quarantine with the remedy, and everything behind it waits: order is
the point. So do the rows of tables that any of it is about; all others go on. An operator who
runs the statement on the mirror by hand, in whatever form fits there, is done: when it is tried
again and is found to exist already (or, for DROP, to be gone), the entry is cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import asyncpg

from proxy.converge import failure
from proxy.converge.apply import unsteady
from proxy.converge.links import Links
from proxy.converge.plan import Plan
from proxy.ledger import ddl, entries
from proxy.ledger.ddl import Change
from proxy.ledger.lease import Lease, raise_if_lost
from proxy.ledger.reading import Entries
from proxy.sql.ddl import names_in
from proxy.sql.quote import quote_name, quote_text

# duplicate_table, _column, _object, _schema, _function; undefined_table, _object, _column, _function, _schema
_EXISTS = {"42P07", "42701", "42710", "42P06", "42723"}
_GONE = {"42P01", "42704", "42703", "42883", "3F000"}
_REMEDY = "run it on the mirror in a form that fits there; then it is done"


_NO_TABLE = 0  # what DDL is entered under
_names_in = lru_cache(1000)(names_in)  # what waits in quarantine is looked at in every pass


class Applied(NamedTuple):
    """How many statements were run or cleared, how many are left, and why."""

    done_count: int
    left_count: int
    error: str | None = None


def concerned(plans: Mapping[int, Plan], changes: Iterable[Change]) -> set[int]:
    """Return the ids of the tables that statements may be about: rows of these come after them.

    A table that is dropped and made again looks like the old one, and one whose values a statement
    computes anew has the same columns: rows that came first would be lost, or computed twice.
    """
    found: set[int] = set()
    for change in changes:
        try:
            names = _names_in(change.text)
        except ValueError:
            return set(plans)
        about_schema = "schema" in names
        found |= {
            number
            for number, table in plans.items()
            if table.source.name in names or (about_schema and table.source.schema in names)
        }
    return found


class Changes:
    """The authority's DDL, pass by pass; lives as long as the lease.

    What has run keeps its entry until the next run: until then whoever waits for new tables has
    seen it, and a crash before that shows it again.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()  # what has run; its entries are still there
        self._are_there = False  # entries, in the last snapshot
        self.held_up: set[int] = set()  # tables that wait until somebody helps

    async def awaited_by(self, links: Links, found: Entries) -> set[int]:
        """Return the tables whose rows do not fit the mirror before DDL of the snapshot has run."""
        self._are_there = _NO_TABLE in found.waiting or any(batch.kind == ddl.KIND for batch in found.batches)
        changes = await ddl.read(links.source) if self._are_there else []
        pending = [change for change in changes if change.name not in self._seen]
        is_stuck = any(not change.is_due for change in pending)
        self.held_up = concerned(links.plans, pending) if is_stuck else set()
        if not pending:
            return set()
        plans = [links.plans[batch.table_id] for batch in found.batches if batch.table_id in links.plans]
        return concerned(links.plans, pending) | await unsteady(links, plans)

    async def run(self, links: Links, lease: Lease, deleter: asyncpg.Connection | None) -> Applied:
        """Run what the ledger holds, in order, up to the first that fails.

        Raises:
            LeaseLost: Somebody else owns the engine; nothing more was run.
        """
        if not self._are_there:
            return Applied(0, 0)
        writer = deleter or links.writer
        changes = await ddl.read(writer)
        left_count = 0
        for at, change in enumerate(changes):
            if not change.is_due:
                return Applied(at, len(changes) - at)
            try:
                if change.name not in self._seen:
                    await _run(links.target, lease, change)
                    self._seen.add(change.name)
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
            self._seen.discard(change.name)
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
