"""The queries of the reader. All expect search_path = pg_catalog."""

from __future__ import annotations

# Temporary relations and TOAST tables are nobody's business.
CLASSES = """
SELECT c.oid::int8, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid::int8 END AS root,
       c.relrowsecurity AS has_row_security, c.relhassubclass AS has_children,
       NOT c.relispartition AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS is_heir,
       c.relhastriggers AND EXISTS (
           SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
             JOIN pg_namespace f ON f.oid = p.pronamespace
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
              AND f.nspname <> 'crossfade') AS has_user_triggers,
       c.relhasrules AND EXISTS (
           SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') AS has_rules
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_toast', 'crossfade')
"""

# A binary value may go to another cluster when no OID is in it: built-in types other than
# the reg* family and their arrays and domains, and enums, which travel as labels (but an
# array of them carries its element type's OID). Types of extensions go as text, since
# two versions of an extension may differ. 16384 is FirstNormalObjectId.
COLUMNS = """
WITH RECURSIVE inner_type AS (
    SELECT t.oid AS outer_oid, t.oid, false AS is_array FROM pg_type t
     WHERE t.oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid = ANY($1::oid[]) AND attnum > 0)
    UNION ALL
    SELECT i.outer_oid, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END,
           i.is_array OR t.typtype <> 'd'
      FROM inner_type i JOIN pg_type t ON t.oid = i.oid
     WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0)
), portable AS (
    SELECT i.outer_oid,
           bool_and(t.typreceive <> 0 AND t.typname NOT LIKE 'reg%'
                    AND (t.oid < 16384 OR t.typtype = 'd' OR (t.typtype = 'e' AND NOT i.is_array)
                         OR (t.typcategory = 'A' AND t.typelem <> 0))) AS is_portable
      FROM inner_type i JOIN pg_type t ON t.oid = i.oid GROUP BY 1
)
SELECT a.attrelid::int8 AS oid, a.attname AS name, a.attnum::int4,
       format_type(a.atttypid, a.atttypmod) AS type,
       a.attgenerated <> '' AS is_generated, a.attidentity::text AS identity, a.attnotnull AS is_not_null,
       p.is_portable
  FROM pg_attribute a JOIN portable p ON p.outer_oid = a.atttypid
 WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum
"""

# pg_get_indexdef fails for a table that was dropped since the snapshot: it is asked for expressions alone.
# indnullsnotdistinct exists from PostgreSQL 15 on; to_jsonb asks for it on any version.
UNIQUE_INDEXES = """
SELECT i.indrelid::int8 AS oid, c.relname AS name, i.indisprimary AS is_primary,
       i.indimmediate AS is_immediate,
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS are_nulls_equal,
       (i.indkey::int2[])[0:i.indnkeyatts - 1] AS attnums, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       ARRAY(SELECT coalesce(quote_ident(a.attname), pg_get_indexdef(i.indexrelid, k, false))
               FROM generate_series(1, i.indnkeyatts) k LEFT JOIN pg_attribute a
                 ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1] AND a.attnum <> 0
              ORDER BY k) AS expressions
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indisunique AND i.indisvalid AND i.indrelid = ANY($1::oid[])
 ORDER BY i.indrelid, NOT i.indisprimary, c.relname
"""

FOREIGN_KEYS = """
SELECT o.conname AS name, o.conrelid::int8 AS table, o.confrelid::int8 AS referenced,
       o.confdeltype::text AS on_delete, o.confupdtype::text AS on_update, o.condeferrable AS is_deferrable,
       ARRAY(SELECT a.attname FROM unnest(o.conkey) WITH ORDINALITY k(attnum, n)
               JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.attnum ORDER BY k.n)
           AS columns,
       ARRAY(SELECT a.attname FROM unnest(o.confkey) WITH ORDINALITY k(attnum, n)
               JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.attnum ORDER BY k.n)
           AS referenced_columns
  FROM pg_constraint o WHERE o.contype = 'f' AND o.conparentid = 0
 ORDER BY o.conrelid, o.conname
"""

# COMMIT and ROLLBACK, or another procedure that does; not in SQL, which cannot.
COMMITTING = """
SELECT n.nspname AS schema, p.proname AS name FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prokind = 'p' AND l.lanname <> 'sql'
   AND (l.lanname = 'c' OR p.prosrc ~* '\\m(commit|rollback|call)\\M')
"""

