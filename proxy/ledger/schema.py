"""The DDL of schema `crossfade`, installing it on both clusters, and removing it.

    tables    id, schema and name of every mirrored table; ids are equal on both clusters
    ledger    one entry: this key, range or table may differ on the mirror
    lease     who runs the engine; `epoch` fences off an owner that lost it
    heartbeat when the lease expires; apart from it, since renewing updates a row and every
              target transaction holds a share lock on the lease's
    chunk     progress of backfill, on the side that is filled
    appended  how far the mirror has come in each keyless table, on the side that is filled
    verification  the result of every `verify`, on the side that was the authority then
    state     one row: is this side the authority, its epoch, how far the mirror has come, and
              the timelines of both clusters by then
    switches  what became of every switch
    trial     rows that go there and back, to try the way back
    proxy     the proxies that stand before this database
    hold      one row: the hold that a switch asks of them
    cancel    cancel requests that reached a proxy which does not know their key

The ledger has no index and no sequence: writing an entry is one heap insert. It is
read by scan and deleted by ctid.

`init` may run at any time, also under load: it adds what is missing and never touches
authority, epoch or entries. A side that has no state yet gets the opposite of the
other side's, so that there are never two authorities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from proxy.config.model import Tables
from proxy.ledger import copying, ddl, watching

FENCED = "CF001"
"""SQLSTATE of an entry written on the side that is not the authority."""

LEASE_LOST = "CF002"
"""SQLSTATE of an engine transaction whose lease was taken over."""

WRONG_DIRECTION = "CF003"
"""SQLSTATE of an engine transaction that would write to the authority."""

# Holding an entry's deletion back would make every scan longer, so autovacuum comes early
# and at full speed. Truncation of the file's end is left to `entries.vacuum`, because it
# locks the ledger exclusively, and so every writer.
_DDL = f"""
SELECT pg_advisory_xact_lock(hashtext('crossfade.init'));
CREATE SCHEMA IF NOT EXISTS crossfade;

CREATE TABLE IF NOT EXISTS crossfade.tables (
    id int PRIMARY KEY, schema text NOT NULL, name text NOT NULL, capture text NOT NULL,
    UNIQUE (schema, name));

CREATE TABLE IF NOT EXISTS crossfade.ledger (
    tbl int NOT NULL,
    kind "char" NOT NULL DEFAULT 'k',
    key text[],
    at timestamptz NOT NULL DEFAULT now(),
    attempts int NOT NULL DEFAULT 0,
    error text,
    retry_at timestamptz
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 100000,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = false);
COMMENT ON COLUMN crossfade.ledger.kind IS
    'k: one key. r: a range, lower bound (exclusive) then upper bound (inclusive). t: the whole table. '
    'c: the whole table, when nobody holds the advisory lock that the key names. '
    'a: a row appended to a keyless table: address, partition, file, transaction. '
    'x: the rows with an xmin, in this relation, from this page on, if the relation still is this file. '
    'd: DDL, with time, search_path, role and text';

