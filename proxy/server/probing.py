"""Which tables refuse a write that carries its entries, found out by trying on the cluster itself.

Some clusters that speak PostgreSQL's protocol refuse data-changing statements in WITH, on some
tables or on all. EXPLAIN plans such a statement and executes nothing. Where it is refused, and
the same write returning its keys is not, the table is written in the split form (`split`).

All tables are tried in one message, since as a rule none refuses: only when one does they are
tried one by one. A table that somebody has locked is not waited for; it counts as usual.
"""

from __future__ import annotations

from dataclasses import replace

import asyncpg

from proxy.capture.splice import returning_keys, splice
from proxy.catalog.keeper import CatalogKeeper
from proxy.catalog.model import Catalog, Table
from proxy.config.model import Tables
from proxy.sql.classify import parse

_TOGETHER_MAX = 200
_PATIENCE = "SET LOCAL lock_timeout = '100ms'"
# Not there, not allowed, locked: says nothing about the form.
_SAYS_NOTHING = {"42501", "42P01", "55P03"}


class ProbingKeeper:
    """The catalog of one cluster's database, in which tables say whether they are to be split."""

    def __init__(self) -> None:
        self._keeper = CatalogKeeper()
        self._seen: Catalog | None = None
        self._known = Catalog()

    async def read(self, connection: asyncpg.Connection, tables: Tables) -> Catalog:
        """Return the catalog as it is now; the same object as long as nothing has changed."""
        seen = await self._keeper.read(connection, tables)
        if seen is not self._seen:
            self._known = await probe(connection, seen)
            self._seen = seen
        return self._known


async def probe(connection: asyncpg.Connection, catalog: Catalog) -> Catalog:
    """Return the catalog with what the cluster refuses.

    Raises:
        asyncpg.PostgresError, OSError: The connection is lost.
    """
    tried = [table for table in catalog.tables.values() if _is_spliced(table)]
    refused: list[Table] = []
    for start in range(0, len(tried), _TOGETHER_MAX):
        together = tried[start : start + _TOGETHER_MAX]
        if await _refusal(connection, [_spliced(table, catalog) for table in together]) is not None:
            refused += [table for table in together if await _is_to_split(connection, table, catalog)]
    if not refused:
        return catalog
    split = {table.names: table._replace(is_split=True) for table in refused}
    return replace(catalog, tables={**catalog.tables, **split})


async def _is_to_split(connection: asyncpg.Connection, table: Table, catalog: Catalog) -> bool:
    refusal = await _refusal(connection, [_spliced(table, catalog)])
    if refusal is None or refusal in _SAYS_NOTHING:
        return False
    return await _refusal(connection, [_returning(table)]) is None


async def _refusal(connection: asyncpg.Connection, texts: list[str]) -> str | None:
    """Return the SQLSTATE with which the first of these is refused; None: all would run."""
    try:
        await connection.execute("; ".join([_PATIENCE, *(f"EXPLAIN {text}" for text in texts)]))
    except asyncpg.PostgresError as error:
        if connection.is_closed():
            raise
        return str(error.sqlstate)
    return None


def _is_spliced(table: Table) -> bool:
    """Return whether statements on a table carry their entries as a rule."""
    is_counted = table.has_rules or table.has_children or table.has_row_security
    return bool(table.id) and table.capture == "statement" and not table.is_split and not is_counted


def _spliced(table: Table, catalog: Catalog) -> str:
    text = _write(table)
    return splice(text, parse(text)[0], table, 0, catalog.server_version).text


def _returning(table: Table) -> str:
    text = _write(table)
    return returning_keys(text, parse(text)[0], table)


def _write(table: Table) -> str:
    return f"DELETE FROM {table.qualified} WHERE false"