# Few tables have such grants, and only of these every role is asked about. Mind that a role may
# write by one membership and read by another. $2 are the key's columns by oid, as JSON.
BLIND_ROLES = """
SELECT c.oid::int8, r.rolname AS role FROM pg_class c CROSS JOIN pg_roles r
 WHERE c.oid = ANY($1::oid[]) AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%'
   AND (EXISTS (SELECT FROM pg_roles w WHERE w.rolname = 'pg_write_all_data'
                   AND pg_has_role(r.oid, w.oid, 'USAGE'))
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
        OR EXISTS (SELECT FROM aclexplode(c.relacl) g GROUP BY g.grantee
                   HAVING bool_or(g.privilege_type IN ('INSERT', 'UPDATE', 'DELETE'))
                      AND NOT bool_or(g.privilege_type = 'SELECT')))
   AND (has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE')
        OR has_table_privilege(r.oid, c.oid, 'DELETE'))
   AND EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND $2::jsonb -> c.oid::text ? a.attname
                  AND NOT has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT'))
"""

# Procedures count as volatile whatever they say; an aggregate is what its functions are.
# $1 holds the functions that are volatile in truth (`hidden`).
FUNCTIONS = """
SELECT n.nspname AS schema, p.proname AS name, bool_or(
           p.provolatile = 'v' OR p.prokind = 'p' OR coalesce(t.provolatile = 'v', false)
           OR p.oid = ANY($1::oid[])) AS is_volatile,
       bool_and(l.lanname IN ('internal', 'c') AND p.oid <> ALL($1::oid[])) AS is_native
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
  LEFT JOIN pg_aggregate g ON g.aggfnoid = p.oid LEFT JOIN pg_proc t ON t.oid = g.aggtransfn
 GROUP BY 1, 2
"""

# What `hidden` and `traces` read. 16384 is FirstNormalObjectId: what PostgreSQL brings along hides nothing,
# but for the functions named by $1. prosqlbody exists from PostgreSQL 14 on; to_jsonb asks for it on any
# version. What writing to a relation runs comes in parts, one for each trigger, default, check and so on.
DEFINITIONS = """
WITH reached (rule, names) AS (
    SELECT r.oid, (SELECT string_agg(c.relname, ' ')
                     FROM regexp_matches(r.ev_action::text, ':relid (\\d+)', 'g') m
                     JOIN pg_class c ON c.oid = m[1]::oid)
      FROM pg_rewrite r WHERE r.ev_class >= 16384
), definition (sort, oid, name, is_volatile, source, tree, language, extension, is_declared_volatile) AS (
    SELECT 'f', p.oid, p.proname,
           (p.provolatile = 'v' OR p.prokind = 'p') AND l.lanname NOT IN ('internal', 'c')
             AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype),
           CASE WHEN l.lanname NOT IN ('internal', 'c') THEN concat_ws(' ', p.prosrc,
             pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) END,
           concat_ws(' ', to_jsonb(p) ->> 'prosqlbody', p.proargdefaults::text,
             ':funcid ' || g.aggtransfn::oid, ':funcid ' || g.aggfinalfn::oid),
           l.lanname, e.extname, p.provolatile = 'v'
      FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang LEFT JOIN pg_aggregate g ON g.aggfnoid = p.oid
      LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      LEFT JOIN pg_extension e ON e.oid = d.refobjid
     WHERE (p.oid >= 16384 AND p.pronamespace <> coalesce(to_regnamespace('crossfade'), 0))
        OR (p.oid < 16384 AND p.proname = ANY($1::text[]))
    UNION ALL
    SELECT sort, oid, name, false, source, tree, '', '', false FROM (
        SELECT 'o', oid, oprname, NULL, ':funcid ' || oprcode::oid FROM pg_operator WHERE oid >= 16384
        UNION ALL
        SELECT CASE castcontext WHEN 'i' THEN 'i' ELSE 't' END, c.oid, t.typname, NULL, ':funcid ' || castfunc
          FROM pg_cast c JOIN pg_type t ON t.oid = c.casttarget WHERE c.oid >= 16384
        UNION ALL
        SELECT 't', t.oid, t.typname, format_type(t.typbasetype, NULL), k.conbin::text
          FROM pg_type t LEFT JOIN pg_constraint k ON k.contypid = t.oid
         WHERE t.typtype = 'd' AND t.oid >= 16384
        UNION ALL
        SELECT 'r', c.oid, c.relname, NULL, concat_ws(' ', o.polqual, o.polwithcheck)
          FROM pg_policy o JOIN pg_class c ON c.oid = o.polrelid
        UNION ALL
        SELECT kind, c.oid, c.relname, w.names, r.ev_action::text
          FROM pg_rewrite r JOIN reached w ON w.rule = r.oid JOIN pg_class c ON c.oid = r.ev_class,
               unnest(ARRAY['r', 'w']) kind
         WHERE r.rulename = '_RETURN' OR kind = 'w'
        UNION ALL
        SELECT 'w', c.oid, c.relname, NULL, concat_ws(' ', ':funcid ' || t.tgfoid, t.tgqual)
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
        UNION ALL
        SELECT 'e', oid, evtname, NULL, ':funcid ' || evtfoid FROM pg_event_trigger WHERE evtenabled <> 'D'
        UNION ALL
        SELECT 'w', c.oid, c.relname, NULL, f.adbin::text
          FROM pg_attrdef f JOIN pg_class c ON c.oid = f.adrelid WHERE c.oid >= 16384
        UNION ALL
        SELECT 'w', c.oid, c.relname, NULL, o.conbin::text
          FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid WHERE o.contype = 'c' AND c.oid >= 16384
        UNION ALL
        SELECT 'w', c.oid, c.relname, NULL, concat_ws(' ', i.indexprs, i.indpred)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE c.oid >= 16384 AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
        UNION ALL
        SELECT 'w', c.oid, c.relname, t.typname, NULL
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
         WHERE t.typtype = 'd' AND t.oid >= 16384 AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT 'w', c.oid, c.relname, acting.relname, NULL
          FROM pg_constraint o JOIN pg_class c ON c.oid = o.confrelid
          JOIN pg_class acting ON acting.oid = o.conrelid
         WHERE o.contype = 'f' AND (o.confdeltype IN ('c', 'n', 'd') OR o.confupdtype IN ('c', 'n', 'd'))
        UNION ALL
        SELECT 'w', c.oid, c.relname, heir.relname, NULL
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
          JOIN pg_class heir ON heir.oid = i.inhrelid
    ) other (sort, oid, name, source, tree)
)
SELECT sort, oid::int8, name, is_volatile, coalesce(source, '') AS source, language,
       coalesce(extension, '') AS extension, is_declared_volatile,
       ARRAY(SELECT DISTINCT m[1]::int8
               FROM regexp_matches(tree, ':(?:(?:op)?funcid|aggfnoid|winfnoid) (\\d+)', 'g') m
              WHERE m[1]::int8 >= 16384
                 OR m[1]::oid IN (SELECT p.oid FROM pg_proc p WHERE p.proname = ANY($1))) AS uses
  FROM definition
"""

