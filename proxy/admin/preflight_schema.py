"""The part of the preflight that only compares two catalogs; pure.

Each rule is a function from a `Pair` to problems; add one by writing it and naming it
in `RULES`. What statement capture sees only as "this table changed" is a warning, since
nothing is lost then: the engine compares the whole table again, which is slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from proxy.admin.problem import Problem, Severity
from proxy.capture.advice import advise
from proxy.catalog.model import Catalog, QualifiedName, RelationKind, Table
from proxy.config import Database
from proxy.config.values import CaptureForm
from proxy.sql.quote import quote_name

_MAY_WRITE = re.compile(r"\b(insert|update|delete|merge|truncate|copy|execute|perform|call)\b", re.IGNORECASE)
_AT_COMMIT = " at COMMIT, which statement capture does not see"
_READABLE_LANGUAGES = ("plpgsql", "sql")
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


class TriggerFunction(NamedTuple):
    """A user's trigger on a mirrored table or a view, and what it runs."""

    table: QualifiedName
    name: str
    language: str
    source: str
    is_deferrable: bool = False  # it may run at COMMIT, when nothing is counted any more


class CalledFunction(NamedTuple):
    """A user's function or procedure that may write."""

    name: str  # with its schema
    kind: str  # pg_proc.prokind: "f" or "p"
    language: str
    source: str


class Pair(NamedTuple):
    """What the rules look at: the two sides' schemas, read once."""

    config: Database
    old: Catalog
    new: Catalog
    triggers: tuple[TriggerFunction, ...] = ()  # of the authority's side
    functions: tuple[CalledFunction, ...] = ()
    large_objects_count: int = 0
    # Columns of new that are NOT NULL and have no default, by table.
    demanding: Mapping[QualifiedName, frozenset[str]] = {}

    def problem(self, table: QualifiedName, reason: str, remedy: str, *, warns: bool = False) -> Problem:
        """Return a problem of one table."""
        severity = Severity.WARNING if warns else Severity.ERROR
        return Problem(self.config.name, shown(table), reason, remedy, severity)

    def by_statement(self, table: QualifiedName) -> bool:
        """Return whether a table is mirrored and captured in the statement."""
        return table in self.old.tables and self.old.tables[table].capture == "statement"


def shown(table: QualifiedName) -> str:
    """Return a table's name as the configuration writes it."""
    return ".".join(table)


def judge(pair: Pair) -> list[Problem]:
    """Return every problem, in the order of the rules."""
    return [problem for rule in RULES for problem in rule(pair)]


def tables_are_chosen(pair: Pair) -> Iterator[Problem]:
    """The patterns find tables, and every table the configuration names exists."""
    config, tables = pair.config, pair.config.tables
    if not pair.old.tables:
        reason = f"no table of old matches tables.include ({', '.join(tables.include)})"
        yield Problem(config.name, None, reason, "correct the pattern, or the database in old.primary")
        return
    for key, names in (("order_by", list(tables.order_by)), ("key", list(tables.key))):
        for name in names:
            table = (name.rpartition(".")[0] or "public", name.rpartition(".")[2])
            if table not in pair.old.tables:
                yield pair.problem(
                    table, f"tables.{key} names it, but no such table is mirrored", "correct the name"
                )


def keys_name_every_row(pair: Pair) -> Iterator[Problem]:
    """Every table has a key, or it is said what that costs; and the other side can find rows by it."""
    for name, table in pair.old.tables.items():
        configured = pair.config.tables.key_of(*name)
        if configured is not None and not table.key:
            missing = sorted(set(configured) - {column.name for column in table.columns})
            yield pair.problem(name, f"its key names no column: {', '.join(missing)}", "correct tables.key")
        elif not table.key:
            reason = (
                "it has no key: its history is copied in one piece, and UPDATE or DELETE compares all of it"
            )
            yield pair.problem(name, reason, _key_remedy(table), warns=True)
        elif not _has_index(table, table.key):
            columns = ", ".join(map(quote_name, table.key))
            reason = f"nothing makes its key ({', '.join(table.key)}) unique on old"
            remedy = f"on old: CREATE UNIQUE INDEX CONCURRENTLY ON {table.qualified} ({columns})"
            yield pair.problem(name, reason, remedy)
        elif name in pair.new.tables and not _has_index(pair.new.tables[name], table.key):
            columns = ", ".join(map(quote_name, table.key))
            yield pair.problem(
                name,
                f"no unique index on ({', '.join(table.key)}) on new",
                f"on new: ALTER TABLE {table.qualified} ADD PRIMARY KEY ({columns})",
            )
        if table.nullable_key:
            columns = ", ".join(table.nullable_key)
            changes = ", ".join(
                f"ALTER COLUMN {quote_name(each)} SET NOT NULL" for each in table.nullable_key
            )
            reason = f"its key may be NULL ({columns}): a row that names nothing pauses the table"
            yield pair.problem(name, reason, f"on old: ALTER TABLE {table.qualified} {changes}", warns=True)


