"""Keep a catalog, and read it again only when something in it has changed.

Reading takes some tens of milliseconds, most of them in this process, where clients or
a switch may be waiting. So it is preceded by one cheap query that has PostgreSQL hash
what the catalog is made of: every change of a row there gives it another xmin or place.
"""

from __future__ import annotations

import asyncpg

from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config.model import Tables

_SOURCES = (
    "pg_catalog.pg_class",
    "pg_catalog.pg_attribute",
    "pg_catalog.pg_index",
    "pg_catalog.pg_constraint",
    "pg_catalog.pg_trigger",
    "pg_catalog.pg_rewrite",
    "pg_catalog.pg_policy",
    "pg_catalog.pg_inherits",
    "pg_catalog.pg_proc",
    "pg_catalog.pg_operator",
    "pg_catalog.pg_cast",
    "pg_catalog.pg_namespace",
    "pg_catalog.pg_depend",
    "pg_catalog.pg_sequence",
    "pg_catalog.pg_auth_members",
)

_HASH = "(SELECT concat_ws(':', count(*), sum(hashtextextended(ctid::text || xmin::text, 0))) FROM {})"
_VERSION = (
    "SELECT concat_ws(' ', to_regclass('crossfade.tables')::oid,"
    " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()), "
    + ", ".join(map(_HASH.format, _SOURCES))
    # pg_authid, which not everybody may read.
    + ", (SELECT sum(oid::int8) || ':' || count(*) FILTER (WHERE rolsuper) FROM pg_catalog.pg_roles)"
    + ")"
)
_TABLES = "SELECT " + _HASH.format("crossfade.tables")
_IS_INSTALLED = "SELECT to_regclass('crossfade.tables') IS NOT NULL"


class CatalogKeeper:
    """The catalog of one cluster's database."""

    def __init__(self) -> None:
        self._version: tuple[str, Tables] | None = None
        self._catalog: Catalog | None = None

    async def read(self, connection: asyncpg.Connection, tables: Tables) -> Catalog:
        """Return the catalog as it is now; the same object as long as nothing has changed."""
        seen = await connection.fetchval(_VERSION)
        if await connection.fetchval(_IS_INSTALLED):
            seen += await connection.fetchval(_TABLES)
        version = (seen, tables)
        if self._catalog is None or version != self._version:
            # Read after the version: a change in between is seen twice, never missed.
            self._catalog = await read_catalog(connection, tables)
            self._version = version
        return self._catalog
