"""psql through the proxy: what people and deployment scripts do by hand."""

# ruff: noqa: E501 (the script of another language)

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from proxy.demo.clusters import Cluster, binaries
from tests.integration.through import KEYS, SCHEMA, Crossing, crossing

SCRIPT = r"""
\set ON_ERROR_STOP 1
\pset format unaligned
\pset tuples_only on
SELECT current_user, version() LIKE 'PostgreSQL 16%';
\d account
\dt
INSERT INTO account (email, tags) VALUES ('a@x', '{one,"two three"}'), ('b@x', NULL) RETURNING id, email, id;
INSERT INTO account (email) VALUES ('a@x') ON CONFLICT (email) DO UPDATE SET name = 'again' RETURNING name, id, name;
INSERT INTO entry VALUES (2, 9, 1) RETURNING *, account;
BEGIN;
UPDATE account SET balance = balance + 10 WHERE email = 'a@x';
SAVEPOINT before;
DELETE FROM entry;
ROLLBACK TO before;
COMMIT;
\copy entry FROM STDIN
1	1	10.5	first
1	2	-3	\N
\.
COPY entry (account, number, amount) FROM STDIN (FORMAT csv);
2,1,7
\.
\copy (SELECT * FROM entry ORDER BY 1, 2) TO STDOUT
SELECT max(number) AS number FROM entry \gset last_
SELECT :last_number;
\set FETCH_COUNT 2
SELECT email, balance FROM account ORDER BY id;
UPDATE entry SET note = 'fetched' RETURNING account, number, note;
\unset FETCH_COUNT
PREPARE by_mail (text) AS UPDATE account SET name = $1 WHERE email = $1 RETURNING name;
EXECUTE by_mail ('b@x');
DEALLOCATE by_mail;
SELECT 'Asia/Tokyo' AS zone \gset
SET TimeZone = :'zone';
SHOW TimeZone;
SELECT $1 + 1, $2 \bind 41 bound \g
INSERT INTO account (email, name) VALUES ($1, $2) RETURNING name \bind c@x bound \g
SELECT 1 AS one \; SELECT 2 AS two;
UPDATE account SET name = 'several' WHERE email = 'c@x' \; SELECT name FROM account WHERE email = 'c@x';
TRUNCATE blob;
INSERT INTO blob SELECT gen_random_uuid(), decode(repeat('ab', 5), 'hex') FROM generate_series(1, 20);
SELECT count(*), sum(size) FROM blob;
DO $$ BEGIN UPDATE account SET balance = balance * 2; END $$;
EXPLAIN (COSTS off) DELETE FROM entry;
"""


class Psql:
    """Run psql on one URL, without any of the user's settings."""

    def __init__(self, url: str, version: int = 16) -> None:
        self.command = [str(binaries(version) / "psql"), "-X", url]
        self.environment = {**os.environ, "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C.UTF-8"}

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Return what a script printed."""
        return subprocess.run(
            [*self.command, *arguments], input=script, capture_output=True, text=True, check=False,
            timeout=60, env=self.environment,
        )  # fmt: skip


async def test_script_prints_the_same_as_without_the_proxy(
    through: Crossing, pg16: Cluster, make_database: Callable[..., str]
) -> None:
    direct = Psql(make_database(pg16, SCHEMA)).run(SCRIPT)
    assert (direct.returncode, direct.stderr) == (0, "")
    proxied = Psql(through.url).run(SCRIPT)
    assert (proxied.returncode, proxied.stderr) == (0, "")
    assert proxied.stdout == direct.stdout
    await through.assert_equal()


async def test_errors_point_into_the_text_as_typed(through: Crossing) -> None:
    lines = (
        "INSERT INTO account (email) VALUES ('x@x') RETURNING nope;",
        "UPDATE account SET nope = 1;",
        "  /* ü */ DELETE FROM account WHERE nope = 1;",
        "INSERT INTO account (email) VALUES ('kept');",
    )
    printed = Psql(through.url).run("\n".join(lines)).stderr.splitlines()
    quoted = [line for line in printed if line.startswith("LINE 1: ")]
    pointers = [line.index("^") for line in printed if line.strip() == "^"]
    assert [line[at : at + 4] for line, at in zip(quoted, pointers, strict=True)] == ["nope"] * 3
    await through.assert_equal()


async def test_interrupt_cancels_the_statement_alone(through: Crossing) -> None:
    psql = Psql(through.url)
    process = subprocess.Popen(
        psql.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=psql.environment,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("INSERT INTO account (email) VALUES ('i@x');\nSELECT pg_sleep(60);\n")
    process.stdin.flush()
    assert await asyncio.to_thread(process.stdout.readline) == "INSERT 0 1\n"
    await through.running.wait_for(lambda told: told["clients"]["active"] == 1)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    assert errors == "Cancel request sent\nERROR:  canceling statement due to user request\n"
    assert psql.run("SELECT pg_sleep(0.1), 'alive';").stdout.count("alive") == 1
    await through.assert_equal()


PIPELINE = r"""
\set ON_ERROR_STOP 1
INSERT INTO account (email) VALUES ($1) RETURNING email \parse insert
\startpipeline
\bind_named insert a@x \sendpipeline
\bind_named insert b@x \sendpipeline
SELECT count(*) FROM account \bind \sendpipeline
\syncpipeline
UPDATE account SET name = $1 WHERE email = $2 \bind piped a@x \sendpipeline
SELECT name FROM account WHERE email = 'a@x' \bind \sendpipeline
\endpipeline
\close_prepared insert
"""


async def test_pipeline(through: Crossing) -> None:
    done = Psql(through.url, 18).run(PIPELINE, "-Atq")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["a@x", "b@x", "2", "piped"]
    await through.assert_equal()


async def test_notifications_and_connecting_again(through: Crossing) -> None:
    script = r"""
