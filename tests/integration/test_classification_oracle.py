"""PostgreSQL as the judge of the classification, over every kind of statement it knows.

What it refuses in a READ ONLY transaction or on a replica (25006) must never be taken for a read,
alone or nested in something else. The other way round, what both accept and the proxy nevertheless
keeps on the authority is listed here, so that every change of that list is seen.

With CONFORMANCE set (`make conformance`) many more are nested twice.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import asyncpg
import psycopg
import pytest

from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config.model import Tables
from proxy.demo.clusters import Cluster
from proxy.server.judge import Judge
from proxy.sql.statement import Kind
from tests.integration.protocol import Raw, copy_fail, query
from tests.integration.statements import NESTINGS, QUERIES, SCHEMA, STATEMENTS, all_kinds, kinds
from tests.roles import ensure_roles
from tests.seeds import seeds

PATH = ("public",)
GUEST = "guest_of_statements"
_numbers = itertools.count(1)
READ_ONLY = "-c default_transaction_read_only=on -c statement_timeout=5s -c lock_timeout=1s"
TWICE_COUNT = 100_000 if os.environ.get("CONFORMANCE") else 1_000

# What says nothing of a session: of these every one that is kept should have a reason.
SESSION_FREE = (Kind.READ, Kind.COPY_OUT, Kind.UNKNOWN, Kind.WRITE, Kind.DDL, Kind.UTILITY)
KEPT = {
    "volatile by pg_proc, though PostgreSQL lets a replica run it": {
        "SELECT pg_try_advisory_lock_shared(7), pg_advisory_unlock_shared(7)",
        "SELECT pg_advisory_xact_lock(7)",
        "SELECT set_config('application_name', 'x', true)",
        "SELECT set_config('application_name', b, false) FROM t",
        "SELECT random(), clock_timestamp(), gen_random_uuid(), timeofday()",
        "SELECT pg_sleep(0)",
        "SELECT pg_export_snapshot()",
        "SELECT pg_relation_size('t'), pg_get_viewdef('quiet'), has_table_privilege('t', 'SELECT'),"
        " obj_description(1, 'pg_class')",
    },
    "a volatile function that this run never came to": {
        "SELECT * FROM t JOIN kept ON kept.id = nextval('t_id_seq')",
        "SELECT * FROM writes_many() WHERE false",
        "SELECT * FROM guarded",
        "SELECT * FROM over_guarded",
        "SELECT takes_admitted(1)",
        "SELECT t, t.*, (ROW(1, 2)::pair).x FROM t",
        "DECLARE c CURSOR FOR SELECT writes()",
    },
    "planning may run what is declared stable, so EXPLAIN is judged by its functions": {
        "EXPLAIN (ANALYZE false, VERBOSE) SELECT writes()",
        "EXPLAIN (ANALYZE 0) SELECT writes()",
        "EXPLAIN (ANALYZE on, ANALYZE off) SELECT writes()",
        "EXPLAIN (analyze TRUE, \"analyze\" 'false') SELECT writes()",
        "EXPLAIN ANALYZE REFRESH MATERIALIZED VIEW kept_view",
    },
    "what comes next needs the same server": {
        "DECLARE c CURSOR FOR SELECT * FROM t",
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM t",
        "DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c",
        "CLOSE ALL", "SET CONSTRAINTS ALL IMMEDIATE", "SET CONSTRAINTS ALL DEFERRED",
        "UNLISTEN channel", "UNLISTEN *", "LOAD 'plpgsql'",
        "LOCK TABLE t IN ACCESS SHARE MODE", "LOCK t IN ROW SHARE MODE",
    },
    "it may do anything": {"DO 'BEGIN PERFORM 1; END'", "CHECKPOINT", "COPY t TO PROGRAM 'cat >/dev/null'"},
}  # fmt: skip

# A call of every function that is not declared volatile, with something plausible of each type.
CALLS = """
SELECT format('SELECT %I.%I(%s)', n.nspname, p.proname, (
           SELECT string_agg(format('%L::%s', CASE
                      WHEN t.typcategory = 'A' THEN '{}' WHEN t.typcategory IN ('N', 'B') THEN '1'
                      WHEN t.typcategory = 'D' THEN '2026-01-01' WHEN t.typcategory = 'T' THEN '1 day'
                      WHEN t.typcategory = 'I' THEN '127.0.0.1' WHEN t.typcategory = 'R' THEN 'empty'
                      WHEN t.typname LIKE 'json%' THEN '{}' WHEN t.typname = 'regclass' THEN 't'
                      WHEN t.typname = 'pg_lsn' THEN '0/1' ELSE '1' END, format_type(t.oid, NULL)), ', '
                      ORDER BY a.at)
             FROM unnest(p.proargtypes) WITH ORDINALITY a(type, at) JOIN pg_type t ON t.oid = a.type))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.provolatile <> 'v' AND p.prokind = 'f' AND n.nspname IN ('pg_catalog', 'information_schema')
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
   AND NOT 'internal'::regtype = ANY (p.proargtypes)
 ORDER BY p.oid
