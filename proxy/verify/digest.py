"""The SQL of verification: the same question to both clusters, in texts that mean the same. Pure.

A row is hashed from the text PostgreSQL prints for it, under settings that are the same
on both sides, with the columns by name in the source's order. The hash is the one
of hash partitioning, which stays the same across versions; sums of it do not depend on
the order of rows.

Where a column's type differs, both sides are printed as the value would be after it was
written to the target: the source's text read as the target's type. Columns that either
side generates are left out, as converge leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from proxy.catalog.bounds import Range, condition, rows_from
from proxy.catalog.model import Column, Table
from proxy.sql.quote import quote_name, quote_text

# Types that both clusters have under this name, and that print one value in one way.
_CASTABLE = re.compile(
    r"(smallint|integer|bigint|numeric|real|double precision|boolean|jsonb|uuid|date|bytea|inet|cidr"
    r"|time|timestamp|interval)\b[^.]*$"
)
_INTEGERS = {"smallint", "integer", "bigint"}


class Shape(NamedTuple):
    """How one side of a table is read. Shapes of two sides list the same columns, in the same order."""

    table: Table
    columns: tuple[str, ...]
    values: tuple[str, ...]  # the columns as expressions, cast where types differ
    key: tuple[str, ...]  # the key as expressions of type text, the same text on both sides
    is_encoded: bool = False  # the databases' encodings differ: hash what it is in UTF-8


class Incomparable(ValueError):
    """The two sides of a table cannot be compared; the message says why."""


def shapes(source: Table, target: Table, *, is_encoded: bool = False) -> tuple[Shape, Shape]:
    """Return how both sides of a table are read.

    Raises:
        Incomparable: The target lacks a column: its values are lost there.
    """
    there = {column.name: column for column in target.columns}
    lost = [column.name for column in source.columns if column.name not in there]
    if lost:
        raise Incomparable(f"the target has no column {', '.join(lost)}")
    pairs = [(column, there[column.name]) for column in source.columns]
    stored = [pair for pair in pairs if not any(column.is_generated for column in pair)]
    columns = tuple(column.name for column, _ in stored)
    values = {column.name: _comparable(column, other) for column, other in stored}
    if missing := [name for name in source.key if name not in values]:
        raise Incomparable(f"its key is generated: {', '.join(missing)}")
    # The target may have another key, or none where its tables are spread over nodes.
    target = target._replace(key=source.key, key_types=tuple(there[name].type for name in source.key))
    here, beyond = (
        Shape(
            table,
            columns,
            tuple(values[name][side] for name in columns),
            tuple(f"({values[name][side]})::text" for name in source.key),
            is_encoded,
        )
        for side, table in enumerate((source, target))
    )
    return here, beyond


def _comparable(source: Column, target: Column) -> tuple[str, str]:
    """Return a column as an expression, for both sides, that prints equal values equally."""
    name, kinds = quote_name(source.name), (source.type, target.type)
    if source.type == target.type or _INTEGERS.issuperset(kinds):
        return name, name
    if any(re.match(r"character(\(|$)", kind) for kind in kinds):
        # Blanks at the end of char(n) are padding; in the other type they may be gone.
        return f"rtrim({name}::text)", f"rtrim({name}::text)"
    if _CASTABLE.match(target.type):
        return f"{name}::text::{target.type}", name
    return f"{name}::text", f"{name}::text"


def digest(shape: Shape, bounds: Range) -> tuple[str, list[object]]:
    """Return the query for count and sum of hashes of a range."""
    where, parameters = condition(shape.table, bounds)
    return (
        f"SELECT count(*), coalesce(sum({_row_hash(shape)}), 0)::text"
        f" FROM {rows_from(shape.table)} WHERE {where}",
        [*parameters],
    )


def buckets(shape: Shape, bounds: Range, count: int) -> tuple[str, list[object]]:
    """Return the query for the digest of each of `count` buckets of a range."""
    where, parameters = condition(shape.table, bounds)
    return (
        f"SELECT {_bucket(shape, count)} AS bucket, count(*), sum({_row_hash(shape)})::text"
        f" FROM {rows_from(shape.table)} WHERE {where} GROUP BY 1",
        [*parameters],
    )


def rows(shape: Shape, bounds: Range, count: int, chosen: list[int]) -> tuple[str, list[object]]:
    """Return the query for key and hash of every row in the chosen buckets of a range."""
    where, parameters = condition(shape.table, bounds, first=2)
    return (
        f"SELECT {_key(shape)}, {_row_hash(shape)} FROM {rows_from(shape.table)}"
        f" WHERE {where} AND {_bucket(shape, count)} = ANY ($1::bigint[])",
        [chosen, *parameters],
    )


def rows_of_keys(shape: Shape, *, has_version: bool) -> str:
    """Return the query for the rows of some keys: position in the list, version, hashes.

    Looked up by equality, which means the same on both sides however they sort. Each
    parameter is one column of the keys, as text[].
    """
    table = shape.table
    hashes = ", ".join(_hash(f"ROW({value})::text", shape.is_encoded) for value in shape.values)
    version = "t.xmin::text" if has_version else "''"
    given = " AND ".join(
        f"t.{quote_name(name)} = k.crossfade_k{i}::{kind}" for i, name, kind in _numbered(table)
    )
    return (
        f"SELECT k.crossfade_n, {version} AS version, ARRAY[{hashes}] AS hashes"
        f" FROM {_unnest(table)} JOIN {rows_from(table)} AS t ON {given}"
    )


def pending_keys(table: Table) -> str:
    """Return the query for those of some keys that the ledger names: position in the list.

    A position of 0 stands for all of them: an entry for the whole table or a range of it.
    Entries were written under the settings of whoever wrote them, so they are read as values
    of the key's types before they are compared.
    """
    entry = ", ".join(f"key[{i}]::{kind} AS k{i}" for i, _, kind in _numbered(table))
    names = ", ".join(f"k{i}" for i, _, _ in _numbered(table))
    given = ", ".join(f"k.crossfade_k{i}::{kind}" for i, _, kind in _numbered(table))
    return (
        f"WITH entry AS MATERIALIZED (SELECT DISTINCT {entry} FROM crossfade.ledger"
        f" WHERE tbl = {table.id} AND kind = 'k')"
        f" SELECT k.crossfade_n FROM {_unnest(table)} WHERE ({given}) IN (SELECT {names} FROM entry)"
        f" UNION ALL SELECT 0 WHERE EXISTS"
        f" (SELECT FROM crossfade.ledger WHERE tbl = {table.id} AND kind <> 'k')"
    )


def copies(shape: Shape, count: int, chosen: list[int]) -> tuple[str, list[object]]:
    """Return the query for the rows in some buckets, as text, each with its number of copies."""
    return (
        f"SELECT ROW({', '.join(shape.values)})::text, count(*) FROM {rows_from(shape.table)}"
        f" WHERE {_bucket(shape, count)} = ANY ($1::bigint[]) GROUP BY 1",
        [chosen],
    )


def pending_buckets(shape: Shape, count: int, everything: int) -> tuple[str, list[object]]:
    """Return the query for the buckets of a keyless table's rows that the ledger names.

    Args:
        everything: Stands for all of them: an entry for the whole table, or a row that has moved.
    """
    bucket = _bucket(shape, count)
    rows = f"(SELECT ctid AS place, tableoid AS part, {bucket} AS bucket FROM {rows_from(shape.table)})"
    return (
        f"SELECT CASE WHEN e.kind = 'a' THEN coalesce(t.bucket, {everything}) ELSE {everything} END"
        f" FROM crossfade.ledger AS e LEFT JOIN {rows} AS t"
        " ON e.kind = 'a' AND t.place = e.key[1]::tid AND t.part = e.key[2]::oid"
        f" WHERE e.tbl = {shape.table.id}",
        [],
    )


def collations(table: Table) -> str:
    """Return the query for the collation, as SQL, of each key column that has one."""
    return (
        "SELECT a.attname, quote_ident(n.nspname) || '.' || quote_ident(c.collname) AS name"
        " FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation"
        " JOIN pg_namespace n ON n.oid = c.collnamespace"
        f" WHERE a.attrelid = {quote_text(table.qualified)}::regclass AND a.attname = ANY ($1::text[])"
    )


def order_of_bounds(table: Table, collated: Mapping[str, str]) -> str:
    """Return the query for the positions of some keys, in the order in which this side sorts them.

    Args:
        collated: The collation of each key column that has one; a bare parameter would be
            sorted as the database's default says.
    """
    order = ", ".join(
        f"k.crossfade_k{i}::{kind}" + (f" COLLATE {collated[name]}" if name in collated else "")
        for i, name, kind in _numbered(table)
    )
    return f"SELECT k.crossfade_n FROM {_unnest(table)} ORDER BY {order}"


def _numbered(table: Table) -> list[tuple[int, str, str]]:
    """Return position, name and type of each key column."""
    numbers = range(1, len(table.key) + 1)
    return list(zip(numbers, table.key, table.key_types, strict=True))


def _unnest(table: Table) -> str:
    """Return the relation k of keys that are given as one parameter per key column.

    Its columns are crossfade_k1, crossfade_k2 and so on, and crossfade_n, the position from 1.
    """
    numbers = [number for number, _, _ in _numbered(table)]
    arrays = ", ".join(f"${number}::text[]" for number in numbers)
    names = ", ".join(f"crossfade_k{number}" for number in numbers)
    return f"unnest({arrays}) WITH ORDINALITY AS k({names}, crossfade_n)"


def _hash(text: str, is_encoded: bool) -> str:
    """Return the hash of an expression of type text."""
    if is_encoded:
        text = f"encode(convert_to({text}, 'UTF8'), 'hex')"
    return f'hashtextextended(({text}) COLLATE "C", 0)'


def _row_hash(shape: Shape) -> str:
    return _hash(f"ROW({', '.join(shape.values)})::text", shape.is_encoded)


def _key(shape: Shape) -> str:
    return f"ARRAY[{', '.join(shape.key)}]"


def _bucket(shape: Shape, count: int) -> str:
    """Return the number of a row's bucket; `count` is a power of two."""
    if not shape.key:
        return f"({_row_hash(shape)} & {count - 1})"
    return f"({_hash(_key(shape) + '::text', shape.is_encoded)} & {count - 1})"