VIEWS = """
SELECT r.ev_class::int8 AS oid,
       ARRAY(SELECT DISTINCT m[1]::int8
               FROM regexp_matches(r.ev_action::text, ':relid (\\d+)', 'g') m) AS relations,
       EXISTS (SELECT FROM regexp_matches(r.ev_action::text, ':(?:op)?funcid (\\d+)', 'g') m
                 JOIN pg_proc p ON p.oid = m[1]::oid WHERE p.provolatile = 'v') AS is_volatile
  FROM pg_rewrite r WHERE r.rulename = '_RETURN'
"""

# Owned by a column ('a' for serial, 'i' for identity), or drawn from by a column's default.
SEQUENCES = """
SELECT DISTINCT ON (c.oid) n.nspname AS schema, c.relname AS name, u.tbl::int8 AS table, a.attname AS column
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN (
    SELECT objid AS sequence, refobjid AS tbl, refobjsubid AS attnum, 1 AS rank FROM pg_depend
     WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
    UNION ALL
    SELECT d.refobjid, f.adrelid, f.adnum, 2 FROM pg_depend d
      JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
     WHERE d.refclassid = 'pg_class'::regclass
  ) u ON u.sequence = c.oid
  LEFT JOIN pg_attribute a ON a.attrelid = u.tbl AND a.attnum = u.attnum
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'crossfade'
 ORDER BY c.oid, u.rank
"""

# Type OIDs, not names: those are the same text whatever the search path.
_COLUMNS_TEXT = """(
           SELECT string_agg(format('%s %s(%s)%s', a.attname, a.atttypid, a.atttypmod, a.attgenerated), ', '
                             ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"""

FINGERPRINTS = f"""
SELECT c.oid::int8, coalesce({_COLUMNS_TEXT}, '') AS fingerprint FROM pg_class c WHERE c.oid = ANY($1::oid[])
"""

# A rewrite that committed after the snapshot was taken leaves the table empty for it
# (ALTER TABLE, "Notes": not MVCC-safe), and so does TRUNCATE. pg_relation_filenode looks
# at the present, pg_class.relfilenode is as of the snapshot.
STEADINESS = f"""
SELECT c.oid::int8, coalesce({_COLUMNS_TEXT}, '') AS fingerprint, CASE WHEN c.relkind = 'p' THEN (
           SELECT coalesce(bool_or(p.relfilenode IS DISTINCT FROM pg_relation_filenode(p.oid)), false)
             FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid AND p.relkind = 'r')
       ELSE c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) END AS is_rewritten
  FROM pg_class c WHERE c.oid = ANY($1::oid[])
"""