"""


class Oracle(NamedTuple):
    """A database in which nothing can be written, and what the proxy knows of it."""

    port: int
    database: str
    catalog: Catalog

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{self.database}"

    def refused(self, texts: Iterable[str], *, user: str = "postgres") -> Iterator[tuple[str, str | None]]:
        """Yield each text with the SQLSTATE of its first error in a READ ONLY transaction."""
        with Raw(self.port, self.database, user=user, options=READ_ONLY) as client:
            for text in texts:
                client.ask([query("BEGIN READ ONLY")])
                yield text, _sqlstate(client, text)
                client.ask([query("ROLLBACK")])
                client.ask([query("DISCARD ALL")])
            client.ask([query("ROLLBACK PREPARED 'prepared'")])


def _sqlstate(client: Raw, text: str) -> str | None:
    answer = client.ask([query(text)])
    while answer[-1].startswith("G"):
        answer += client.ask([copy_fail("no")], readies=0)
    errors = [line for line in answer if line.startswith("E")]
    return errors[0].split("'C': '")[1][:5] if errors else None


@pytest.fixture(scope="module", params=["pg16", "pg18"])
def oracle(request: pytest.FixtureRequest) -> Iterator[Oracle]:
    with _database(request.getfixturevalue(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def replica(pg16: Cluster) -> Iterator[Oracle]:
    with _database(pg16) as made, Cluster(16, primary=pg16) as standby:
        yield made._replace(port=standby.port)


class _database:
    """A database with the schema of the samples, for as long as the context lasts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._name = f"statements_{cluster.version}_{next(_numbers)}"

    def __enter__(self) -> Oracle:
        self._cluster.psql(f"CREATE DATABASE {self._name}")
        ensure_roles(self._cluster, GUEST)
        self._cluster.psql(SCHEMA, self._name)
        return Oracle(self._cluster.port, self._name, asyncio.run(_catalog(self._cluster.url(self._name))))

    def __exit__(self, *_: object) -> None:
        self._cluster.psql(f"DROP DATABASE {self._name} WITH (FORCE)")


async def _catalog(url: str) -> Catalog:
    connection = await asyncpg.connect(url)
    try:
        return await read_catalog(connection, Tables())
    finally:
        await connection.close()


def nested(texts: Iterable[str]) -> Iterator[str]:
    """Yield every text inside every nesting."""
    for text, nesting in itertools.product(texts, NESTINGS):
        yield nesting.replace("{}", text)


def test_every_kind_of_statement_has_a_sample() -> None:
    assert all_kinds() - {kind for text in STATEMENTS for kind in kinds(text)} == set()


def test_no_write_is_called_a_read(oracle: Oracle) -> None:
    judge = Judge(oracle.catalog, captures=True)
    texts = [*STATEMENTS, *nested(STATEMENTS)]
    refused = [text for text, sqlstate in oracle.refused(texts) if sqlstate == "25006"]
    guest = oracle.refused([*QUERIES, *nested(QUERIES)], user=GUEST)  # subject to row security
    refused += [text for text, sqlstate in guest if sqlstate == "25006"]
    print(f"{len(texts)} statements, {len(refused)} refused")
    assert len(refused) > 2000
    assert [text for text in refused if judge.judge(text, PATH).is_read] == []


def test_no_write_nested_twice_is_called_a_read(oracle: Oracle) -> None:
    seed = seeds()[0]
    chosen = random.Random(seed)
    judge = Judge(oracle.catalog, captures=True)
    nestings = [text for text in NESTINGS if "UNION" not in text]
    texts = []
    for _ in range(TWICE_COUNT):
        text = chosen.choice(STATEMENTS)
        for nesting in chosen.sample(nestings, 2):
            text = nesting.replace("{}", text)
        texts.append(text)
    refused = [text for text, sqlstate in oracle.refused(texts) if sqlstate == "25006"]
    print(f"seed {seed}: {len(texts)} statements, {len(refused)} refused")
    assert [text for text in refused if judge.judge(text, PATH).is_read] == []


def test_what_a_replica_refuses_is_no_read(replica: Oracle) -> None:
    judge = Judge(replica.catalog, captures=True)
    answers = replica.refused([*STATEMENTS, *nested(QUERIES)])
    # Not every such refusal has its SQLSTATE: "cannot assign TransactionIds" is an internal error.
    refused = [text for text, sqlstate in answers if sqlstate in ("25006", "XX000")]
    print(f"{len(refused)} refused")
    assert len(refused) > 1000
    assert [text for text in refused if judge.judge(text, PATH).is_read] == []


def test_reads_that_stay_on_the_authority_are_known(replica: Oracle) -> None:
    """Each of these costs the authority a statement that a replica would have run."""
    judge = Judge(replica.catalog, captures=True)
    kept: dict[Kind, list[str]] = defaultdict(list)
    for text, sqlstate in replica.refused(STATEMENTS):
        judged = judge.judge(text, PATH)
        if sqlstate is None and not judged.is_read:
            kept[judged.kind].append(text)
    for kind, texts in sorted(kept.items()):
        print(f"{kind}: {len(texts)}", *texts, sep="\n    ")
    assert {text for kind in SESSION_FREE for text in kept[kind]} == set().union(*KEPT.values())


def test_functions_called_a_read_write_nothing(replica: Oracle) -> None:
    """Every function that PostgreSQL brings along and does not call volatile, on a replica."""
    judge = Judge(replica.catalog, captures=True)
    with psycopg.connect(replica.url) as connection:
        calls = [text for (text,) in connection.execute(CALLS).fetchall()]
    reads = [text for text in calls if judge.judge(text, PATH).is_read]
    refused = dict(replica.refused(reads))
    succeeded = sum(sqlstate is None for sqlstate in refused.values())
    print(f"{len(calls)} calls, {len(reads)} of them reads, {succeeded} succeed")
    assert succeeded > 1200
    assert [text for text, sqlstate in refused.items() if sqlstate == "25006"] == []
