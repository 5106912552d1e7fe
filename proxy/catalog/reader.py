"""Reading a `Catalog` from a cluster: one snapshot, a handful of queries, no per-table round trips.

Rule 1: the search path is pg_catalog alone while reading, so that every type, function and
expression that PostgreSQL prints for us comes with its schema.

Rule 2: what a view reads and calls is taken from its stored rule, not from pg_depend,
which says nothing about built-in functions (nextval, say).

Rule 3: a partition never is a table of its own; what is true of a partition (a trigger,
a rule) is true of its root.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import asyncpg

from proxy.catalog import queries
from proxy.catalog.definitions import Definition, Sort
from proxy.catalog.hidden import find_hidden
from proxy.catalog.model import (
    Catalog,
    Column,
    ForeignKey,
    OwnedSequence,
    QualifiedName,
    Relation,
    RelationKind,
    Table,
    UniqueIndex,
)
from proxy.catalog.traces import NATIVE, find_traces
from proxy.config.model import Tables
from proxy.config.values import CaptureForm

_KINDS = {
    "r": RelationKind.TABLE,
    "p": RelationKind.TABLE,
    "v": RelationKind.VIEW,
    "m": RelationKind.MATERIALIZED_VIEW,
    "f": RelationKind.FOREIGN_TABLE,
    "S": RelationKind.SEQUENCE,
}


class _Class(NamedTuple):
    """A row of pg_class, with what other catalogs say about it."""

    oid: int
    schema: str
    name: str
    kind: str
    root: int | None  # of a partition
    has_row_security: bool
    has_children: bool
    is_heir: bool  # of plain inheritance
    has_user_triggers: bool
    has_rules: bool

    @property
    def names(self) -> QualifiedName:
        return self.schema, self.name


class _View(NamedTuple):
    """What a view's rule mentions."""

    relations: frozenset[int]
    is_volatile: bool


