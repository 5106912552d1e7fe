"""Key ranges: what a chunk is, and the SQL that finds and selects one.

A range holds the keys above `lo`, up to and including `hi`; None is open. Ranges cut
at ascending bounds, the outermost ones open, hold every possible key exactly once,
also keys that are inserted after the bounds were chosen.

Keys are compared as rows, `(a, b) > ($1, $2)`: the form that PostgreSQL turns into a
single start and stop position in the key's index. Bounds travel as text and are cast
to the column's type, so that the comparison is the column's own.

Every comparison happens on the cluster the bounds came from. The other one may sort
text differently, and then the same range names other rows there.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.catalog.model import Table
from proxy.sql.quote import quote_name

Key = tuple[str, ...]
"""The key columns of one row, each as PostgreSQL prints it under the pinned settings."""


class Range(NamedTuple):
    """The keys in (lo, hi]; None is open."""

    lo: Key | None = None
    hi: Key | None = None


EVERYTHING = Range()


def rows_from(table: Table) -> str:
    """Return the table for FROM, without its heirs; the rows of partitions are the root's own."""
    return f"ONLY {table.qualified}" if table.has_children else table.qualified


def nameless_rows(table: Table) -> str:
    """Return the query whether a row's key holds NULL, and so names no row; empty: none can."""
    tests = " OR ".join(f"{quote_name(name)} IS NULL" for name in table.nullable_key)
    return f"SELECT EXISTS (SELECT FROM {rows_from(table)} WHERE {tests})" if tests else ""


def key_columns(table: Table, alias: str = "") -> str:
    """Return the key columns as a list for SELECT or ORDER BY."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(prefix + quote_name(column) for column in table.key)


def key_array(table: Table, alias: str = "") -> str:
    """Return the expression of type text[] that is the key of a row."""
    prefix = f"{alias}." if alias else ""
    return "ARRAY[" + ", ".join(f"{prefix}{quote_name(column)}::text" for column in table.key) + "]"


def key_parameter(table: Table, number: int) -> str:
    """Return parameter `$number`, a key as text[], as a list of values of the key's types."""
    return ", ".join(f"(${number}::text[])[{i}]::{kind}" for i, kind in enumerate(table.key_types, 1))


def condition(table: Table, bounds: Range, *, alias: str = "", first: int = 1) -> tuple[str, list[Key]]:
    """Return the WHERE condition that selects a range, and its parameters from `$first` on."""
    tests, parameters = [], []
    for operator, bound in ((">", bounds.lo), ("<=", bounds.hi)):
        if bound is not None:
            parameters.append(bound)
            values = key_parameter(table, first + len(parameters) - 1)
            tests.append(f"({key_columns(table, alias)}) {operator} ({values})")
    return " AND ".join(tests) or "true", parameters


def cut(table: Table, *, has_lo: bool) -> str:
    """Return the query for the next bounds after a key: every `$1`-th key of the next `$2`.

    It reads the key's index and nothing else, and ends after `$2` entries, so that no
    table is so large that looking for bounds holds a snapshot for long. The key to go
    on from is `$3`.
    """
    columns = key_columns(table)
    after = f"WHERE ({columns}) > ({key_parameter(table, 3)})" if has_lo else ""
    return (
        f"SELECT {key_array(table)} FROM ("
        f"SELECT {columns}, row_number() OVER (ORDER BY {columns}) AS crossfade_n FROM ("
        f"SELECT {columns} FROM {rows_from(table)} {after} ORDER BY {columns} LIMIT $2::bigint) AS head"
        ") AS numbered WHERE crossfade_n % $1::bigint = 0 ORDER BY crossfade_n"
    )


def ranges_between(bounds: list[Key]) -> list[Range]:
    """Return the ranges that bounds, in ascending order, cut all keys into."""
    return [Range(lo, hi) for lo, hi in zip([None, *bounds], [*bounds, None], strict=True)]
