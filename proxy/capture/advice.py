"""What `crossfade check` says about how the changes of each table are captured.

What this says of a table's key, and of one that has none, is `check`'s own to say.
Everything here works without being followed: the statement form falls back on comparing
whole tables. But that costs the mirror dearly, and each of these has a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.capture.reach import reach
from proxy.catalog.model import Catalog, Table

_INEXACT = ("real", "double precision", "interval", "money")


class Advice(NamedTuple):
    """One thing to know about a table, and what would be better."""

    table: str
    reason: str
    remedy: str
    is_problem: bool  # it cannot be mirrored like this; otherwise it is only slow


def advise(catalog: Catalog) -> list[Advice]:
    """Return the advice on every mirrored table, in the order of their names."""
    return [advice for names in sorted(catalog.tables) for advice in _on(catalog.tables[names], catalog)]


def _on(table: Table, catalog: Catalog) -> Iterator[Advice]:
    use_trigger = f'tables.capture: {{"{table.schema}.{table.name}": trigger}}'
    for name, type_ in zip(table.key, table.key_types, strict=True):
        if type_.startswith(_INEXACT):
            reason = f"key column {name} is {type_}, whose text depends on the session's settings"
            yield Advice(table.qualified, reason, "tables.key with columns of other types", True)
    if table.capture == "trigger":
        return
    if table.has_user_triggers:
        reason = "has triggers: changes they make to other rows make the mirror compare whole tables"
        yield Advice(table.qualified, reason, use_trigger, False)
    if table.has_rules:
        yield Advice(
            table.qualified, "has rules: every change makes the mirror compare it", use_trigger, False
        )
    if table.has_row_security:
        reason = "has row security: every change makes the mirror compare the whole table"
        yield Advice(table.qualified, reason, use_trigger, False)
    if table.has_children:
        reason = "has inheritance children: every change makes the mirror compare it and them"
        yield Advice(table.qualified, reason, "partitions instead of children, where it is large", False)
    for parent in _cascading_parents(table, catalog):
        reason = f"changes of {parent} go on to it by a foreign key, and make the mirror compare all of it"
        yield Advice(table.qualified, reason, use_trigger, False)


def _cascading_parents(table: Table, catalog: Catalog) -> list[str]:
    """Return the tables whose deletes or key updates change rows of this one."""
    parents = {key.referenced for key in table.references}
    return sorted(
        parent[1]
        for parent in parents
        if table.names
        in reach(
            catalog,
            parent,
            deletes=True,
            assigned=frozenset(
                column
                for key in table.references
                if key.referenced == parent
                for column in key.referenced_columns
            ),
        ).tables
    )
