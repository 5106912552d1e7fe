"""Through the proxy every conversation reads as it does without, message by message.

Two databases that are byte for byte the same: one is asked directly, the other through a
proxy that captures every write and mirrors it to a PostgreSQL 18. After each conversation
all of them hold the same rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.demo.clusters import Cluster
from tests.integration.protocol import SYNC, Disturber, Message, Raw, bind, parse, query, run
from tests.integration.scripts_extended import EXTENDED
from tests.integration.scripts_generated import generated
from tests.integration.scripts_simple import SIMPLE
from tests.running import DATABASE, Running

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE item (
    id serial PRIMARY KEY, name text UNIQUE, n int DEFAULT 0 CHECK (n >= 0), day date, feeling mood);
CREATE TABLE pair (a int, b text, v numeric(10, 2), PRIMARY KEY (a, b));
CREATE TABLE parent (id int PRIMARY KEY, note text);
CREATE TABLE child (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE SCHEMA other;
CREATE TABLE other.item (id int PRIMARY KEY, name text, n int);
CREATE VIEW cheap AS SELECT id, name FROM item WHERE n < 10;
CREATE FUNCTION bump(which int) RETURNS int LANGUAGE sql AS
    'UPDATE item SET n = n + 1 WHERE id = which RETURNING n';
CREATE PROCEDURE adjust(which int, INOUT step int) LANGUAGE plpgsql AS
    'BEGIN UPDATE item SET n = n + step WHERE id = which RETURNING n INTO step; END';
CREATE FUNCTION complain() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RAISE NOTICE 'in a moment';
        RAISE EXCEPTION 'no' USING ERRCODE = 'ZX001', HINT = 'stop asking', DETAIL = 'never',
              TABLE = 'item', COLUMN = 'n', CONSTRAINT = 'c', DATATYPE = 'd', SCHEMA = 's';
    END $$;
"""
EMPTY = """
DELETE FROM child;
DELETE FROM parent;
DELETE FROM pair;
DELETE FROM item;
DELETE FROM other.item
"""
# Of tables that are empty already. What else is left in a page depends on who looked at it and when, and
# decides where the next row goes, so in which order UPDATE meets the rows, so which error comes first.
# In the order in which converge reads them: in another, each might wait for the other.
NEW_FILES = "TRUNCATE other.item, parent, child, item, pair"
FILL = """
INSERT INTO item (id, name, n, day, feeling)
VALUES (1, 'first', 5, '2024-01-01', 'ok'), (2, 'second', 15, NULL, 'happy'),
       (3, 'third', 0, '2024-12-31', NULL);
INSERT INTO pair VALUES (1, 'one', 1.5), (1, 'two', 2.5), (2, 'one', NULL);
INSERT INTO parent VALUES (1, 'p'), (2, 'q');
INSERT INTO child (parent) VALUES (1), (1), (2);
SELECT setval('item_id_seq', 10), setval('child_id_seq', 10)
"""
KEYS = {"item": "id", "other.item": "id", "pair": "a, b", "parent": "id", "child": "id"}


VERSIONS = ("pg16", "pg15", "pg18")
GENERATED_COUNT = 240
BUNDLE = 20
SCRIPTS = {**SIMPLE, **{f"extended: {name}": script for name, script in EXTENDED.items()}}


