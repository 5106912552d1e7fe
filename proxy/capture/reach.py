"""Which tables a change goes on to through foreign keys: ON DELETE and ON UPDATE actions.

An action is a statement of PostgreSQL's own. Its rows are in no RETURNING, but it fires
triggers, so tables in trigger form see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.catalog.model import Catalog, ForeignKey, QualifiedName, Relation, Table

_ACTS = "cnd"  # cascade, set null, set default


class Reach(NamedTuple):
    """What is changed beside the table that the statement names."""

    tables: frozenset[QualifiedName]
    fires_triggers: bool  # some of these has triggers of the user's, which may change anything


class _Change(NamedTuple):
    """A delete (columns None), or an update of some columns."""

    names: QualifiedName
    columns: frozenset[str] | None


def reach(catalog: Catalog, names: QualifiedName, *, deletes: bool, assigned: frozenset[str]) -> Reach:
    """Return what follows from deleting rows of a table, or from assigning some of its columns."""
    pending = [_Change(names, None)] if deletes else []
    if assigned:
        pending.append(_Change(names, assigned))
    seen = set(pending)
    while pending:
        for following in _follow(catalog, pending.pop()):
            if following not in seen:
                seen.add(following)
                pending.append(following)
    # The table itself is reached only if an action leads back to it.
    first = {_Change(names, None), _Change(names, assigned)}
    reached = frozenset(change.names for change in seen - first) | _returns(catalog, seen, names)
    return Reach(reached, any(_has_triggers(catalog, found) for found in reached))


def truncated(catalog: Catalog, names: QualifiedName) -> frozenset[QualifiedName]:
    """Return what TRUNCATE ... CASCADE empties: every table with a foreign key that leads here."""
    found = {names}
    pending = [names]
    while pending:
        fresh = {key.table for key in _keys_to(catalog, pending.pop())} - found
        found |= fresh
        pending += fresh
    return frozenset(found)


def _follow(catalog: Catalog, change: _Change) -> Iterator[_Change]:
    for key in _keys_to(catalog, change.names):
        if change.columns is None:
            if key.on_delete in _ACTS:
                yield _Change(key.table, None if key.on_delete == "c" else frozenset(key.columns))
        elif key.on_update in _ACTS and not change.columns.isdisjoint(key.referenced_columns):
            yield _Change(key.table, frozenset(key.columns))


def _returns(catalog: Catalog, seen: set[_Change], names: QualifiedName) -> frozenset[QualifiedName]:
    """Return the table itself if some action leads back to it."""
    leads_back = any(following.names == names for change in seen for following in _follow(catalog, change))
    return frozenset({names}) if leads_back else frozenset()


def _keys_to(catalog: Catalog, names: QualifiedName) -> Iterator[ForeignKey]:
    """Yield the foreign keys that reference a table, mirrored or not."""
    table = catalog.tables.get(names)
    if table is not None:
        yield from table.referenced_by
        return
    for other in catalog.tables.values():
        yield from (key for key in other.references if key.referenced == names)


def _has_triggers(catalog: Catalog, names: QualifiedName) -> bool:
    found: Table | Relation | None = catalog.tables.get(names) or catalog.relations.get(names)
    return found is None or found.has_user_triggers or found.has_rules
