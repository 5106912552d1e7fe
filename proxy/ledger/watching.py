"""Functions on the clusters that see changes which no statement text shows.

PostgreSQL counts the rows a transaction inserts, updates and deletes, by table.
`watch_begin` notes these counts; `watch_end` compares, and for each table in statement
form whose count grew writes a table entry: the whole table is to be compared.

    watch_end(captured)   tables whose changes the statement itself wrote as key entries. They
                          get a table entry only if more rows changed than entries were written
                          meanwhile: a trigger or a cascade changed rows of the same table.

    audit_end(captured)   the same for a statement that is believed to be captured: whatever else
                          has grown was missed, and is said by a warning that the proxy reads

Limits. The counts of a transaction include aborted savepoints and what the server has not
yet flushed of earlier transactions: the former costs a needless comparison, the latter is
why a difference is taken. TRUNCATE is not counted. A deferred trigger runs after
`watch_end`. An update that moves a row between partitions counts twice.

These are functions, not statements sent by the proxy, because PostgreSQL refuses an
INSERT statement in a READ ONLY transaction even when it would insert nothing.
"""

from __future__ import annotations

MISSED = "CF010"
"""SQLSTATE of the warning that an audit found changes nobody captured."""

# Written out in full, whatever the client's search_path is.
FUNCTIONS = (
    """
CREATE OR REPLACE FUNCTION crossfade.watch_counts() RETURNS TABLE (tbl int, form text, changes bigint)
LANGUAGE sql VOLATILE AS $$
    SELECT t.id, t.capture,
           pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(r.relid)
             + pg_catalog.pg_stat_get_xact_tuples_updated(r.relid)
             + pg_catalog.pg_stat_get_xact_tuples_deleted(r.relid))::pg_catalog.int8
      FROM crossfade.tables t
      JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
     CROSS JOIN LATERAL (
           SELECT c.oid WHERE c.relkind <> 'p'
           UNION ALL
           SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p
            WHERE c.relkind = 'p' AND p.isleaf) r(relid)
     GROUP BY t.id, t.capture
    UNION ALL
    SELECT 0, 'ledger', pg_catalog.pg_stat_get_xact_tuples_inserted('crossfade.ledger'::pg_catalog.regclass)
$$;

CREATE OR REPLACE FUNCTION crossfade.watch_begin() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_catalog.set_config('crossfade.seen', coalesce((
        SELECT pg_catalog.json_object_agg(w.tbl, w.changes)::pg_catalog.text
          FROM crossfade.watch_counts() w WHERE w.changes > 0), '{}'), true);
END $$;

CREATE OR REPLACE FUNCTION crossfade.watch_end(captured int[]) RETURNS int[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    seen pg_catalog.json := coalesce(
        nullif(pg_catalog.current_setting('crossfade.seen', true), ''), '{}');
    grown int[];
BEGIN
    WITH change AS MATERIALIZED (
        SELECT w.tbl, w.form, w.changes - coalesce((seen ->> w.tbl::pg_catalog.text)::int8, 0) AS rows_count
          FROM crossfade.watch_counts() w),
    written AS (
        -- Trigger form writes at least one entry for each row it sees; those are not the statement's.
        SELECT coalesce(pg_catalog.sum(CASE c.form WHEN 'ledger' THEN c.rows_count ELSE -c.rows_count END), 0)
                 AS entries_count
          FROM change c WHERE c.form IN ('ledger', 'trigger'))
    SELECT pg_catalog.array_agg(c.tbl) INTO grown FROM change c, written
     WHERE c.form = 'statement'
       AND c.rows_count > CASE WHEN c.tbl = ANY (captured) THEN written.entries_count ELSE 0 END;
    IF grown IS NOT NULL THEN
        INSERT INTO crossfade.ledger (tbl, kind) SELECT g, 't' FROM pg_catalog.unnest(grown) g;
    END IF;
    RETURN coalesce(grown, '{}');
END $$;

CREATE OR REPLACE FUNCTION crossfade.audit_end(captured int[]) RETURNS void LANGUAGE plpgsql VOLATILE
SET client_min_messages = warning AS $$
DECLARE missed int[] := crossfade.watch_end(captured);
BEGIN
    IF missed <> '{}' THEN
        RAISE WARNING 'changes of tables % were not captured', missed USING ERRCODE = '"""
    + MISSED
    + """';
    END IF;
END $$;
"""
)
