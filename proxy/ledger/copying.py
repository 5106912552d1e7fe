"""Functions on the clusters that say which rows a COPY FROM wrote, without a look at its stream.

PostgreSQL stamps every row with the number of the subtransaction that wrote it (`xmin`). So one
entry of kind `x`, which costs the client nothing, tells of any number of rows:

    copy_begin   before the COPY enters {xmin, table, 0, 0}: whatever bears that stamp. Enough by
                 itself: in the extended protocol nothing can follow a COPY before its data
    copy_end     after it enters something narrower instead, file by file of a partitioned table

Narrower are keys, for at most KEYS_MAX rows, or {xmin, table, page, file}: the rows that bear the
stamp from that page on, as long as the table is that file. Where the rows lie is guessed, and
the guess is good only if it finds as many as PostgreSQL has counted:

    ascending    above the largest key of before: a look into the key's index
    at the end   behind the end of the file as it was, or a little ahead of it: a file grows
                 by several pages at once, which are filled later

`cmin`, the number of the statement, tells its rows from others of the same subtransaction. Nobody
else can touch them before the transaction ends, so what is found then is exact.

An entry that outlives its stamp (four billion of them) names too many rows, which is harmless.
Where a file knows no stamps (other access methods, foreign partitions) the table gets an entry.

The functions run as their owner: who may COPY need not be allowed to read. They take names, not
SQL, and change nothing but what their own transaction has entered.
"""

from __future__ import annotations

STAMP = "x"
"""The kind of entries for rows that bear a stamp."""

KEYS_MAX = 1000
_SMALL_PAGES = 256  # read whole at once
_MARGIN_PAGES = 128  # a file grows by at most 64 pages at once

