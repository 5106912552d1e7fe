"""What the preflight reads from one server: identity, limits, and what a role may do.

Rule: everything is asked of the server itself (`has_table_privilege`, trying to become
a replica), never derived: role inheritance and managed services have their own ideas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from proxy.admin.preflight_schema import CalledFunction, TriggerFunction
from proxy.catalog.model import Catalog, QualifiedName, Table
from proxy.ledger.connection import become_replica
from proxy.ledger.schema import is_installed

_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       pg_is_in_recovery() AS is_in_recovery,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       (SELECT oid::int8 FROM pg_database WHERE datname = current_database()) AS database_oid,
       (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding,
       current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int AS connections_max,
       current_setting('default_transaction_read_only')::bool AS is_read_only,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
       (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS sees_all_rows,
       has_database_privilege(current_database(), 'CREATE') AS can_create_schema
"""

SCHEMA_USAGE = "USAGE on its schema"

# The engine pins default_transaction_read_only, which hides what other sessions get.
_READ_ONLY = "RESET default_transaction_read_only"

_LACKING = """
SELECT c.oid::int8 AS oid, has_schema_privilege(c.relnamespace, 'USAGE') AS has_usage,
       ARRAY(SELECT p FROM unnest($2::text[]) AS p WHERE NOT has_table_privilege(c.oid, p)) AS lacking
  FROM pg_class c WHERE c.oid = ANY($1::oid[])
"""

_SEQUENCES = """
SELECT s FROM unnest($1::text[]) AS s
 WHERE NOT (has_sequence_privilege(s, 'UPDATE') AND has_sequence_privilege(s, 'SELECT'))
"""

_HIDDEN_KEYS = """
SELECT DISTINCT k.oid::int8 AS oid, k.name FROM unnest($2::oid[], $3::text[]) AS k(oid, name)
 WHERE (has_any_column_privilege($1::text, k.oid, 'INSERT, UPDATE')
        OR has_table_privilege($1::text, k.oid, 'DELETE'))
   AND NOT has_column_privilege($1::text, k.oid, k.name, 'SELECT')
"""

_LEDGER = """
SELECT has_schema_privilege($1::text, 'crossfade', 'USAGE')
   AND has_table_privilege($1::text, 'crossfade.ledger', 'INSERT')
   AND has_table_privilege($1::text, 'crossfade.tables', 'SELECT')
"""

_TRIGGERS = """
SELECT n.nspname, c.relname, t.tgname AS name, l.lanname AS language, p.prosrc AS source,
       t.tgdeferrable AS is_deferrable
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A') AND f.nspname <> 'crossfade'
 ORDER BY 1, 2, 3
"""

# Functions and procedures that somebody may call. An SQL-standard body is printed, others are as written.
_FUNCTIONS = """
SELECT n.nspname || '.' || p.proname AS name, p.prokind::text AS kind, l.lanname AS language,
       coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS source
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'crossfade') AND n.nspname NOT LIKE 'pg\\_%'
   AND p.prokind IN ('f', 'p') AND (p.provolatile = 'v' OR p.prokind = 'p')
   AND l.lanname NOT IN ('c', 'internal')
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
 ORDER BY 1
"""
_LARGE_OBJECTS = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata"

_DEMANDING = """
SELECT a.attrelid::int8 AS oid, a.attname AS name FROM pg_attribute a
 WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
"""


class ServerFacts(NamedTuple):
    """What a server says about itself and about the role that asked."""

    version: int
    is_in_recovery: bool
    system_identifier: str
    database_oid: int
    encoding: str
    connections_max: int
    is_read_only: bool
    is_superuser: bool
    sees_all_rows: bool
    can_create_schema: bool


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """What the engine's role may not do on one primary."""

    tables: Mapping[QualifiedName, tuple[str, ...]]  # privileges it lacks
    sequences: tuple[str, ...]
    can_be_replica: bool


@dataclass(frozen=True, slots=True)
class UserFacts:
    """What keeps an application's role from writing captured statements."""

    exists: bool
    can_write_ledger: bool
    hidden_keys: Mapping[QualifiedName, tuple[str, ...]]  # key columns that it may not read


