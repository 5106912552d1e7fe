"""Unique conflicts between a fresh row and a stale one.

When two rows of the source have swapped a unique value, or it moved from one to another,
the target refuses the first of the two rows that we write. The source is unique, so the
target's row that blocks is stale, and it is part of the answer:

1. find the target's rows whose unique values collide with staged rows of another key
2. those that are not staged yet: read them at the same source snapshot, and stage them
3. mark them, so that they are deleted before anything is inserted, and try again

A blocker is never just deleted: its own row of the same snapshot is written in the same
transaction. If two staged rows collide with each other, the source really holds both
and the target is stricter: nothing is deleted, the key goes to quarantine and says so.

Deleting and inserting again is harmless only where it has no side effects: with foreign
keys switched off, or none that cascades.
"""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from proxy.catalog.bounds import Key, key_array
from proxy.catalog.model import UniqueIndex
from proxy.converge.failure import EXCLUSION_VIOLATION, Stricter
from proxy.converge.links import Links
from proxy.converge.plan import Plan, keys_of_list
from proxy.sql.quote import quote_name

_BLOCKERS_MAX = 10_000


async def resolve(links: Links, tables: Iterable[Plan], error: asyncpg.PostgresError) -> bool:
    """Stage and mark the rows that block; return whether trying again makes sense.

    Raises:
        Stricter: The source holds both rows; or the blocker may not be deleted.
        SourceRefused, asyncpg.PostgresError: A blocker could not be read, or not be staged.
    """
    has_progress = False
    for table in _suspects(tables, error):
        # Where the target shows none, as with tables on other nodes, they are the source's.
        known = table.target.unique_indexes or table.source.unique_indexes
        indexes = [index for index in known if not _is_key(table, index)]
        if error.sqlstate == EXCLUSION_VIOLATION or any(_is_computed(table, index) for index in indexes):
            # Exclusion constraints have operators of their own, and columns that the target
            # computes are not staged. Staged rows cannot collide with each other's old
            # values when all of those are gone first.
            _require_deletable(links, table, error)
            has_progress |= await _changes_rows(links, table.mark_all)
            continue
        for index in indexes:
            has_progress |= await _resolve_index(links, table, index, error)
    return has_progress


async def _resolve_index(links: Links, table: Plan, index: UniqueIndex, error: asyncpg.PostgresError) -> bool:
    blockers = await links.target.fetch(blocking(table, index))
    if not blockers:
        return False
    _require_deletable(links, table, error)
    missing = [_key(row) for row in blockers if not row["is_staged"]]
    if len(blockers) > _BLOCKERS_MAX:
        raise Stricter(f"more than {_BLOCKERS_MAX} rows block {table.name} by {index.name}") from error
    if missing:
        await links.fill(table, table.select_keys(keys_of_list(missing)))
    if both := await links.target.fetchrow(colliding(table, index)):
        raise Stricter(
            f"the target's {index.name} does not allow two rows that the source has:"
            f" keys {', '.join(both['one'])} and {', '.join(both['other'])}"
        ) from error
    marked = await _changes_rows(links, table.mark_blockers([_key(row) for row in blockers]))
    return marked or bool(missing)


def _suspects(tables: Iterable[Plan], error: asyncpg.PostgresError) -> list[Plan]:
    """Return the table that the error names, or all where it names a partition."""
    every = list(tables)
    named = (getattr(error, "schema_name", None), getattr(error, "table_name", None))
    return [table for table in every if table.target.names == named] or every


def _require_deletable(links: Links, table: Plan, error: Exception) -> None:
    if not links.is_replica and not table.is_deletable:
        raise Stricter(
            f"a unique value of {table.name} moved between rows, and deleting one on the target would"
            " cascade; GRANT SET ON PARAMETER session_replication_role to the engine's role there"
        ) from error


async def _changes_rows(links: Links, statement: str) -> bool:
    return await links.target.execute(statement) != "UPDATE 0"


def _key(row: asyncpg.Record) -> Key:
    return tuple(row["key"])


def _is_key(table: Plan, index: UniqueIndex) -> bool:
    """Whether the index is the key's own: rows of another key cannot collide there."""
    return index.is_key and table.has_arbiter


def _is_computed(table: Plan, index: UniqueIndex) -> bool:
    """Whether the index may use a column that the target computes itself."""
    computed = [column.name for column in table.target.columns if column.is_generated]
    return any(name in text for name in computed for text in (*index.expressions, index.predicate or ""))


def _side(table: Plan, index: UniqueIndex, relation: str, where: str) -> str:
    """Return a subquery with a relation's keys as k1.., and the index's values as v1..

    Expressions of an index name columns without a table, so each side stands alone.
    """
    keys = [f"{quote_name(name)} AS crossfade_k{i}" for i, name in enumerate(table.source.key)]
    values = [f"({expression}) AS crossfade_v{i}" for i, expression in enumerate(index.expressions)]
    condition = " AND ".join(filter(None, (where, index.predicate))) or "true"
    row = f"{key_array(table.source)} AS crossfade_key"
    return f"(SELECT {', '.join([row, *keys, *values])} FROM {relation} WHERE {condition})"


def _collide(table: Plan, index: UniqueIndex) -> str:
    """Return the condition that sides a and b hold the same value under different keys."""
    same = "IS NOT DISTINCT FROM" if index.are_nulls_equal else "="
    values = [f"a.crossfade_v{i} {same} b.crossfade_v{i}" for i in range(len(index.expressions))]
    keys = [f"a.crossfade_k{i} = b.crossfade_k{i}" for i in range(len(table.source.key))]
    return " AND ".join([*values, f"NOT ({' AND '.join(keys)})"])


def blocking(table: Plan, index: UniqueIndex) -> str:
    """Return the query for the target's rows that collide with a staged row of another key."""
    staged = f"pg_temp.{table.stage}"
    target = _side(table, index, table.target.qualified, "")
    fresh = _side(table, index, staged, "crossfade_mark <> 'n'")
    keys = " AND ".join(f"s.{quote_name(name)} = a.crossfade_k{i}" for i, name in enumerate(table.source.key))
    return (
        "SELECT DISTINCT a.crossfade_key AS key,"
        f" EXISTS (SELECT FROM {staged} AS s WHERE {keys}) AS is_staged"
        f" FROM {target} AS a JOIN {fresh} AS b ON {_collide(table, index)}"
    )


def colliding(table: Plan, index: UniqueIndex) -> str:
    """Return the query for one pair of staged rows that collide with each other."""
    side = _side(table, index, f"pg_temp.{table.stage}", "crossfade_mark <> 'n'")
    return (
        f"SELECT a.crossfade_key AS one, b.crossfade_key AS other"
        f" FROM {side} AS a JOIN {side} AS b ON {_collide(table, index)} LIMIT 1"
    )