class Pair(NamedTuple):
    """The proxy, and the twin of the database behind it."""

    running: Running
    old: Cluster
    new: Cluster
    names: tuple[str, str, str]  # behind the proxy on the old and the new cluster; the twin
    oids: frozenset[int]

    def direct(self, **parameters: str) -> Raw:
        """Return a connection to the twin."""
        return Raw(self.old.port, self.names[2], tables=self.oids, **parameters)

    def proxied(self, **parameters: str) -> Raw:
        """Return a connection through the proxy."""
        return Raw(self.running.port, DATABASE, tables=self.oids, **parameters)

    def fill(self, direct: Raw, proxied: Raw) -> None:
        """Put the same rows at the same places of the same pages on both sides."""
        assert converse(proxied, [[query(EMPTY)]]) == converse(direct, [[query(EMPTY)]])
        with Raw(self.old.port, self.names[0]) as behind:
            assert converse(behind, [[query(NEW_FILES)]]) == converse(direct, [[query(NEW_FILES)]])
        assert converse(proxied, [[query(FILL)]]) == converse(direct, [[query(FILL)]])

    async def assert_equal(self) -> None:
        """Check that all three hold the same rows, the mirror when it has caught up."""
        expected = rows(self.old, self.names[2])
        assert rows(self.old, self.names[0]) == expected
        await self.running.wait_converged()
        assert rows(self.new, self.names[1]) == expected


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A proxy before each version of PostgreSQL, which mirrors to PostgreSQL 18."""
    old, new = request.getfixturevalue(request.param), request.getfixturevalue("pg18")
    name = f"differential{os.getpid()}"
    names = (name, f"{name}_mirror", f"{name}_twin")
    for cluster, own in ((old, names[0]), (new, names[1])):
        cluster.psql(f"CREATE DATABASE {own}")
        cluster.psql(SCHEMA, own)
    folder: Path = tmp_path_factory.mktemp("differential")
    tables = {"tables": {"include": ["public.*", "other.*"]}}
    with Running(folder, old.url(names[0]), new.url(names[1]), tables) as running:
        running.command("init")
        old.psql(f"CREATE DATABASE {names[2]} TEMPLATE {name}")
        oids = old.psql("SELECT oid FROM pg_class UNION SELECT oid FROM pg_type", name)
        running.start()
        yield Pair(running, old, new, names, frozenset(map(int, oids.split())))
    for cluster, own in ((old, names[0]), (old, names[2]), (new, names[1])):
        cluster.psql(f"DROP DATABASE {own} WITH (FORCE)")


# A table entry goes first, so in a READ ONLY transaction it is refused in place of what it is for.
_read_only = re.compile("cannot execute [A-Z ]+ in a read-only")


def converse(connection: Raw, script: list[list[Message]], disturber: Disturber | None = None) -> list[str]:
    """Return everything that is answered to a script, burst by burst."""
    lines = []
    for number, burst in enumerate(script):
        if disturber is not None:
            disturber.disturb()
        try:
            lines += [f"{number}: {_read_only.sub('in a read-only', line)}" for line in connection.ask(burst)]
        except (EOFError, TimeoutError) as error:
            return [*lines, f"{number}: {error}"]
    return lines


def rows(cluster: Cluster, name: str) -> str:
    """Return every row of every table."""
    return cluster.psql(
        "".join(f"COPY (SELECT * FROM {table} ORDER BY {key}) TO STDOUT;" for table, key in KEYS.items()),
        name,
    )


def assert_same(pair: Pair, script: list[list[Message]], *, moves: bool) -> None:
    """Hold a conversation on both sides, each with a session of its own."""
    with pair.direct() as direct, pair.proxied() as proxied, Disturber(pair.proxied) as disturber:
        pair.fill(direct, proxied)
        expected = converse(direct, script)
        assert converse(proxied, script, disturber if moves else None) == expected
        direct.close()
        proxied.close()


@pytest.mark.parametrize("servers", ["same server", "other servers"])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_conversation_reads_as_it_does_without_the_proxy(pair: Pair, name: str, servers: str) -> None:
    assert_same(pair, SCRIPTS[name], moves=servers == "other servers")
    await pair.assert_equal()


@pytest.mark.parametrize("first", range(0, GENERATED_COUNT, BUNDLE))
async def test_generated_conversation_reads_as_it_does_without_the_proxy(pair: Pair, first: int) -> None:
    for seed in range(first, first + BUNDLE):
        print(f"seed {seed}")
        assert_same(pair, generated(seed), moves=bool(seed % 2))
    await pair.assert_equal()


@pytest.mark.parametrize("moves", [False, True])
def test_query_behind_an_error_is_ignored_up_to_the_sync_as_it_is_without_the_proxy(
    pair: Pair, moves: bool
) -> None:
    batches: list[list[Message]] = [
        [*run("SELECT 1 / 0"), query("SELECT 2"), SYNC],
        [bind(name="nowhere"), query("UPDATE item SET n = 9"), *run("SELECT 3"), query("SELECT 4"), SYNC],
        [*run("INSERT INTO item (name) VALUES ('lost')"), parse("SELEC"), query("COMMIT"), SYNC],
        [query("SELECT name, n FROM item ORDER BY id")],
    ]
    with pair.direct() as direct, pair.proxied() as proxied, Disturber(pair.proxied) as disturber:
        pair.fill(direct, proxied)
        for batch in batches:
            if moves:
                disturber.disturb()
            assert proxied.ask(batch, readies=1) == direct.ask(batch, readies=1)


async def test_query_behind_what_was_executed_reaches_no_other_client(pair: Pair) -> None:
    """From PostgreSQL 17 on the Sync does not end its transaction: the next statement gets XX000."""
    script: list[list[Message]] = [
        [*run("INSERT INTO item (name) VALUES ('lost')"), query("SELECT 1 / 0"), SYNC],
        [
            *run("INSERT INTO item (name) VALUES ('kept') RETURNING name"),
            query("DELETE FROM item WHERE id = 2"),
            SYNC,
        ],
        [*run("SET my.own = 'seen'"), query("SELECT current_setting('my.own')"), SYNC],
        [query("SELECT name FROM item ORDER BY id")],
    ]
    with pair.direct() as direct, pair.proxied() as proxied, Disturber(pair.proxied) as disturber:
        pair.fill(direct, proxied)
        seen = converse(proxied, script, disturber)
        if int(pair.old.psql("SHOW server_version_num")) < 170_000:
            assert seen == converse(direct, script)
        disturber.disturb()


def greeted(wire: Raw) -> list[str]:
    """Return the greeting; PostgreSQL 18 tells search_path, which SET writes with blanks."""
    return sorted(line.replace(", ", ",") if "search_path" in line else line for line in wire.greeting)


def test_greeting_reads_as_it_does_without_the_proxy(pair: Pair) -> None:
    for wanted in (
        {},
        {"application_name": "greeted", "client_encoding": "latin1"},
        {"options": "-c TimeZone=europe/rome -c search_path=other,public", "DateStyle": "german"},
    ):
        with pair.direct(**wanted) as direct, pair.proxied(**wanted) as proxied:
            assert greeted(proxied) == greeted(direct)
            script = [[query("SHOW TimeZone")], [query("SELECT current_schemas(false), date '2024-02-01'")]]
            assert converse(proxied, script) == converse(direct, script)