CREATE TABLE IF NOT EXISTS crossfade.lease (
    name text PRIMARY KEY, owner text, epoch bigint NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS crossfade.heartbeat (
    name text PRIMARY KEY, owner text, until timestamptz NOT NULL DEFAULT '-infinity') WITH (fillfactor = 50);
INSERT INTO crossfade.lease (name) VALUES ('engine') ON CONFLICT DO NOTHING;
INSERT INTO crossfade.heartbeat (name) VALUES ('engine'), ('backfill') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS crossfade.chunk (
    tbl int NOT NULL, number int NOT NULL, lo text[], hi text[], rank bigint NOT NULL, best text,
    rows_count bigint NOT NULL DEFAULT 0, migrated_at timestamptz,
    PRIMARY KEY (tbl, number)) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS chunk_pending ON crossfade.chunk (tbl, rank) WHERE migrated_at IS NULL;
CREATE TABLE IF NOT EXISTS crossfade.appended (
    tbl int PRIMARY KEY, epoch bigint NOT NULL, snapshot text NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS crossfade.verification (
    at timestamptz NOT NULL DEFAULT now(), is_whole bool NOT NULL, tables_count int NOT NULL,
    rows_count bigint NOT NULL, differences_count bigint NOT NULL, pending_count bigint NOT NULL,
    problems text[] NOT NULL DEFAULT '{{}}');
COMMENT ON TABLE crossfade.chunk IS 'key ranges: lo is exclusive, hi inclusive, NULL is unbounded';

CREATE TABLE IF NOT EXISTS crossfade.state (
    id bool PRIMARY KEY DEFAULT true CHECK (id), is_authority bool NOT NULL, epoch bigint NOT NULL,
    progress text, switching jsonb, lineage text) WITH (fillfactor = 50);
-- Of a version without it. To add what is there would lock the table all the same.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                    WHERE attrelid = 'crossfade.state'::regclass AND attname = 'lineage') THEN
        ALTER TABLE crossfade.state ADD lineage text;
    END IF;
END $$;
CREATE TABLE IF NOT EXISTS crossfade.switches (
    epoch bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(),
    moved_from text NOT NULL, moved_to text NOT NULL, pause_ms double precision,
    outcome text NOT NULL, reason text);

CREATE TABLE IF NOT EXISTS crossfade.proxy (
    name text PRIMARY KEY, until timestamptz NOT NULL, hold text, open_count int NOT NULL DEFAULT 0)
    WITH (fillfactor = 50);
ALTER TABLE crossfade.proxy ADD COLUMN IF NOT EXISTS wish text, ADD COLUMN IF NOT EXISTS host text,
    ADD COLUMN IF NOT EXISTS since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN IF NOT EXISTS digest text;
CREATE TABLE IF NOT EXISTS crossfade.hold (
    id bool PRIMARY KEY DEFAULT true CHECK (id), name text, owner text, until timestamptz,
    authority text, epoch bigint) WITH (fillfactor = 50);
INSERT INTO crossfade.hold (id) VALUES (true) ON CONFLICT DO NOTHING;
CREATE UNLOGGED TABLE IF NOT EXISTS crossfade.cancel (
    name text PRIMARY KEY, key bytea NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());

CREATE TABLE IF NOT EXISTS crossfade.trial (
    name text PRIMARY KEY, step int NOT NULL, at timestamptz NOT NULL DEFAULT now());

CREATE OR REPLACE FUNCTION crossfade.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'this cluster is not the authority' USING ERRCODE = '{FENCED}',
        HINT = 'The other cluster of the pair takes the writes: see crossfade.state.';
END $$;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = 'crossfade.ledger'::regclass AND tgname = 'fence') THEN
        CREATE TRIGGER fence BEFORE INSERT ON crossfade.ledger
            FOR EACH STATEMENT EXECUTE FUNCTION crossfade.refuse();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION crossfade.own(mine bigint, is_target bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM crossfade.lease WHERE name = 'engine' AND epoch = mine FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the engine''s lease of epoch % was taken over', mine USING ERRCODE = '{LEASE_LOST}';
    END IF;
    IF is_target AND (SELECT is_authority FROM crossfade.state FOR SHARE) THEN
        RAISE EXCEPTION 'the target is the authority' USING ERRCODE = '{WRONG_DIRECTION}';
    END IF;
END $$;
REVOKE ALL ON FUNCTION crossfade.own(bigint, bool) FROM PUBLIC;

GRANT USAGE ON SCHEMA crossfade TO PUBLIC;
GRANT INSERT ON crossfade.ledger TO PUBLIC;
GRANT SELECT ON crossfade.tables, crossfade.state TO PUBLIC;
"""

# Partitions are not listed: their rows belong to the root.
_CANDIDATES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'r' AND EXISTS (
           SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid)) AS is_inheriting
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
 ORDER BY 1, 2
"""

# pg_trigger.tgenabled, and the words of ALTER TABLE that lead there. A new trigger is neither.
_OPEN, _FENCED = ("D", "DISABLE"), ("A", "ENABLE ALWAYS")
_FENCE_NOW = """
SELECT tgenabled::text FROM pg_catalog.pg_trigger
 WHERE tgrelid = 'crossfade.ledger'::pg_catalog.regclass AND tgname = 'fence'
"""


class TableId(NamedTuple):
    """One row of crossfade.tables."""

    id: int
    schema: str
    name: str
    capture: str


async def init(old: asyncpg.Connection, new: asyncpg.Connection, tables: Tables) -> list[TableId]:
    """Create or complete the schema on both clusters; return every mirrored table with its id.

    Tables are those of the authority. The two clusters commit one after the other; if the
    process dies in between, running `init` again completes the other.

    Raises:
        asyncpg.PostgresError: One of the clusters refused; run it again when it is fixed.
    """
    async with old.transaction():
        await _create(old)
        async with new.transaction():
            await _create(new)
            await _found_reign(old, new)
            authority = old if await is_authority(old) else new
            listed = await _list_tables(old, new, authority, tables)
            for connection in (old, new):
                await _write_tables(connection, listed)
                await set_fence(connection, is_open=await is_authority(connection))
    return listed


async def remove(connection: asyncpg.Connection) -> None:
    """Drop the schema and with it every capture trigger, whose functions live in it."""
    await connection.execute("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS crossfade CASCADE")


async def is_installed(connection: asyncpg.Connection) -> bool:
    """Return whether `init` has run on this cluster."""
    return bool(await connection.fetchval("SELECT pg_catalog.to_regclass('crossfade.state') IS NOT NULL"))


async def is_authority(connection: asyncpg.Connection) -> bool:
    """Return whether this side's ledger takes entries."""
    return bool(await connection.fetchval("SELECT is_authority FROM crossfade.state"))


async def set_fence(connection: asyncpg.Connection, *, is_open: bool) -> None:
    """Make the ledger accept entries, or refuse them whatever the session's role and settings.

    Altering the trigger locks the ledger against writers until the transaction ends, so it
    is left alone when it already is as it should be.
    """
    letter, words = _OPEN if is_open else _FENCED
    if await connection.fetchval(_FENCE_NOW) != letter:
        await connection.execute(f"ALTER TABLE crossfade.ledger {words} TRIGGER fence")


async def _create(connection: asyncpg.Connection) -> None:
    await connection.execute("SET LOCAL client_min_messages = warning; SET LOCAL lock_timeout = '10s'")
    await connection.execute(_DDL)
    await connection.execute(watching.FUNCTIONS)
    await connection.execute(copying.FUNCTIONS)
    await connection.execute(ddl.FUNCTIONS)


async def _found_reign(old: asyncpg.Connection, new: asyncpg.Connection) -> None:
    """Give each side that has no state the opposite of the other's; by default old reigns."""
    query = "SELECT is_authority, epoch FROM crossfade.state"
    found = {side: await side.fetchrow(query) for side in (old, new)}
    if found[old] is None and found[new] is None:
        states = {old: (True, 1), new: (False, 1)}
    else:
        states = {
            side: (not other["is_authority"], other["epoch"])
            for side, other in ((old, found[new]), (new, found[old]))
            if other is not None and found[side] is None
        }
    for side, (reigns, epoch) in states.items():
        await side.execute("INSERT INTO crossfade.state (is_authority, epoch) VALUES ($1, $2)", reigns, epoch)


async def _list_tables(
    old: asyncpg.Connection, new: asyncpg.Connection, authority: asyncpg.Connection, tables: Tables
) -> list[TableId]:
    """Return the mirrored tables with the ids they have, and new ids for the others.

    An id is never given twice while an entry may carry it: ids only grow, and a table
    that is no longer mirrored keeps its row.
    """
    known: dict[tuple[str, str], int] = {}
    for connection in (new, old):
        for row in await connection.fetch("SELECT id, schema, name FROM crossfade.tables"):
            known[row["schema"], row["name"]] = row["id"]
    listed = []
    for row in await authority.fetch(_CANDIDATES):
        schema, name = row["schema"], row["name"]
        if tables.is_mirrored(schema, name):
            known.setdefault((schema, name), max(known.values(), default=0) + 1)
            # As in the catalog's reader: triggers do not see the rows of heirs.
            form = "statement" if row["is_inheriting"] else tables.capture_of(schema, name).on_cluster
            listed.append(TableId(known[schema, name], schema, name, form))
    return listed


async def _write_tables(connection: asyncpg.Connection, listed: Sequence[TableId]) -> None:
    await connection.executemany(
        "INSERT INTO crossfade.tables (id, schema, name, capture) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (id) DO UPDATE"
        " SET schema = excluded.schema, name = excluded.name, capture = excluded.capture",
        listed,
    )