async def read_catalog(connection: asyncpg.Connection, tables: Tables) -> Catalog:
    """Return what the proxy must know about the connection's database.

    Table ids are 0 where `crossfade init` has not run or has not seen the table.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL search_path = pg_catalog")
        classes = {row["oid"]: _Class(**row) for row in await connection.fetch(queries.CLASSES)}
        mirrored = {
            oid: found
            for oid, found in classes.items()
            if found.kind in "rp" and found.root is None and tables.is_mirrored(*found.names)
        }
        views = {row["oid"]: _view(row) for row in await connection.fetch(queries.VIEWS)}
        definitions = list(map(_definition, await connection.fetch(queries.DEFINITIONS, sorted(NATIVE))))
        hidden = find_hidden(definitions)
        functions = await connection.fetch(queries.FUNCTIONS, hidden.functions)
        read = await _read_tables(connection, classes, mirrored, tables)
        return Catalog(
            tables={
                names: table._replace(is_volatile=table.oid in hidden.relations)
                for names, table in read.items()
            },
            relations=_relations(classes, mirrored, views, hidden.relations),
            volatile_operators=frozenset(hidden.operators),
            volatile_types=frozenset(hidden.types),
            has_volatile_casts=hidden.has_implicit_casts,
            functions={(row["schema"], row["name"]): row["is_volatile"] for row in functions},
            native_functions=frozenset((row["schema"], row["name"]) for row in functions if row["is_native"]),
            server_version=int(await connection.fetchval("SHOW server_version_num")),
            sequences=await _read_sequences(connection, mirrored),
            committing=frozenset(map(tuple, await connection.fetch(queries.COMMITTING))),
            blind=await _read_blind_roles(connection, classes, read),
            traces=find_traces(definitions),
        )


class Steadiness(NamedTuple):
    """What became of a table's shape, seen from inside a snapshot.

    `is_rewritten`: the rows that the snapshot should see went to another file since it
    was taken, and reading them now finds nothing.
    """

    fingerprint: str
    is_rewritten: bool


async def steadiness(connection: asyncpg.Connection, oids: Iterable[int]) -> dict[int, Steadiness]:
    """Return by oid how steady tables are; a dropped table is missing.

    To be asked after reading the tables, in the same transaction: the locks that reading
    took keep them as they are from then on.
    """
    rows = await connection.fetch(queries.STEADINESS, list(oids))
    return {row["oid"]: Steadiness(row["fingerprint"], row["is_rewritten"]) for row in rows}


async def _read_tables(
    connection: asyncpg.Connection,
    classes: Mapping[int, _Class],
    mirrored: Mapping[int, _Class],
    tables: Tables,
) -> dict[QualifiedName, Table]:
    ids = await _read_ids(connection)
    columns = await _read_columns(connection, mirrored)
    indexes = await _read_indexes(connection, mirrored)
    references, referenced_by = await _read_foreign_keys(connection, classes)
    over_partitions = _over_partitions(classes)
    prints = {
        row["oid"]: row["fingerprint"] for row in await connection.fetch(queries.FINGERPRINTS, list(mirrored))
    }
    found = {}
    for oid, table in mirrored.items():
        key = tables.key_of(*table.names) or _key(columns[oid], indexes[oid])
        types = {column.name: column.type for column in columns[oid]}
        found[table.names] = Table(
            id=ids.get(table.names, 0),
            schema=table.schema,
            name=table.name,
            oid=oid,
            columns=tuple(columns[oid]),
            # A configured key with a column that does not exist is no key: `check` names it.
            key=key if all(name in types for name in key) else (),
            key_types=tuple(types[name] for name in key if name in types),
            capture=_capture(table, tables),
            is_split=tables.capture_of(*table.names) is CaptureForm.SPLIT,
            unique_indexes=tuple(_unique_index(row, columns[oid], key) for row in indexes[oid]),
            references=tuple(references[oid]),
            referenced_by=tuple(referenced_by[oid]),
            has_user_triggers=table.has_user_triggers or over_partitions[oid].has_user_triggers,
            has_rules=table.has_rules or over_partitions[oid].has_rules,
            has_row_security=table.has_row_security,
            is_partitioned=table.kind == "p",
            has_children=table.kind == "r" and table.has_children,
            fingerprint=prints[oid],
        )
    return found


def _capture(table: _Class, tables: Tables) -> str:
    """Return the form that captures a table.

    In plain inheritance a statement on the parent changes rows of its heirs, and fires only the
    parent's triggers: neither says whose the rows are. Counting does.
    """
    is_inheriting = table.is_heir or (table.kind == "r" and table.has_children)
    return "statement" if is_inheriting else tables.capture_of(*table.names).on_cluster


class _OverPartitions(NamedTuple):
    """What any partition of a table has."""

    has_user_triggers: bool = False
    has_rules: bool = False


def _over_partitions(classes: Mapping[int, _Class]) -> Mapping[int, _OverPartitions]:
    found: defaultdict[int, _OverPartitions] = defaultdict(_OverPartitions)
    for partition in classes.values():
        if partition.root is not None:
            before = found[partition.root]
            found[partition.root] = _OverPartitions(
                before.has_user_triggers or partition.has_user_triggers,
                before.has_rules or partition.has_rules,
            )
    return found


async def _read_ids(connection: asyncpg.Connection) -> dict[QualifiedName, int]:
    if not await connection.fetchval("SELECT to_regclass('crossfade.tables') IS NOT NULL"):
        return {}
    rows = await connection.fetch("SELECT id, schema, name FROM crossfade.tables")
    return {(row["schema"], row["name"]): row["id"] for row in rows}


async def _read_columns(connection: asyncpg.Connection, oids: Iterable[int]) -> Mapping[int, list[Column]]:
    found: defaultdict[int, list[Column]] = defaultdict(list)
    for row in await connection.fetch(queries.COLUMNS, list(oids)):
        found[row["oid"]].append(
            Column(
                row["name"],
                row["type"],
                row["attnum"],
                row["is_generated"],
                row["identity"],
                row["is_not_null"],
                row["is_portable"],
            )
        )
    return found


async def _read_indexes(
    connection: asyncpg.Connection, oids: Iterable[int]
) -> Mapping[int, list[asyncpg.Record]]:
    found: defaultdict[int, list[asyncpg.Record]] = defaultdict(list)
    for row in await connection.fetch(queries.UNIQUE_INDEXES, list(oids)):
        found[row["oid"]].append(row)
    return found


def _index_columns(index: asyncpg.Record, columns: Iterable[Column]) -> tuple[str, ...]:
    """Return the names of an index's columns; an expression has none and is left out."""
    names = {column.attnum: column.name for column in columns}
    return tuple(names[attnum] for attnum in index["attnums"] if attnum in names)


def _key(columns: list[Column], indexes: list[asyncpg.Record]) -> tuple[str, ...]:
    """Return the primary key, else the narrowest unique index that names every row; else nothing."""
    not_null = {column.name for column in columns if column.is_not_null}
    usable = []
    for index in indexes:
        names = _index_columns(index, columns)
        is_plain = len(names) == len(index["expressions"]) and index["predicate"] is None
        if index["is_primary"]:
            return names
        if is_plain and index["is_immediate"] and not_null.issuperset(names):
            usable.append((len(names), index["name"], names))
    return min(usable)[2] if usable else ()


