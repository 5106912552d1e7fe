"""How one table travels in one direction: from the source into a staging table; pure.

Rows are staged on the target in a temporary table with the target's types and a mark:

    y   the source has this row: upsert it where different
    n   the source does not: delete it
    b   the source has it, but its old values on the target block another row: delete it
        first, then insert it again (see closure)

How staged rows are written to the target's table is `writing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from proxy.catalog.bounds import Key, Range, key_array
from proxy.catalog.model import Catalog, Column, Table
from proxy.sql.quote import quote_name, quote_text

MARK = "crossfade_mark"


def listed(names: Iterable[str], alias: str = "") -> str:
    """Return the quoted names, each of the alias if there is one."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(prefix + quote_name(name) for name in names)


def only(table: Table) -> str:
    """Return the table without its heirs; the rows of partitions are the root's own."""
    return f"ONLY {table.qualified}" if table.has_children else table.qualified


def _within(table: Table, key: Sequence[str], bounds: Range, alias: str) -> str:
    """Return the condition that selects a range, with literals: COPY takes no parameters."""
    types = {column.name: column.type for column in table.columns}
    tests = []
    for operator, bound in ((">", bounds.lo), ("<=", bounds.hi)):
        if bound is not None:
            values = ", ".join(
                f"{quote_text(value)}::{types[name]}" for name, value in zip(key, bound, strict=True)
            )
            tests.append(f"({listed(key, alias)}) {operator} ({values})")
    return " AND ".join(tests) or "true"


def keys_of_entries(ctids: str) -> str:
    """Return the query for the keys of ledger entries."""
    return f"SELECT key FROM crossfade.ledger WHERE ctid = ANY('{ctids}'::tid[])"


def keys_of_list(keys: Sequence[Key]) -> str:
    """Return the query for keys that we hold as text."""
    literal = quote_text(json.dumps([list(key) for key in keys]))
    return (
        "SELECT ARRAY(SELECT jsonb_array_elements_text(k)) AS key"
        f" FROM jsonb_array_elements({literal}::jsonb) AS k"
    )


@dataclass(frozen=True)
class Plan:
    """A table of the source and its namesake on the target.

    Texts that do not depend on rows are made once: passes come every few milliseconds.
    """

    source: Table
    target: Table

    @property
    def id(self) -> int:
        """The table's id in crossfade.tables."""
        return self.source.id

    @property
    def name(self) -> str:
        """The table's name, as metrics and messages show it."""
        return f"{self.source.schema}.{self.source.name}"

    @property
    def stage(self) -> str:
        """The name of the staging table."""
        return f"crossfade_stage_{self.id}"

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that travel: those the target does not compute itself."""
        return tuple(column for column in self.target.columns if not column.is_generated)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns that travel."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def stage_columns(self) -> list[str]:
        """The columns of the staging table."""
        return [MARK, *self.names]

    @cached_property
    def format(self) -> Literal["binary", "text"]:
        """`binary` where a value's binary form means the same on both sides, else `text`."""
        types = {column.name: column.type for column in self.source.columns if column.is_portable}
        same = all(column.is_portable and types.get(column.name) == column.type for column in self.columns)
        return "binary" if same else "text"

    @cached_property
    def create_stage(self) -> str:
        """Return the DDL of the staging table: the target's types, none of its constraints."""
        return (
            f"DROP TABLE IF EXISTS pg_temp.{self.stage}; CREATE TEMP TABLE {self.stage} AS"
            f" SELECT 'y'::\"char\" AS {MARK}, {listed(self.names)}"
            f" FROM {self.target.qualified} WITH NO DATA"
        )

    @cached_property
    def has_arbiter(self) -> bool:
        """Whether ON CONFLICT may be used: an index decides it, and no rule forbids it."""
        return not self.target.has_rules and any(
            index.is_immediate
            and index.predicate is None
            and sorted(map(unquote, index.expressions)) == sorted(self.source.key)
            for index in self.target.unique_indexes
        )

    @cached_property
    def is_deletable(self) -> bool:
        """Whether a row may be deleted and inserted again with foreign keys in force."""
        return all(key.on_delete in "ar" for key in self.target.referenced_by)

    def select_keys(self, keys: str) -> str:
        """Return the query that stages keys: each with its row, or with the mark of its absence."""
        table = self.source
        numbered = list(enumerate(zip(table.key, table.key_types, strict=True), 1))
        key_of = {name: f"k{i}" for i, (name, _) in numbered}
        casts = ", ".join(f"key[{i}]::{kind} AS k{i}" for i, (_, kind) in numbered)
        joined = " AND ".join(f"t.{quote_name(name)} = k.k{i}" for i, (name, _) in numbered)
        values = ", ".join(
            f"coalesce(t.{quote_name(name)}, k.{key_of[name]})" if name in key_of else f"t.{quote_name(name)}"
            for name in self.names
        )
        absent = f"t.{quote_name(table.key[0])} IS NULL"
        return (
            f"SELECT (CASE WHEN {absent} THEN 'n' ELSE 'y' END)::\"char\", {values}"
            f" FROM (SELECT DISTINCT {casts} FROM ({keys}) AS e) AS k"
            f" LEFT JOIN {only(table)} AS t ON {joined}"
        )

    def select_range(self, bounds: Range, *, is_marked: bool) -> str:
        """Return the query for the source's rows in a range, for the staging table or the table itself."""
        mark = "'y'::\"char\", " if is_marked else ""
        where = _within(self.source, self.source.key, bounds, "t")
        return f"SELECT {mark}{listed(self.names, 't')} FROM {only(self.source)} AS t WHERE {where}"

    def range_keys(self, bounds: Range) -> str:
        """Return the query for the source's keys in a range."""
        where = _within(self.source, self.source.key, bounds, "t")
        return f"SELECT {key_array(self.source, 't')} AS key FROM {only(self.source)} AS t WHERE {where}"

    def target_keys(self, count_max: int) -> str:
        """Return the query for keys of the target, wherever they lie."""
        return f"SELECT {key_array(self.source, 't')} AS key FROM {only(self.target)} AS t LIMIT {count_max}"

    @property
    def delete_all(self) -> str:
        """Return the statement that empties the target's table."""
        return f"DELETE FROM {only(self.target)}"

    def is_empty(self, bounds: Range) -> str:
        """Return the query whether the target has no row in a range."""
        where = _within(self.target, self.source.key, bounds, "t")
        return f"SELECT NOT EXISTS (SELECT FROM {only(self.target)} AS t WHERE {where})"

    def extras(self, bounds: Range, count_max: int) -> str:
        """Return the query for keys that the target has in a range and the staging table has not.

        The bounds mean what the target's collations make of them, so these are candidates
        only: whether the source has such a key is asked there, by equality. Whatever the
        order of the two sides, a row of the target is in some range of a complete set.
        """
        where = _within(self.target, self.source.key, bounds, "t")
        return (
            f"SELECT {key_array(self.source, 't')} AS key FROM {only(self.target)} AS t"
            f" WHERE {where} AND NOT EXISTS"
            f" (SELECT FROM pg_temp.{self.stage} AS s WHERE {self.same_key('t', 's')}) LIMIT {count_max}"
        )

    @property
    def absent(self) -> str:
        """Return the query that counts staged keys which are to be deleted."""
        return f"SELECT count(*) FROM pg_temp.{self.stage} WHERE {MARK} = 'n'"

    @property
    def staged_keys(self) -> str:
        """Return the query for the keys in the staging table."""
        return f"SELECT {key_array(self.source, 's')} AS key FROM pg_temp.{self.stage} AS s"

    def mark_blockers(self, keys: Sequence[Key]) -> str:
        """Return the statement that has staged rows deleted before anything is inserted."""
        casts = " AND ".join(
            f"s.{quote_name(name)} = k.key[{i}]::{kind}"
            for i, (name, kind) in enumerate(zip(self.source.key, self.source.key_types, strict=True), 1)
        )
        return (
            f"UPDATE pg_temp.{self.stage} AS s SET {MARK} = 'b'"
            f" FROM ({keys_of_list(keys)}) AS k WHERE s.{MARK} = 'y' AND {casts}"
        )

    @property
    def mark_all(self) -> str:
        """Return the statement that has every staged row deleted before anything is inserted."""
        return f"UPDATE pg_temp.{self.stage} SET {MARK} = 'b' WHERE {MARK} = 'y'"

    def same_key(self, left: str, right: str) -> str:
        """Return the condition that two rows have the same key."""
        return " AND ".join(
            f"{left}.{quote_name(name)} = {right}.{quote_name(name)}" for name in self.source.key
        )