FUNCTIONS = f"""
CREATE OR REPLACE FUNCTION crossfade.copy_files(number int)
RETURNS TABLE (relid oid, is_stamped bool, inserted bigint, pages bigint) LANGUAGE sql STABLE AS $$
    SELECT c.oid, coalesce(a.amname = 'heap', false), pg_stat_get_xact_tuples_inserted(c.oid),
           pg_relation_size(c.oid) / current_setting('block_size')::int8
      FROM crossfade.tables t
      JOIN pg_namespace n ON n.nspname = t.schema
      JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = t.name
     CROSS JOIN LATERAL (
           SELECT r.oid UNION SELECT p.relid FROM pg_partition_tree(r.oid) p WHERE p.isleaf) f(relid)
      JOIN pg_class c ON c.oid = f.relid AND c.relkind <> 'p'
      LEFT JOIN pg_am a ON a.oid = c.relam
     WHERE t.id = number
$$;
REVOKE ALL ON FUNCTION crossfade.copy_files(int) FROM PUBLIC;

CREATE OR REPLACE FUNCTION crossfade.copy_begin(number int, key text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    root oid;
    are_stamped bool;
    files json;
    place tid;
    stamp xid;
    command text;
    top text;
BEGIN
    PERFORM set_config('crossfade.copying', '', true);
    IF current_setting('transaction_read_only') = 'on' THEN
        RETURN;  -- the COPY is refused in its own words
    END IF;
    SELECT to_regclass(format('%I.%I', t.schema, t.name)) INTO root
      FROM crossfade.tables t WHERE t.id = number;
    SELECT bool_and(f.is_stamped), json_object_agg(f.relid, json_build_array(f.inserted, f.pages))
      INTO are_stamped, files FROM crossfade.copy_files(number) f;
    IF are_stamped IS NOT TRUE THEN
        INSERT INTO crossfade.ledger (tbl, kind) VALUES (number, 't');
        RETURN;
    END IF;
    INSERT INTO crossfade.ledger (tbl, kind) VALUES (number, '{STAMP}')
        RETURNING ctid, xmin, cmin INTO place, stamp, command;
    UPDATE crossfade.ledger l SET key = ARRAY[stamp::text, root::text, '0', '0'] WHERE l.ctid = place
        RETURNING l.ctid INTO place;
    IF EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = root AND a.attnum = i.indkey[0]
                 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
                 JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcdefault
                WHERE i.indrelid = root AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                  AND c.relkind = 'i' AND ARRAY[a.attname::text] = key) THEN
        -- Not max(): many types have an order, and uuid none of that.
        EXECUTE format('SELECT %1$I::text FROM ONLY %2$s ORDER BY %1$I DESC LIMIT 1', key[1], root::regclass)
            INTO top;
    END IF;
    PERFORM set_config('crossfade.copying', json_build_object('number', number, 'place', place,
        'stamp', stamp, 'command', command, 'top', top, 'files', files)::text, true);
END $$;

CREATE OR REPLACE FUNCTION crossfade.copy_end(number int, key text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    seen json := nullif(current_setting('crossfade.copying', true), '')::json;
    file record;
    guess text;
    found_count bigint;
BEGIN
    IF seen IS NULL OR (seen ->> 'number')::int <> number OR current_setting('track_counts') = 'off' THEN
        RETURN;
    END IF;
    PERFORM set_config('crossfade.copying', '', true);
    FOR file IN
        SELECT f.relid, format('ONLY %s', f.relid::regclass) AS name, f.pages,
               f.inserted - coalesce((s.before ->> 0)::int8, 0) AS added_count,
               CASE WHEN f.pages > {_SMALL_PAGES}
                    THEN greatest((s.before ->> 1)::int8 - {_MARGIN_PAGES}, 0) ELSE 0 END AS page,
               (SELECT string_agg(format(
                           CASE WHEN a.atttypid::regtype IN ('date', 'timestamp', 'timestamptz')
                                THEN 'to_json(t.%I) #>> ''{{}}''' ELSE 't.%I::text' END, k), ', ' ORDER BY n)
                  FROM unnest(key) WITH ORDINALITY u(k, n)
                  JOIN pg_attribute a ON a.attrelid = f.relid AND a.attname = k) AS texts
          FROM crossfade.copy_files(number) f
         CROSS JOIN LATERAL (SELECT seen #> ARRAY['files', f.relid::text]) s(before)
         WHERE f.inserted > coalesce((s.before ->> 0)::int8, 0)
    LOOP
        found_count := 0;
        IF file.added_count <= {KEYS_MAX} THEN
            FOREACH guess IN ARRAY ARRAY[
                format('t.%I > %L', key[1], seen ->> 'top'), format('t.ctid >= ''(%s,0)''', file.page)]
            LOOP
                CONTINUE WHEN found_count > 0;
                EXECUTE format('WITH found AS MATERIALIZED (SELECT ARRAY[%s] AS key FROM %s AS t
                        WHERE %s AND t.xmin = $1 AND t.cmin::text::int8 > $2)
                    INSERT INTO crossfade.ledger (tbl, key) SELECT $3, f.key FROM found f
                     WHERE (SELECT count(*) FROM found) = $4', file.texts, file.name, guess)
                    USING (seen ->> 'stamp')::xid, (seen ->> 'command')::int8, number, file.added_count;
                GET DIAGNOSTICS found_count = ROW_COUNT;
            END LOOP;
            CONTINUE WHEN found_count > 0;
        ELSIF file.page > file.pages / 2 THEN
            EXECUTE format('SELECT count(*) FROM %s AS t
                WHERE t.ctid >= ''(%s,0)'' AND t.xmin = $1 AND t.cmin::text::int8 > $2', file.name, file.page)
                INTO found_count USING (seen ->> 'stamp')::xid, (seen ->> 'command')::int8;
        END IF;
        INSERT INTO crossfade.ledger (tbl, kind, key) VALUES (number, '{STAMP}', ARRAY[
            seen ->> 'stamp', file.relid::text,
            CASE WHEN found_count = file.added_count THEN file.page ELSE 0 END::text,
            pg_relation_filenode(file.relid)::text]);
    END LOOP;
    -- Anybody may have written these settings: what is visible and in progress is our own.
    DELETE FROM crossfade.ledger l WHERE l.ctid = (seen ->> 'place')::tid AND l.kind = '{STAMP}'
        AND pg_xact_status(((pg_current_xact_id()::text::int8 >> 32 << 32)
                            + l.xmin::text::int8)::text::xid8) = 'in progress';
END $$;
"""
