"""What the reader makes of real databases, on the oldest and the newest version we test with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.catalog.model import Catalog, Relation, RelationKind
from proxy.catalog.reader import read_catalog, steadiness
from proxy.config.model import Tables
from proxy.ledger.connection import connect
from tests.integration.pairs import Two

DDL = """
CREATE SCHEMA sales;
CREATE TYPE mood AS ENUM ('calm'); CREATE DOMAIN small AS int; CREATE TYPE two AS (a int, b int);
CREATE TABLE users (
    id bigserial PRIMARY KEY, "e Mail" text NOT NULL UNIQUE, mood mood, moods mood[], numbers int[],
    kind regclass, least small, pair two, twice int GENERATED ALWAYS AS (least * 2) STORED);
CREATE UNIQUE INDEX users_lower ON users (lower("e Mail"), id) WHERE id > 0;
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "user" bigint REFERENCES users ON DELETE CASCADE);
CREATE TABLE events (at timestamptz, id int, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
CREATE TABLE two_keys (
    a int NOT NULL, b int NOT NULL, c int NOT NULL, d int UNIQUE, UNIQUE (a, b), UNIQUE (c));
CREATE TABLE late_key (a int NOT NULL UNIQUE DEFERRABLE);
CREATE TABLE heap (a int); CREATE TABLE child () INHERITS (heap);
CREATE TABLE guarded (id int PRIMARY KEY); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE SEQUENCE loose; CREATE SEQUENCE sales.elsewhere;
ALTER TABLE guarded ADD number int DEFAULT nextval('sales.elsewhere');
CREATE FUNCTION noisy(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION noisy(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION calm() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER fire AFTER INSERT ON events_1 FOR EACH ROW EXECUTE FUNCTION fire();
CREATE VIEW quiet AS SELECT u.id FROM users u JOIN events_1 e ON e.id = u.id;
CREATE VIEW counts AS SELECT *, nextval('loose') FROM quiet;
CREATE VIEW above AS SELECT * FROM counts;
CREATE RULE also AS ON INSERT TO heap DO ALSO SELECT 1;
"""


@pytest.fixture(params=["old", "new"])
async def catalog(request: pytest.FixtureRequest, old_db: str, new_db: str) -> AsyncIterator[Catalog]:
    async with Two(old_db, new_db) as two:
        await two.execute(DDL)
        yield await read_catalog(two.old if request.param == "old" else two.new, Tables())


async def test_tables_keys_and_columns(catalog: Catalog) -> None:
    found = {name: table.key for (_, name), table in catalog.tables.items()}
    assert found == {
        "users": ("id",), "orders": ("id",), "events": ("at", "id"), "two_keys": ("c",), "late_key": (),
        "heap": (), "child": (), "guarded": ("id",),
    }  # fmt: skip
    users = catalog.tables["public", "users"]
    assert users.key_types == ("bigint",)
    assert {column.name for column in users.columns if not column.is_portable} == {"moods", "kind", "pair"}
    assert {column.name for column in users.columns if column.is_generated} == {"twice"}
    assert [(index.name, index.expressions, index.predicate) for index in users.unique_indexes] == [
        ("users_pkey", ("id",), None),
        ("users_e Mail_key", ('"e Mail"',), None),
        ("users_lower", ('lower("e Mail")', "id"), "(id > 0)"),
    ]
    assert [column.type for column in users.columns][2:4] == ["public.mood", "public.mood[]"]
    assert catalog.tables["public", "orders"].columns[0].identity == "a"
    assert users.id == 0, "init has not run"


async def test_what_makes_a_table_special(catalog: Catalog) -> None:
    tables = {name: table for (_, name), table in catalog.tables.items()}
    assert tables["events"].is_partitioned
    assert tables["events"].has_user_triggers, "a trigger of a partition is the root's"
    assert [name for name, table in tables.items() if table.has_rules] == ["heap"]
    assert [name for name, table in tables.items() if table.has_children] == ["heap"]
    assert [name for name, table in tables.items() if table.has_row_security] == ["guarded"]
    (key,) = tables["users"].referenced_by
    assert (key.table, key.columns, key.on_delete) == (("public", "orders"), ("user",), "c")
    assert tables["orders"].references == (key,)


async def test_views_lead_to_tables_and_to_volatile_functions(catalog: Catalog) -> None:
    bases = frozenset({("public", "users"), ("public", "events")})
    for name, is_volatile in (("quiet", False), ("counts", True), ("above", True)):
        view = catalog.find((None, name), ["public"])
        assert isinstance(view, Relation)
        assert view.kind is RelationKind.VIEW
        assert view.is_volatile is is_volatile
        assert view.base_tables - {("public", "loose")} == bases
    partition = catalog.find(("public", "events_1"), [])
    assert isinstance(partition, Relation)
    assert (partition.kind, partition.base_tables) == (RelationKind.PARTITION, {("public", "events")})


async def test_functions_are_volatile_when_any_overload_is_or_nobody_knows(catalog: Catalog) -> None:
    path = ["public"]
    for name in ("noisy", "nextval", "pg_sleep", "setval", "random", "unheard_of", "pg_advisory_lock"):
        assert catalog.is_volatile((None, name), path), name
    for name in ("calm", "now", "lower", "count", "sum", "generate_series"):
        assert not catalog.is_volatile((None, name), path), name


async def test_sequences_are_those_that_mirrored_tables_draw_from_and_loose_ones(catalog: Catalog) -> None:
    found = {(sequence.schema, sequence.name): sequence.owned_by for sequence in catalog.sequences}
    assert found == {
        ("public", "users_id_seq"): (("public", "users"), "id"),
        ("public", "orders_id_seq"): (("public", "orders"), "id"),
        ("public", "loose"): None,
        ("sales", "elsewhere"): (("public", "guarded"), "number"),
    }


async def test_fingerprint_changes_with_columns_and_a_rewrite_is_seen_from_the_snapshot(
    old_db: str, new_db: str
) -> None:
    async with Two(old_db, new_db) as two:
        await two.old.execute("CREATE TABLE a (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)")
        await two.old.execute(
            "CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM (0) TO (9); CREATE TABLE b (id int)"
        )
        tables = (await read_catalog(two.old, Tables())).tables
        oids = {name: table.oid for (_, name), table in tables.items()}
        prints = {table.oid: table.fingerprint for table in tables.values()}
        now = await steadiness(two.new, [])
        assert now == {}
        now = await steadiness(two.old, oids.values())
        assert {oid: found.fingerprint for oid, found in now.items()} == prints
        assert not any(found.is_rewritten for found in now.values())

        other = await connect(two.source)
        try:
            async with other.transaction(isolation="repeatable_read", readonly=True):
                await other.fetchval("SELECT 1")  # the snapshot is taken here
                await two.old.execute("ALTER TABLE a ALTER n TYPE bigint; TRUNCATE b")
                now = await steadiness(other, oids.values())
                assert all(found.is_rewritten for found in now.values())
        finally:
            other.terminate()
        now = await steadiness(two.old, oids.values())
        assert now[oids["a"]].fingerprint != prints[oids["a"]]
        assert now[oids["b"]].fingerprint == prints[oids["b"]]
        await two.old.execute("DROP TABLE b")
        assert list(await steadiness(two.old, oids.values())) == [oids["a"]]


async def test_roles_that_write_and_may_not_read_the_key_are_known(old_db: str, new_db: str) -> None:
    roles = ("blind_writer", "blind_deleter", "blind_reader", "sees_by_membership", "writes_all")
    async with Two(old_db, new_db) as two:
        await two.old.execute(
            "CREATE TABLE a (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region)"
            ";CREATE TABLE a_eu PARTITION OF a FOR VALUES IN ('eu'); CREATE TABLE b (id int PRIMARY KEY)"
        )
        try:
            await two.old.execute(
                ";".join(f"CREATE ROLE {role}" for role in roles)
                + "; GRANT INSERT (v), SELECT (id, v) ON a TO blind_writer;"
                "GRANT DELETE ON a_eu TO blind_deleter; GRANT pg_write_all_data TO writes_all;"
                "GRANT SELECT ON a, b TO blind_reader; GRANT UPDATE ON b TO sees_by_membership;"
                "GRANT blind_reader TO sees_by_membership; GRANT ALL ON b TO blind_writer"
            )
            blind = (await read_catalog(two.old, Tables())).blind
            assert blind == {
                ("public", "a"): {"blind_writer", "blind_deleter", "writes_all"},
                ("public", "b"): {"writes_all"},
            }
        finally:
            await two.old.execute(f"DROP OWNED BY {', '.join(roles)}; DROP ROLE {', '.join(roles)}")


async def test_a_table_dropped_since_the_snapshot_is_read_as_it_was(old_db: str) -> None:
    reader, other = await asyncpg.connect(old_db), await asyncpg.connect(old_db)
    await other.execute('CREATE TABLE brief (id int PRIMARY KEY, "odd Name" text UNIQUE)')
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        await reader.execute("SELECT 1")
        await other.execute("DROP TABLE brief")
        table = (await read_catalog(reader, Tables())).tables["public", "brief"]
    assert [index.expressions for index in table.unique_indexes] == [("id",), ('"odd Name"',)]
    await reader.close()
    await other.close()