def _unique_index(row: asyncpg.Record, columns: list[Column], key: tuple[str, ...]) -> UniqueIndex:
    names = _index_columns(row, columns)
    is_plain = len(names) == len(row["expressions"]) and row["predicate"] is None
    return UniqueIndex(
        name=row["name"],
        expressions=tuple(row["expressions"]),
        predicate=row["predicate"],
        is_key=is_plain and sorted(names) == sorted(key),
        is_immediate=row["is_immediate"],
        are_nulls_equal=row["are_nulls_equal"],
    )


async def _read_foreign_keys(
    connection: asyncpg.Connection, classes: Mapping[int, _Class]
) -> tuple[Mapping[int, list[ForeignKey]], Mapping[int, list[ForeignKey]]]:
    references: defaultdict[int, list[ForeignKey]] = defaultdict(list)
    referenced_by: defaultdict[int, list[ForeignKey]] = defaultdict(list)
    for row in await connection.fetch(queries.FOREIGN_KEYS):
        source, target = classes.get(row["table"]), classes.get(row["referenced"])
        if source is None or target is None:
            continue
        key = ForeignKey(
            name=row["name"],
            table=classes[source.root or source.oid].names,
            columns=tuple(row["columns"]),
            referenced=classes[target.root or target.oid].names,
            referenced_columns=tuple(row["referenced_columns"]),
            on_delete=row["on_delete"],
            on_update=row["on_update"],
            is_deferrable=row["is_deferrable"],
        )
        references[source.root or source.oid].append(key)
        referenced_by[target.root or target.oid].append(key)
    return references, referenced_by


async def _read_blind_roles(
    connection: asyncpg.Connection, classes: Mapping[int, _Class], tables: Mapping[QualifiedName, Table]
) -> dict[QualifiedName, frozenset[str]]:
    """Return, by table, the roles that may change its rows and not read their keys, or where they lie."""
    roots = {oid: classes[each.root or oid].names for oid, each in classes.items() if each.kind in "rp"}
    keys = {oid: tables[names].key or ("ctid",) for oid, names in roots.items() if names in tables}
    found: defaultdict[QualifiedName, set[str]] = defaultdict(set)
    for row in await connection.fetch(queries.BLIND_ROLES, list(keys), json.dumps(keys)):
        found[roots[row["oid"]]].add(row["role"])
    return {names: frozenset(roles) for names, roles in found.items()}


def _view(row: asyncpg.Record) -> _View:
    return _View(frozenset(row["relations"]), row["is_volatile"])


def _definition(row: asyncpg.Record) -> Definition:
    return Definition(
        Sort(row["sort"]), row["oid"], row["name"], row["is_volatile"], row["source"], frozenset(row["uses"]),
        row["language"], row["extension"], row["is_declared_volatile"],
    )  # fmt: skip


def _relations(
    classes: Mapping[int, _Class],
    mirrored: Mapping[int, _Class],
    views: Mapping[int, _View],
    hidden: Collection[int],
) -> dict[QualifiedName, Relation]:
    """Return everything that is not a mirrored table, views with what they read in the end."""
    found = {}
    for oid, relation in classes.items():
        if oid in mirrored:
            continue
        reached = _reachable(oid, views)
        bases = {classes[base].root or base for base in reached if base in classes and base != oid}
        if relation.root is not None:
            bases = {relation.root}
        found[relation.names] = Relation(
            schema=relation.schema,
            name=relation.name,
            kind=RelationKind.PARTITION if relation.root is not None else _KINDS[relation.kind],
            base_tables=frozenset(classes[base].names for base in bases if classes[base].kind in "rpf"),
            is_volatile=any(
                base in hidden or (base in views and views[base].is_volatile) for base in reached
            ),
            has_user_triggers=relation.has_user_triggers,
            has_rules=relation.has_rules,
        )
    return found


def _reachable(oid: int, views: Mapping[int, _View]) -> set[int]:
    """Return a relation and all that its definition reads, through any number of views."""
    reached, open_ends = {oid}, [oid]
    while open_ends:
        view = views.get(open_ends.pop())
        if view is not None:
            fresh = view.relations - reached
            reached |= fresh
            open_ends += fresh
    return reached


async def _read_sequences(
    connection: asyncpg.Connection, mirrored: Mapping[int, _Class]
) -> tuple[OwnedSequence, ...]:
    """Return the sequences that mirrored tables draw from, and the unowned ones beside them."""
    schemas = {table.schema for table in mirrored.values()}
    found = []
    for row in await connection.fetch(queries.SEQUENCES):
        owner = mirrored.get(row["table"] or 0)
        if owner is not None:
            found.append(OwnedSequence(row["schema"], row["name"], (owner.names, row["column"])))
        elif row["table"] is None and row["schema"] in schemas:
            found.append(OwnedSequence(row["schema"], row["name"]))
    return tuple(found)