LISTEN news;
INSERT INTO account (email) VALUES ('n@x');
NOTIFY news, 'hello';
\c
SELECT count(*) FROM pg_listening_channels();
SELECT email FROM account;
"""
    done = Psql(through.url).run(script, "-Atq")
    assert 'Asynchronous notification "news" with payload "hello" received' in done.stdout
    assert done.stdout.split()[-2:] == ["0", "n@x"]
    assert (done.returncode, done.stderr) == (0, "")
    await through.assert_equal()


# Everything that a dump is made of, in an order of its own.
WHOLE = r"""
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA sales;
CREATE FUNCTION sales.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := '2024-01-01'; RETURN NEW; END $$;
CREATE TABLE sales.orders (id bigserial PRIMARY KEY, mood mood DEFAULT 'ok', n positive, at timestamptz, body jsonb, tags text[]);
CREATE TABLE sales.line (orders bigint REFERENCES sales.orders ON DELETE CASCADE, number int, price numeric(10, 2), PRIMARY KEY (orders, number));
CREATE INDEX ON sales.orders USING gin (tags);
CREATE VIEW sales.totals AS SELECT orders, sum(price) AS total FROM sales.line GROUP BY orders;
CREATE MATERIALIZED VIEW sales.kept AS SELECT * FROM sales.totals;
CREATE TRIGGER touch BEFORE UPDATE ON sales.orders FOR EACH ROW EXECUTE FUNCTION sales.touch();
CREATE SEQUENCE sales.counter START 5;
COMMENT ON TABLE sales.orders IS 'what was ordered; by whom is a secret';
CREATE TABLE sales.part (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE sales.part_a PARTITION OF sales.part FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO sales.orders (n, body, tags) SELECT n, '{"a": 1}', ARRAY['x', E'\\,\t'] FROM generate_series(1, 500) n;
INSERT INTO sales.line SELECT id, i, id + i FROM sales.orders, generate_series(1, 3) i;
INSERT INTO sales.part SELECT n, '2024-03-01'::date + n FROM generate_series(1, 50) n;
REFRESH MATERIALIZED VIEW sales.kept;
SELECT nextval('sales.counter');
"""
_OWN_TO_A_DUMP = ("\\restrict", "\\unrestrict", "-- Dumped from")


def dumped(url: str, *arguments: str, version: int = 16) -> str:
    """Return what pg_dump writes, but for the token that it makes up and the server's version."""
    done = subprocess.run(
        [str(binaries(version) / "pg_dump"), "--exclude-schema=crossfade", *arguments, url],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    lines = done.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_OWN_TO_A_DUMP))


async def test_whole_database_is_restored_through_the_proxy_and_mirrored(
    pg16: Cluster, pg18: Cluster, make_database: Callable[..., str], tmp_path: Path
) -> None:
    """Its schema goes to the mirror as DDL (`mirror.ddl`), its rows through the ledger."""
    source = make_database(pg16, SCHEMA)
    for script in (SCRIPT, WHOLE):
        filled = Psql(source).run(script, "-v", "ON_ERROR_STOP=1")
        assert (filled.returncode, filled.stderr) == (0, "")
    whole = dumped(source)
    changes = {"tables": {"include": ["public.*", "sales.*"]}}
    with crossing(tmp_path, (pg16, pg18), make_database, "", changes) as through:
        restored = Psql(through.url).run(whole, "-v", "ON_ERROR_STOP=1")
        assert (restored.returncode, restored.stderr) == (0, "")
        assert dumped(through.side_url(0)) == whole
        assert dumped(through.url) == whole
        keys = {"sales.orders": "id", "sales.line": "orders, number", "sales.part": "id", **KEYS}
        await through.assert_equal(keys)
        old, new = (dumped(through.side_url(side), "--schema-only", version=18) for side in (0, 1))
        assert new == old


async def test_dump_through_the_proxy_is_restored_through_it(through: Crossing, pg16: Cluster) -> None:
    assert Psql(through.url).run(SCRIPT).returncode == 0
    direct = through.running.database["old"]["primary"]
    assert dumped(through.url) == dumped(direct)
    rows = dumped(through.url, "--data-only")
    through.empty()
    restored = Psql(through.url).run(rows, "-v", "ON_ERROR_STOP=1")
    assert (restored.returncode, restored.stderr) == (0, "")
    assert dumped(direct, "--data-only") == rows
    await through.assert_equal()