def tables_are_on_new(pair: Pair) -> Iterator[Problem]:
    """Every table is on new, and can hold what old holds."""
    for name, table in pair.old.tables.items():
        other = pair.new.tables.get(name)
        if other is not None:
            yield from _columns_agree(pair, table, other)
            yield from _new_is_not_stricter(pair, table, other)
            continue
        relation = pair.new.relations.get(name)
        reason = "it is missing on new" if relation is None else f"on new it is a {relation.kind}"
        remedy = f"pg_dump --schema-only -t {shown(name)} from old, and run it on new"
        yield pair.problem(name, reason, remedy)


def changes_are_seen(pair: Pair) -> Iterator[Problem]:
    """Capture sees single rows of every change, or what it costs that it does not."""
    # Triggers are judged below, by what their functions do.
    plain = {name: table._replace(has_user_triggers=False) for name, table in pair.old.tables.items()}
    by_qualified = {table.qualified: table for table in plain.values()}
    for advice in advise(replace(pair.old, tables=plain)):
        table = by_qualified[advice.table]
        yield pair.problem(table.names, advice.reason, advice.remedy, warns=not advice.is_problem)
    for name, table in pair.old.tables.items():
        if table.is_split and pair.config.tables.capture_of(*name) is not CaptureForm.SPLIT:
            reason = "old refuses writes in WITH there: keys and entries take a round trip of their own"
            yield pair.problem(name, reason, f"tables.capture: {{{shown(name)}: trigger}}", warns=True)


def triggers_are_seen(pair: Pair) -> Iterator[Problem]:
    """A trigger that may change mirrored tables is named, with the tables it mentions."""
    for trigger in pair.triggers:
        source = _COMMENT.sub(" ", trigger.source)
        is_readable = trigger.language in _READABLE_LANGUAGES
        if is_readable and not _MAY_WRITE.search(source):
            continue
        origin = f"the trigger {trigger.name} on {shown(trigger.table)}"
        words = set(re.findall(r"\w+", source))
        mentioned = [name for name in pair.old.tables if name[1] in words]
        for name in filter(pair.by_statement, mentioned):
            if trigger.is_deferrable:
                yield _lost(pair, name, f"{origin} may change its rows")
            else:
                yield _unseen(pair, name, f"{origin} may change its rows")
        if not mentioned and trigger.table in pair.old.tables and pair.by_statement(trigger.table):
            reason = f"its trigger {trigger.name} may change rows of other tables"
            reason += _AT_COMMIT if trigger.is_deferrable else ""
            remedy = "capture: trigger for the tables that it changes, if any"
            yield pair.problem(trigger.table, reason, remedy, warns=True)


def functions_are_seen(pair: Pair) -> Iterator[Problem]:
    """A function or procedure that may change mirrored tables is named, with the tables it mentions."""
    changed_by: dict[QualifiedName, list[str]] = {}
    for function in pair.functions:
        source = _COMMENT.sub(" ", function.source)
        if function.language in _READABLE_LANGUAGES and not _MAY_WRITE.search(source):
            continue
        words = set(re.findall(r"\w+", source))
        for name in pair.old.tables:
            if name[1] in words and pair.by_statement(name):
                changed_by.setdefault(name, []).append(function.name)
    for name, functions in changed_by.items():
        yield _unseen(pair, name, f"{', '.join(functions)} may change its rows")


def large_objects_are_not_used(pair: Pair) -> Iterator[Problem]:
    """Large objects belong to no table, and nothing mirrors them."""
    if pair.large_objects_count:
        reason = f"{pair.large_objects_count} large objects exist, which are not mirrored"
        remedy = "move them into a bytea column, or copy them by hand while nobody writes to them"
        yield Problem(pair.config.name, None, reason, remedy)