async def read_server(connection: asyncpg.Connection) -> ServerFacts:
    """Return what one server says about itself."""
    await connection.execute(_READ_ONLY)
    row = await connection.fetchrow(_SERVER)
    assert row is not None
    return ServerFacts(**row)


async def read_role(
    connection: asyncpg.Connection, catalog: Catalog, by_trigger: Iterable[Table]
) -> RoleFacts:
    """Return what the connection's role lacks to converge, in both directions."""
    lacking: dict[QualifiedName, list[str]] = {}
    names = {table.oid: table.names for table in catalog.tables.values()}
    wanted = (
        (("SELECT", "INSERT", "UPDATE", "DELETE"), list(names)),
        (
            ("TRIGGER",),
            [table.oid for table in by_trigger],
        ),
    )
    for privileges, oids in wanted:
        for row in await connection.fetch(_LACKING, oids, list(privileges)):
            missing = row["lacking"] + ([] if row["has_usage"] else [SCHEMA_USAGE])
            lacking.setdefault(names[row["oid"]], []).extend(missing)
    sequences = [sequence.qualified for sequence in catalog.sequences]
    return RoleFacts(
        tables={name: tuple(dict.fromkeys(missing)) for name, missing in lacking.items() if missing},
        sequences=tuple(row["s"] for row in await connection.fetch(_SEQUENCES, sequences)),
        can_be_replica=await become_replica(connection),
    )


async def read_user(connection: asyncpg.Connection, user: str, tables: Iterable[Table]) -> UserFacts:
    """Return what a role lacks to write to tables that are captured in the statement."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", user):
        return UserFacts(exists=False, can_write_ledger=False, hidden_keys={})
    installed = await is_installed(connection)
    keys = [(table, column) for table in tables for column in table.key]
    rows = await connection.fetch(
        _HIDDEN_KEYS, user, [table.oid for table, _ in keys], [column for _, column in keys]
    )
    names = {table.oid: table.names for table, _ in keys}
    hidden: dict[QualifiedName, tuple[str, ...]] = {}
    for row in rows:
        name = names[row["oid"]]
        hidden[name] = (*hidden.get(name, ()), row["name"])
    can_write = not installed or bool(await connection.fetchval(_LEDGER, user))
    return UserFacts(exists=True, can_write_ledger=can_write, hidden_keys=hidden)


async def read_triggers(connection: asyncpg.Connection) -> tuple[TriggerFunction, ...]:
    """Return every user's trigger that fires in ordinary sessions."""
    rows = await connection.fetch(_TRIGGERS)
    return tuple(
        TriggerFunction(
            (row["nspname"], row["relname"]),
            row["name"],
            row["language"],
            row["source"],
            row["is_deferrable"],
        )
        for row in rows
    )


async def read_functions(connection: asyncpg.Connection) -> tuple[CalledFunction, ...]:
    """Return every function and procedure of the user's that may write."""
    rows = await connection.fetch(_FUNCTIONS)
    return tuple(CalledFunction(row["name"], row["kind"], row["language"], row["source"]) for row in rows)


async def count_large_objects(connection: asyncpg.Connection) -> int:
    """Return how many large objects there are."""
    return int(await connection.fetchval(_LARGE_OBJECTS))


async def read_demanding(
    connection: asyncpg.Connection, catalog: Catalog
) -> dict[QualifiedName, frozenset[str]]:
    """Return the columns an insert must give a value, by table."""
    names = {table.oid: table.names for table in catalog.tables.values()}
    found: dict[QualifiedName, set[str]] = {}
    for row in await connection.fetch(_DEMANDING, list(names)):
        found.setdefault(names[row["oid"]], set()).add(row["name"])
    return {name: frozenset(columns) for name, columns in found.items()}


async def read_listed(connection: asyncpg.Connection) -> dict[QualifiedName, str] | None:
    """Return the tables that `init` knows, with their form of capture; None: it has not run."""
    if not await is_installed(connection):
        return None
    rows = await connection.fetch("SELECT schema, name, capture FROM crossfade.tables")
    return {(row["schema"], row["name"]): row["capture"] for row in rows}


async def sql_error(connection: asyncpg.Connection, sql: str) -> str | None:
    """Return what is wrong with a query, without running it; None: nothing."""
    try:
        await connection.prepare(sql)
    except asyncpg.PostgresError as error:
        return str(error)
    return None
