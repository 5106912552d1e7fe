"""DDL in the ledger: entries of kind `d`, in the order in which the authority ran them.

    ddl_begin(names)   before the statement: notes whether it is about temporary relations
    ddl_end(text)      after it, in its transaction: the entry, with all that the text depends on
    ddl_apart(text)    after one that no transaction may hold (CONCURRENTLY), in a transaction of its own

An entry's key is {time, search_path, role, text}. The time is taken while the statement's locks
are held, so two statements about one object are ordered as they ran. Rows need no order among
DDL: they are converged as of a snapshot, after all the DDL that the snapshot contains.

What ran apart holds no lock any more when it is entered: somebody may have dropped its table, and
entered that, first. So its tables are locked again, and what does not exist any more is not entered;
whoever drops it now comes later.

On the mirror a statement and the note that it ran (`crossfade.applied`) are one transaction:
an answer that was lost is no second run.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

KIND = "d"

FUNCTIONS = """
CREATE TABLE IF NOT EXISTS crossfade.applied (
    statement text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());

CREATE OR REPLACE FUNCTION crossfade.ddl_begin(names text[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_catalog.set_config('crossfade.is_temporary', EXISTS (
        SELECT FROM pg_catalog.unnest(names) name
          JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name)
         WHERE c.relpersistence = 't')::pg_catalog.text, true);
END $$;

CREATE OR REPLACE FUNCTION crossfade.ddl_end(sql text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF pg_catalog.current_setting('crossfade.is_temporary', true) IS DISTINCT FROM 'true' THEN
        INSERT INTO crossfade.ledger (tbl, kind, key) VALUES (0, 'd', ARRAY[
            pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
            pg_catalog.current_setting('search_path'), current_user, sql]);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION crossfade.ddl_apart(sql text, tables text[], made text, gone text[])
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY tables LOOP
        BEGIN
            EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', name);
        EXCEPTION
            WHEN undefined_table THEN RETURN;
            WHEN insufficient_privilege THEN NULL;  -- an owner that may not read: unlocked
        END;
    END LOOP;
    IF EXISTS (SELECT FROM pg_catalog.pg_class c, pg_catalog.unnest(tables) each
                WHERE c.oid = pg_catalog.to_regclass(each) AND c.relpersistence = 't')
        OR (made IS NOT NULL AND pg_catalog.to_regclass(made) IS NULL)
        OR EXISTS (SELECT FROM pg_catalog.unnest(gone) each WHERE pg_catalog.to_regclass(each) IS NOT NULL)
    THEN
        RETURN;
    END IF;
    PERFORM crossfade.ddl_end(sql);
END $$;

CREATE OR REPLACE FUNCTION crossfade.ddl_refuse(kind text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'DDL about this (%) is refused while the database moves', kind
        USING ERRCODE = 'feature_not_supported',
              HINT = 'Run it on both clusters past the proxy, or set mirror.ddl in its configuration.';
END $$;
"""

_READ = """
SELECT ctid::text, key, coalesce(retry_at <= now(), true) AS is_due
  FROM crossfade.ledger WHERE kind = 'd' ORDER BY key[1]
"""


class Change(NamedTuple):
    """One DDL statement to run on the mirror."""

    ctid: str
    time: str
    search_path: str
    role: str
    text: str
    is_due: bool  # False: it waits in quarantine, and all that follow wait with it

    @property
    def name(self) -> str:
        """What it is remembered by on the mirror."""
        return f"{self.time} {self.text[:200]}"


async def read(connection: asyncpg.Connection) -> list[Change]:
    """Return all DDL in the ledger, oldest first."""
    found = []
    for row in await connection.fetch(_READ):
        time, search_path, role, text = row["key"]
        found.append(Change(row["ctid"], time, search_path, role, text, row["is_due"]))
    return found