def views_are_seen(pair: Pair) -> Iterator[Problem]:
    """A view that is written through a rule hides which rows change."""
    for name, relation in pair.old.relations.items():
        if relation.kind is RelationKind.VIEW and relation.has_rules:
            for base in sorted(relation.base_tables):
                if pair.by_statement(base):
                    yield _unseen(pair, base, f"a rule on the view {shown(name)} may change its rows")


Rule = Callable[[Pair], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    tables_are_chosen,
    keys_name_every_row,
    tables_are_on_new,
    changes_are_seen,
    triggers_are_seen,
    functions_are_seen,
    large_objects_are_not_used,
    views_are_seen,
)


def _unseen(pair: Pair, table: QualifiedName, reason: str) -> Problem:
    reason += ", which statement capture records as a change of the whole table"
    return pair.problem(table, reason, f"tables.capture: {{{shown(table)}: trigger}}", warns=True)


def _lost(pair: Pair, table: QualifiedName, reason: str) -> Problem:
    return pair.problem(table, reason + _AT_COMMIT, f"tables.capture: {{{shown(table)}: trigger}}")


def _key_remedy(table: Table) -> str:
    """Return the DDL that gives a table a key, the cheapest there is."""
    columns = {column.name: column for column in table.columns}
    for index in table.unique_indexes:
        names = tuple(map(_unquoted, index.expressions))
        if index.predicate is None and index.is_immediate and set(names) <= columns.keys():
            nullable = [quote_name(name) for name in names if not columns[name].is_not_null]
            changes = ", ".join(f"ALTER COLUMN {name} SET NOT NULL" for name in nullable)
            return f"ALTER TABLE {table.qualified} {changes}"
    return (
        f"on both sides: ALTER TABLE {table.qualified} "
        "ADD COLUMN crossfade_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY; "
        "or name columns that are unique under tables.key; or exclude the table"
    )


def _has_index(table: Table, key: tuple[str, ...]) -> bool:
    return any(
        set(map(_unquoted, index.expressions)) == set(key) and index.predicate is None and index.is_immediate
        for index in table.unique_indexes
    )


def _unquoted(expression: str) -> str:
    """Return a column's name from the way pg_get_indexdef prints it: quoted only where it must be."""
    is_quoted = len(expression) > 1 and expression[0] == expression[-1] == '"'
    return expression[1:-1].replace('""', '"') if is_quoted else expression


def _columns_agree(pair: Pair, old: Table, new: Table) -> Iterator[Problem]:
    others = {column.name: column for column in new.columns}
    for column in old.columns:
        other, name = others.get(column.name), quote_name(column.name)
        if other is None:
            remedy = f"on new: ALTER TABLE {old.qualified} ADD COLUMN {name} {column.type}"
            yield pair.problem(old.names, f"its column {column.name} is missing on new", remedy)
        elif other.type != column.type:
            reason = f"its column {column.name} is {column.type} on old and {other.type} on new"
            remedy = f"on new: ALTER TABLE {old.qualified} ALTER COLUMN {name} TYPE {column.type}"
            yield pair.problem(old.names, reason, remedy)
        elif other.is_generated != column.is_generated:
            side = "new" if other.is_generated else "old"
            reason = f"its column {column.name} is generated on {side} only"
            yield pair.problem(old.names, reason, "make it the same on both sides")
        elif other.is_not_null and not column.is_not_null:
            reason = f"its column {column.name} may be NULL on old, and not on new"
            remedy = f"on new: ALTER TABLE {old.qualified} ALTER COLUMN {name} DROP NOT NULL"
            yield pair.problem(old.names, reason, remedy)
    known = {column.name for column in old.columns}
    for extra in sorted(pair.demanding.get(old.names, frozenset()) - known):
        reason = f"its column {extra} is only on new, where it must not be NULL and has no default"
        remedy = f"on new: ALTER TABLE {old.qualified} ALTER COLUMN {quote_name(extra)} SET DEFAULT ..."
        yield pair.problem(old.names, reason, remedy)


def _new_is_not_stricter(pair: Pair, old: Table, new: Table) -> Iterator[Problem]:
    unique = {(frozenset(index.expressions), index.predicate) for index in old.unique_indexes}
    for index in new.unique_indexes:
        if (frozenset(index.expressions), index.predicate) not in unique:
            columns = ", ".join(index.expressions)
            reason = (
                f"({columns}) is unique on new ({index.name}) and not on old: duplicates will be quarantined"
            )
            remedy = f"create the same unique index on old, or drop {index.name} on new"
            yield pair.problem(old.names, reason, remedy, warns=True)
