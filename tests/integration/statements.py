"""Samples of every kind of statement PostgreSQL knows, for the tests of classification.

Whether a sample reads or writes is not said here: PostgreSQL says it. A sample need not succeed,
but it must reach the point where PostgreSQL would refuse it for writing: for utility statements that
is before any name is looked up.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

from collections.abc import Iterator

from pglast import ast
from pglast.parser import parse_sql

SCHEMA = """
CREATE TABLE t (id serial PRIMARY KEY, a int, b text);
INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y');
CREATE TABLE kept (LIKE t INCLUDING ALL);
CREATE TABLE parted (id int, r text) PARTITION BY LIST (r);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE guarded (id int PRIMARY KEY); INSERT INTO guarded VALUES (1);
CREATE MATERIALIZED VIEW kept_view AS SELECT count(*) FROM t;
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (x int, y int); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE VIEW quiet AS SELECT id, a FROM t;
CREATE VIEW drawing AS SELECT nextval('t_id_seq') AS n, id FROM t;
CREATE VIEW over_drawing AS SELECT * FROM drawing;
CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9) RETURNING id';
CREATE FUNCTION writes_many() RETURNS SETOF t LANGUAGE sql AS 'UPDATE t SET a = 9 RETURNING *';
CREATE FUNCTION writes_in_plpgsql() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM t WHERE id = -1; RETURN 1; END';
CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
CREATE FUNCTION hides() RETURNS int LANGUAGE sql STABLE AS 'SELECT writes()';
CREATE FUNCTION hides_in_plpgsql() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN hides(); END';
CREATE FUNCTION hides_by_name() RETURNS int LANGUAGE plpgsql STABLE AS $$DECLARE n int; BEGIN EXECUTE 'SELECT wri' || 'tes()' INTO n; RETURN n; END$$;
CREATE FUNCTION hides_in_a_body() RETURNS int LANGUAGE sql STABLE BEGIN ATOMIC SELECT writes(); END;
CREATE FUNCTION hides_in_a_default(n int DEFAULT writes()) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n';
CREATE FUNCTION lies() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT writes()';
CREATE FUNCTION overloaded(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION overloaded(text) RETURNS int LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9) RETURNING id';
CREATE FUNCTION adds(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO t (a) VALUES ($1 + $2) RETURNING id';
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = adds);
CREATE AGGREGATE summing(int) (SFUNC = adds, STYPE = int, INITCOND = '0');
CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql AS 'SELECT writes(), 1';
CREATE CAST (int AS pair) WITH FUNCTION to_pair(int);
CREATE FUNCTION admits(int) RETURNS bool LANGUAGE sql AS 'SELECT writes() > 0';
CREATE DOMAIN admitted AS int CHECK (admits(VALUE));
CREATE FUNCTION adds_unseen(int, int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 ### $2';
CREATE AGGREGATE summing_unseen(int) (SFUNC = adds_unseen, STYPE = int, INITCOND = '0');
CREATE FUNCTION takes_admitted(admitted) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE PROCEDURE proceeds() LANGUAGE sql AS 'INSERT INTO t (a) VALUES (9)';
CREATE SCHEMA s; CREATE FUNCTION s.writes() RETURNS int LANGUAGE sql AS 'DELETE FROM public.t RETURNING id';
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY admits ON guarded USING (admits(id)); CREATE VIEW over_guarded WITH (security_invoker = true) AS SELECT * FROM guarded;
GRANT ALL ON ALL TABLES IN SCHEMA public TO guest_of_statements; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest_of_statements;
"""

# Queries, which may be nested in one another and in other statements.
QUERIES = """
SELECT
SELECT 1
SELECT * FROM t WHERE id = 1 AND b = 'x' ORDER BY a LIMIT 5
SELECT count(*), max(a), string_agg(b, ',' ORDER BY b) FROM t GROUP BY a HAVING count(*) > 0
SELECT now(), current_date, lower(b), coalesce(a, 0), extract(year FROM now()) FROM t
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT * FROM n, quiet
SELECT row_number() OVER w FROM t WINDOW w AS (PARTITION BY a ORDER BY id)
SELECT reads(), overloaded.n FROM (SELECT 1 AS n) overloaded
SELECT * FROM t, LATERAL generate_series(1, a) g, unnest(ARRAY[1, 2]) u
SELECT jsonb_build_object('a', a)->>'a', to_char(now(), 'YYYY'), b ILIKE '%x%' FROM t
SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY['a'])) WITH ORDINALITY q
SELECT * FROM t TABLESAMPLE system (10) REPEATABLE (1)
SELECT * FROM t a LEFT JOIN kept b USING (id) NATURAL JOIN quiet
SELECT DISTINCT ON (a) * FROM t ORDER BY a, id FETCH FIRST 1 ROW WITH TIES
SELECT a, b, grouping(a) FROM t GROUP BY GROUPING SETS ((a), (b), ()) ORDER BY 1 NULLS FIRST
SELECT CASE a WHEN 1 THEN b ELSE NULL END, (a, b) = (1, 'x'), ROW(a, b), ARRAY(SELECT id FROM t), EXISTS (SELECT) FROM t
SELECT a::text, CAST(b AS varchar(5)), b COLLATE "C", a BETWEEN 1 AND 2, a IN (1, 2), b SIMILAR TO 'x', a IS DISTINCT FROM 1 FROM t
SELECT xmlelement(name x, 1), xmlforest(a) FROM t
SELECT current_user, session_user, current_schema, current_catalog, localtime
SELECT position('a' IN b), substring(b FROM 1 FOR 2), trim(BOTH ' ' FROM b), overlay(b PLACING 'z' FROM 1) FROM t
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FILTER (WHERE a > 0) FROM t
SELECT t, t.*, (ROW(1, 2)::pair).x FROM t
SELECT id FROM t EXCEPT SELECT a FROM quiet
(SELECT 1 UNION SELECT 2) INTERSECT ALL SELECT 1
TABLE quiet
TABLE parted
TABLE kept_view
VALUES (1), (2)
VALUES (1, 'a') ORDER BY 1 LIMIT 1
SELECT * FROM pg_class, pg_stat_activity, information_schema.tables LIMIT 1
SELECT pg_relation_size('t'), pg_get_viewdef('quiet'), has_table_privilege('t', 'SELECT'), obj_description(1, 'pg_class')
SELECT pg_try_advisory_lock_shared(7), pg_advisory_unlock_shared(7)
SELECT pg_advisory_xact_lock(7)
SELECT set_config('application_name', 'x', true)
SELECT set_config('application_name', b, false) FROM t
SELECT current_setting('search_path'), pg_backend_pid()
SELECT random(), clock_timestamp(), gen_random_uuid(), timeofday()
SELECT pg_sleep(0)
SELECT pg_export_snapshot()
SELECT * FROM t FOR UPDATE
SELECT * FROM t FOR NO KEY UPDATE
SELECT * FROM t FOR SHARE NOWAIT
SELECT * FROM t FOR KEY SHARE OF t SKIP LOCKED
SELECT * FROM (SELECT * FROM t FOR UPDATE) q
SELECT (SELECT id FROM t LIMIT 1 FOR UPDATE)
WITH q AS MATERIALIZED (SELECT * FROM t FOR UPDATE) SELECT * FROM q
SELECT nextval('t_id_seq')
SELECT setval('t_id_seq', 5)
SELECT lastval(), currval('t_id_seq')
SELECT * FROM t_id_seq
SELECT * FROM t WHERE id = nextval('t_id_seq')
SELECT * FROM t ORDER BY (SELECT nextval('t_id_seq'))
SELECT * FROM t LIMIT nextval('t_id_seq')
SELECT * FROM t JOIN kept ON kept.id = nextval('t_id_seq')
SELECT sum(a) OVER (ORDER BY nextval('t_id_seq')) FROM t
SELECT count(*) FILTER (WHERE nextval('t_id_seq') > 0) FROM t
SELECT max(pg_catalog.nextval('public.t_id_seq'::regclass)) FROM t
VALUES (nextval('t_id_seq'))
SELECT * FROM drawing
SELECT * FROM over_drawing o JOIN t ON true
TABLE over_drawing
WITH drawing AS (SELECT * FROM drawing) SELECT * FROM drawing
SELECT writes()
SELECT "writes"()
SELECT public.writes()
SELECT s.writes()
SELECT * FROM writes()
SELECT * FROM writes_many() WHERE false
SELECT (writes_many()).a
SELECT writes_in_plpgsql()
SELECT overloaded('x'::text)
SELECT CASE WHEN true THEN writes() END
SELECT * FROM ROWS FROM (writes(), generate_series(1, 1)) q
SELECT * FROM t TABLESAMPLE bernoulli ((SELECT writes()))
SELECT summing(a) FROM t
SELECT summing(a) OVER () FROM t
SELECT 1 ### 2
SELECT 1 OPERATOR(public.###) 2
SELECT 1::pair
SELECT CAST(a AS pair) FROM t
SELECT 1::admitted
SELECT hides()
SELECT hides_in_plpgsql()
SELECT hides_by_name()
SELECT hides_in_a_body()
SELECT hides_in_a_default()
SELECT lies()
SELECT * FROM guarded
SELECT * FROM over_guarded
SELECT summing_unseen(a) FROM t
SELECT takes_admitted(1)
SELECT table_to_xml('drawing', true, true, '')
SELECT schema_to_xml('public', true, true, '')
SELECT * FROM t WHERE id = hides()
SELECT * FROM t WHERE id ### a > 0 ORDER BY a USING <
SELECT 5 ### ANY (SELECT 1)
SELECT query_to_xml('SELECT writes()', true, true, '')
SELECT ts_stat('SELECT NULL::tsvector FROM writes()')
SELECT * FROM ts_stat('SELECT NULL::tsvector FROM writes()')
SELECT lo_create(0)
SELECT lo_from_bytea(0, 'x')
SELECT lo_unlink(1)
SELECT lo_open(1, 262144)
SELECT pg_notify('channel', 'x')
SELECT pg_current_xact_id()
SELECT txid_current()
SELECT pg_current_xact_id_if_assigned()
SELECT pg_logical_emit_message(true, 'a', 'b')
SELECT pg_switch_wal()
WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone
WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b), c AS (UPDATE t SET a = 1 RETURNING id) SELECT * FROM a, c
WITH c AS (INSERT INTO t (a) VALUES (1)) SELECT 1
WITH m AS (MERGE INTO t USING (VALUES (1)) v(n) ON id = n WHEN MATCHED THEN DELETE) SELECT 1
SELECT FROM parted WHERE r = (SELECT b FROM t LIMIT 1)
""".strip().splitlines()  # fmt: skip

CHANGES = """
INSERT INTO t (a) VALUES (1)
INSERT INTO t DEFAULT VALUES RETURNING *
INSERT INTO t (a) SELECT a FROM kept WHERE false
INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET a = excluded.a
INSERT INTO t (id) VALUES (1) ON CONFLICT DO NOTHING
INSERT INTO parted VALUES (1, 'a')
UPDATE t SET a = 1
UPDATE t SET (a, b) = (SELECT 1, 'x') FROM kept WHERE false
UPDATE ONLY t SET a = DEFAULT WHERE false
DELETE FROM t
DELETE FROM t USING kept WHERE t.id = kept.id RETURNING t.*
WITH q AS (SELECT 1) DELETE FROM t WHERE id IN (TABLE q)
MERGE INTO t USING (VALUES (1)) v(n) ON t.id = v.n WHEN MATCHED THEN DELETE
MERGE INTO t USING kept ON t.id = kept.id WHEN NOT MATCHED THEN INSERT (a) VALUES (1) WHEN MATCHED THEN DO NOTHING
""".strip().splitlines()

# Everything else, one kind after the other, in the order of the grammar's names.
UTILITIES = """
ALTER COLLATION "C" REFRESH VERSION
ALTER DATABASE postgres REFRESH COLLATION VERSION
ALTER DATABASE postgres SET work_mem = '8MB'
ALTER DATABASE postgres CONNECTION LIMIT 10
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC
ALTER DOMAIN positive DROP NOT NULL
ALTER TYPE mood ADD VALUE 'happy'
ALTER EVENT TRIGGER e DISABLE
ALTER EXTENSION plpgsql ADD TABLE t
ALTER EXTENSION plpgsql UPDATE
ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD a 'b')
ALTER SERVER far OPTIONS (ADD a 'b')
ALTER FUNCTION writes() COST 5
ALTER FUNCTION writes() DEPENDS ON EXTENSION plpgsql
ALTER TABLE t SET SCHEMA s
ALTER OPERATOR FAMILY f USING btree DROP OPERATOR 1 (int, int)
ALTER OPERATOR ### (int, int) SET (RESTRICT = NONE)
ALTER FUNCTION writes() OWNER TO CURRENT_USER
ALTER POLICY admits ON guarded TO PUBLIC
ALTER PUBLICATION p ADD TABLE t
ALTER ROLE guest_of_statements SET work_mem = '8MB'
ALTER ROLE guest_of_statements NOLOGIN
ALTER SEQUENCE t_id_seq RESTART
ALTER STATISTICS st SET STATISTICS 5
ALTER SUBSCRIPTION sub DISABLE
ALTER SYSTEM SET work_mem = '8MB'
ALTER TEXT SEARCH CONFIGURATION c DROP MAPPING FOR word
ALTER TEXT SEARCH DICTIONARY d (a = 'b')
ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_default
ALTER TABLESPACE pg_default SET (seq_page_cost = 1)
ALTER TABLE t ADD COLUMN c int
ALTER TABLE t REPLICA IDENTITY FULL
ALTER TABLE t RENAME TO u
ALTER INDEX t_pkey RENAME TO p
ALTER TYPE pair SET (RECEIVE = NONE)
ALTER TYPE pair ADD ATTRIBUTE z int
ALTER USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (ADD a 'b')
CALL proceeds()
CHECKPOINT
CLOSE ALL
CLOSE c
CLUSTER t
CLUSTER
COMMENT ON TABLE t IS 'x'
CREATE TYPE made AS (a int)
SET CONSTRAINTS ALL IMMEDIATE
SET CONSTRAINTS ALL DEFERRED
COPY t FROM STDIN
COPY t (a) FROM STDIN WITH (FORMAT csv)
COPY t FROM '/nowhere'
COPY t TO STDOUT
COPY (SELECT * FROM t) TO STDOUT
COPY (DELETE FROM t RETURNING *) TO STDOUT
COPY (SELECT writes()) TO STDOUT
COPY t TO PROGRAM 'cat >/dev/null'
CREATE ACCESS METHOD am TYPE INDEX HANDLER bthandler
CREATE CAST (int AS mood) WITHOUT FUNCTION
CREATE CONVERSION c FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1
CREATE DOMAIN made AS int
CREATE TYPE made AS ENUM ('a')
CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()
CREATE EXTENSION IF NOT EXISTS plpgsql
CREATE FOREIGN DATA WRAPPER w
CREATE SERVER far FOREIGN DATA WRAPPER w
CREATE FOREIGN TABLE far_table (a int) SERVER far
CREATE FUNCTION made() RETURNS int LANGUAGE sql RETURN 1
CREATE OR REPLACE FUNCTION reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 1::bigint'
CREATE PROCEDURE made() LANGUAGE sql AS 'SELECT 1'
CREATE OPERATOR CLASS c FOR TYPE int USING btree AS OPERATOR 1 <
CREATE OPERATOR FAMILY f USING btree
CREATE LANGUAGE plother HANDLER plpgsql_call_handler
CREATE POLICY p ON t
CREATE PUBLICATION p FOR ALL TABLES
CREATE TYPE made AS RANGE (SUBTYPE = int)
CREATE ROLE made
CREATE USER made
CREATE SCHEMA made
CREATE SCHEMA made CREATE TABLE inner_table (a int)
CREATE SEQUENCE made
CREATE TEMP SEQUENCE made
CREATE STATISTICS made ON a, b FROM t
CREATE TABLE made (a int)
CREATE TABLE made PARTITION OF parted DEFAULT
CREATE TEMP TABLE made (a int)
CREATE TEMP TABLE made (a int) ON COMMIT DROP
CREATE UNLOGGED TABLE made (a int)
CREATE SUBSCRIPTION sub CONNECTION '' PUBLICATION p WITH (connect = false)
CREATE TABLE made AS SELECT 1
CREATE TEMP TABLE made AS SELECT 1
CREATE MATERIALIZED VIEW made AS SELECT 1
CREATE TABLE made AS EXECUTE p
SELECT * INTO made FROM t
SELECT 1 AS a INTO TEMP made UNION SELECT 2
CREATE TABLESPACE made LOCATION '/nowhere'
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION f(internal))
CREATE TRIGGER tr AFTER INSERT ON t EXECUTE FUNCTION f()
CREATE USER MAPPING FOR CURRENT_USER SERVER far
CREATE DATABASE made
DEALLOCATE ALL
DEALLOCATE p
DECLARE c CURSOR FOR SELECT * FROM t
DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM t
DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE
DECLARE c CURSOR FOR SELECT writes()
CREATE AGGREGATE made(int) (SFUNC = int4pl, STYPE = int)
CREATE OPERATOR %%% (RIGHTARG = int, FUNCTION = int4um)
CREATE TYPE made
CREATE TEXT SEARCH DICTIONARY made (TEMPLATE = simple)
CREATE COLLATION made FROM "C"
DISCARD ALL
DISCARD PLANS
DISCARD SEQUENCES
DISCARD TEMP
DO 'BEGIN PERFORM 1; END'
DO 'BEGIN INSERT INTO t (a) VALUES (1); END'
DROP OWNED BY guest_of_statements
DROP ROLE made
DROP TABLE t
DROP INDEX t_pkey
DROP FUNCTION writes()
DROP VIEW quiet
DROP SCHEMA s CASCADE
DROP SUBSCRIPTION sub
DROP TABLESPACE made
DROP USER MAPPING FOR CURRENT_USER SERVER far
DROP DATABASE made
PREPARE p AS SELECT 1; EXECUTE p
PREPARE p AS INSERT INTO t (a) VALUES (1); EXECUTE p
EXPLAIN SELECT * FROM t
EXPLAIN UPDATE t SET a = 1
EXPLAIN (ANALYZE, COSTS off) SELECT * FROM t
EXPLAIN (ANALYZE off) DELETE FROM t
EXPLAIN (ANALYZE false, VERBOSE) SELECT writes()
EXPLAIN ANALYZE UPDATE t SET a = 1
EXPLAIN ANALYZE VERBOSE SELECT writes()
EXPLAIN (ANALYZE true) DELETE FROM t
EXPLAIN (ANALYZE 1) SELECT writes()
EXPLAIN (ANALYZE 0) SELECT writes()
EXPLAIN (ANALYZE 'on') SELECT writes()
EXPLAIN (ANALYZE off, ANALYZE on) SELECT writes()
EXPLAIN (ANALYZE on, ANALYZE off) SELECT writes()
EXPLAIN (analyze TRUE, "analyze" 'false') SELECT writes()
EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1
EXPLAIN CREATE TABLE made AS SELECT 1
EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT writes()
EXPLAIN DECLARE c CURSOR FOR SELECT 1
EXPLAIN ANALYZE REFRESH MATERIALIZED VIEW kept_view
FETCH 1 FROM c
MOVE ALL FROM c
DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c
DECLARE c CURSOR FOR SELECT writes(); FETCH 1 FROM c
GRANT guest_of_statements TO CURRENT_USER
REVOKE guest_of_statements FROM CURRENT_USER
GRANT SELECT ON t TO PUBLIC
REVOKE ALL ON SCHEMA s FROM PUBLIC
IMPORT FOREIGN SCHEMA x FROM SERVER far INTO public
CREATE INDEX ON t (a)
CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)
LISTEN channel
UNLISTEN channel
UNLISTEN *
LOAD 'plpgsql'
LOCK t
LOCK TABLE t IN ACCESS SHARE MODE
LOCK t IN ROW SHARE MODE
LOCK t IN EXCLUSIVE MODE
NOTIFY channel
NOTIFY channel, 'payload'
PREPARE q AS SELECT 1
PREPARE q AS DELETE FROM t
REASSIGN OWNED BY guest_of_statements TO CURRENT_USER
REFRESH MATERIALIZED VIEW kept_view
REINDEX TABLE t
REINDEX TABLE CONCURRENTLY t
CREATE RULE r AS ON INSERT TO t DO NOTHING
SECURITY LABEL ON TABLE t IS 'x'
BEGIN
START TRANSACTION READ ONLY
BEGIN READ WRITE
COMMIT
END
ROLLBACK
ABORT
COMMIT AND CHAIN
SAVEPOINT s
RELEASE s
ROLLBACK TO s
PREPARE TRANSACTION 'prepared'
COMMIT PREPARED 'x'
ROLLBACK PREPARED 'x'
TRUNCATE t
TRUNCATE ONLY t RESTART IDENTITY CASCADE
VACUUM t
VACUUM FULL
ANALYZE t
ANALYZE
SET work_mem = '8MB'
SET LOCAL work_mem = '8MB'
SET TIME ZONE 'UTC'
SET ROLE guest_of_statements
SET SESSION AUTHORIZATION DEFAULT
SET TRANSACTION READ WRITE
SET TRANSACTION READ WRITE; INSERT INTO t (a) VALUES (1)
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE
SET transaction_read_only = off
SET work_mem FROM CURRENT
SELECT set_config('transaction_read_only', 'off', true)
RESET work_mem
RESET ALL
RESET ROLE
SHOW work_mem
SHOW ALL
SHOW transaction_read_only
CREATE VIEW made AS SELECT 1
CREATE OR REPLACE TEMP VIEW made AS SELECT 1
CREATE RECURSIVE VIEW made (n) AS SELECT 1
SELECT 1; DELETE FROM t
SELECT 1; SELECT 2
""".strip().splitlines()

STATEMENTS = tuple(dict.fromkeys([*QUERIES, *CHANGES, *UTILITIES]))

# Node classes that no text of a client is: they wrap others, or belong to PL/pgSQL and to function bodies.
UNREACHABLE = {"RawStmt", "SetOperationStmt", "PLAssignStmt", "ReturnStmt"}

# One statement inside another; the outer one may change what the inner one is, or must not hide it.
NESTINGS = (
    "/* a comment */ {} -- and another",
    "SELECT 1; {}",
    "SELECT * FROM ({}) nested",
    "SELECT (SELECT count(*) FROM ({}) nested)",
    "SELECT 1 WHERE EXISTS ({}) IS NOT NULL",
    "SELECT ARRAY({})",
    "{} UNION ALL {}",
    "WITH nested AS ({}) SELECT 1",
    "WITH nested AS MATERIALIZED ({}) SELECT * FROM nested",
    "WITH t AS (SELECT 1 AS id), kept AS ({}) TABLE kept",
    "EXPLAIN {}",
    "EXPLAIN (ANALYZE, VERBOSE, FORMAT json) {}",
    "PREPARE nested AS {}; EXECUTE nested",
    "PREPARE nested AS {}",
    "DECLARE nested CURSOR FOR {}; FETCH ALL FROM nested",
    "COPY ({}) TO STDOUT",
    "CREATE TEMP TABLE nested AS {}",
    "INSERT INTO kept (id) {}",
    "DO $do$BEGIN EXECUTE $x${}$x$; END$do$",
    "SELECT query_to_xml($x${}$x$, true, true, '')",
)


def kinds(text: str) -> Iterator[str]:
    """Yield the node classes of a text that are kinds of statements."""
    stack = [raw.stmt for raw in parse_sql(text)]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(node)
        elif isinstance(node, ast.Node):
            name = type(node).__name__
            if name.endswith("Stmt"):
                yield name
            stack.extend(getattr(node, slot) for slot in type(node).__slots__)


def all_kinds() -> set[str]:
    """Return every kind of statement that the grammar has."""
    return {name for name in dir(ast) if name.endswith("Stmt")} - UNREACHABLE