def unquote(expression: str) -> str:
    """Return the column an index expression is, if it is one; an expression stays as it is."""
    if expression.startswith('"') and expression.endswith('"'):
        return expression[1:-1].replace('""', '"')
    return expression


def mismatch(source: Table, target: Table | None) -> str | None:
    """Return why a table cannot be converged, in one sentence; None when it can."""
    name = f"{source.schema}.{source.name}"
    if target is None:
        return f"{name} does not exist on the target"
    here = {column.name: column for column in source.columns}
    there = {column.name: column for column in target.columns}
    missing = [
        column.name for column in source.columns if not column.is_generated and column.name not in there
    ]
    added = [column.name for column in target.columns if not column.is_generated and column.name not in here]
    if missing:
        return f"{name}: the target lacks the columns {', '.join(missing)}"
    if added:
        return f"{name}: the source lacks the columns {', '.join(added)}"
    if any(there[column].is_generated for column in source.key):
        return f"{name}: the target computes a column of the key"
    return None


def plans(source: Catalog, target: Catalog) -> tuple[dict[int, Plan], dict[int, str]]:
    """Return the plans by table id, parents before children, and why others have none."""
    usable, refused = {}, {}
    for table in in_order(source.tables.values()):
        found = target.tables.get(table.names)
        reason = mismatch(table, found)
        if reason is not None:
            refused[table.id] = reason
        elif found is not None and table.id:
            usable[table.id] = Plan(table, found)
    return usable, refused


def in_order(tables: Iterable[Table]) -> list[Table]:
    """Return tables so that each comes after those its foreign keys reference; cycles are cut."""
    by_name = {table.names: table for table in tables}
    ordered: dict[tuple[str, str], Table] = {}
    for start in sorted(by_name):
        # Depth first with an explicit stack: chains of foreign keys may be long.
        stack, entered = [start], set[tuple[str, str]]()
        while stack:
            name = stack[-1]
            entered.add(name)
            needed = [key.referenced for key in by_name[name].references]
            ahead = [n for n in needed if n in by_name and n not in ordered and n not in entered]
            if ahead:
                stack.append(ahead[0])
            else:
                ordered.setdefault(name, by_name[name])
                stack.pop()
    return list(ordered.values())
