"""The split form: a write returns the keys of its rows, and their entries follow in its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from proxy.demo.clusters import Cluster
from proxy.server import wording
from tests.integration.crossings import Crossing
from tests.integration.protocol import SYNC, Raw, bind, execute, parse, query, run
from tests.integration.stand import Stand
from tests.integration.test_every_way import SCRIPTS, WAYS, _run
from tests.integration.writing import Writing, writing

CLOSELY = [
    "INSERT ... SELECT", "INSERT ... DEFAULT VALUES", "INSERT ... OVERRIDING", "ON CONFLICT DO NOTHING",
    "ON CONFLICT ON CONSTRAINT", "UPDATE ... FROM itself", "DELETE ... USING", "UPDATE of the key, returned",
    "row movement", "one partition", "trigger", "cascade", "keyless", "keyless, returned",
    "several statements", "several, with BEGIN and COMMIT", "comment at the end", "savepoints",
    "savepoint around an error",
    "WHERE CURRENT OF", "two-phase commit", "failed transaction", "SQL-level PREPARE",
]  # fmt: skip


@pytest.fixture(scope="module")
def split(pg16: Cluster, pg18: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    clusters = (pg16, pg18)
    tables = {"capture": {"triggered": "trigger", "*": "split"}}
    folder = tmp_path_factory.mktemp("split")
    with writing(folder, clusters, tables=tables, mirror={"audit": "50%"}) as made:
        yield made
        assert made.running.status()["capture_misses"] == {}


@pytest.mark.parametrize("protocol", ["simple", "prepared"])
def test_both_sides_are_equal_whatever_was_written(split: Writing, protocol: str) -> None:
    for way in CLOSELY:
        k = split.block()
        texts = SCRIPTS.get(way) or [WAYS[way]]
        if protocol == "prepared":
            texts = [part for text in texts for part in text.split(" -- ")[0].split(";")]
        with split.connect() as client:
            for text in texts:
                _run(client, text.format(k=k), is_prepared=protocol == "prepared")
    split.assert_equal()


ANSWERS = [
    ("UPDATE item SET v = 5 WHERE id BETWEEN {k} + 1 AND {k} + 3", "UPDATE 3", None),
    ("UPDATE item SET v = 5 WHERE id = {k} + 99", "UPDATE 0", None),
    ("DELETE FROM tagged WHERE id = {k} + 1 RETURNING *", "DELETE 1", "id,name,v"),
    ("INSERT INTO item (id) VALUES ({k} + 70), ({k} + 71) RETURNING id AS a, id AS a", "INSERT 0 2", "a,a"),
    ("INSERT INTO log VALUES ('x', {k}) RETURNING v, NULL", "INSERT 0 1", "v,?column?"),
]  # fmt: skip


@pytest.mark.parametrize("is_prepared", [False, True])
@pytest.mark.parametrize(("text", "tag", "names"), ANSWERS)
def test_the_answer_is_that_to_the_statement_as_written(
    split: Writing, text: str, tag: str, names: str | None, is_prepared: bool
) -> None:
    k, plain = split.block(), []
    with split.connect() as client, split.direct() as direct:
        direct.execute("BEGIN")
        for connection in (direct, client):
            cursor = connection.execute(text.format(k=k), prepare=is_prepared)
            named = None if cursor.description is None else ",".join(each.name for each in cursor.description)
            assert (cursor.statusmessage, named) == (tag, names)
            plain.append(cursor.fetchall() if names else None)
            if connection is direct:
                direct.execute("ROLLBACK")
    assert plain[0] == plain[1]


def entered(client: psycopg.Connection[Any]) -> list[tuple[str, str, list[str] | None]]:
    """Return the entries of the transaction that is open."""
    return client.execute(
        "SELECT t.name, l.kind::text, l.key FROM crossfade.ledger l JOIN crossfade.tables t ON t.id = l.tbl"
        " WHERE l.xmin = pg_current_xact_id()::xid ORDER BY 1, 2, 3"
    ).fetchall()


@pytest.mark.parametrize("is_prepared", [False, True])
def test_entries_name_the_rows_and_nothing_else(split: Writing, is_prepared: bool) -> None:
    k = split.block()
    with split.connect() as client, client.transaction():
        client.execute("UPDATE item SET v = 0 WHERE id <= %s AND id > %s", (k + 2, k), prepare=is_prepared)
        client.execute(f"DELETE FROM part WHERE id = {k + 1} RETURNING v", prepare=is_prepared)
        assert entered(client) == [
            ("item", "k", [str(k + 1)]), ("item", "k", [str(k + 2)]), ("part", "k", [str(k + 1), "us"])
        ]  # fmt: skip
    split.assert_equal()


def test_a_pipeline_that_commits_inside_is_counted(split: Writing) -> None:
    """The entries would come behind the COMMIT: the table is compared instead, in the transaction."""
    k = split.block()
    with split.connect() as client:
        with client.pipeline():
            client.execute("BEGIN")
            client.execute("UPDATE item SET v = 41 WHERE id = %s", (k + 1,))
            client.execute("COMMIT")
            client.execute("UPDATE item SET v = 42 WHERE id = %s RETURNING v", (k + 2,))
        with client.pipeline():
            client.execute("UPDATE item SET v = 43 WHERE id = %s", (k + 3,))
            client.execute("DELETE FROM tagged WHERE id = %s", (k + 3,))
    split.assert_equal()


def test_an_error_takes_the_whole_batch_back(split: Writing) -> None:
    k = split.block()
    with split.connect() as client:
        with pytest.raises(psycopg.errors.DivisionByZero), client.pipeline():
            client.execute("UPDATE item SET v = 51 WHERE id = %s", (k + 1,))
            client.execute("SELECT 1 / %s", (0,))
        with pytest.raises(psycopg.errors.UniqueViolation):
            client.execute("INSERT INTO item VALUES (%s, 0)", (k + 1,))
        with pytest.raises(psycopg.errors.UndefinedColumn) as found:
            client.execute(f"UPDATE item SET v = nothing WHERE id = {k}")
        assert found.value.diag.statement_position == "21"
        assert client.execute("SELECT v FROM item WHERE id = %s", (k + 1,)).fetchone() == (1,)
    split.assert_equal()


def test_more_keys_than_are_kept_compare_the_table(split: Writing) -> None:
    k = split.block()
    with split.connect() as client, client.transaction():
        client.execute("INSERT INTO item SELECT %s + n, n FROM generate_series(100000, 130000) n", (k,))
        assert entered(client) == [("item", "t", None)]
    split.assert_equal()


async def commits_inside(crossing: Crossing) -> bool:
    """A portal is executed in a batch that commits before its Sync; return whether both commit together."""

    def write(port: int) -> None:
        with Raw(port, "app") as client:
            client.ask([query("BEGIN")])
            client.ask([parse("UPDATE users SET hits = 1 WHERE id = 1"), bind(portal="p"), SYNC])
            answer = client.ask([execute("p"), *run("COMMIT"), SYNC])
            assert sum(line.startswith("C ") for line in answer) == 2, answer

    async with Stand(crossing, tables={"capture": "split"}) as stand:
        await asyncio.to_thread(write, stand.port)
    assert await crossing.entries() == 1
    together = "SELECT count(*) FROM users JOIN crossfade.ledger ON users.xmin = ledger.xmin"
    return bool(await crossing.old.fetchval(together))


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


async def test_a_write_that_commits_inside_a_pipeline_has_its_entry_with_it(crossing: Crossing) -> None:
    assert await commits_inside(crossing)


async def test_without_the_look_at_what_may_end_a_transaction_it_has_not(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wording, "may_end_transaction", lambda statement: False)
    assert not await commits_inside(crossing)


async def test_binary_rows_with_and_without_a_limit(split: Writing) -> None:
    k = split.block()
    client = await asyncpg.connect(split.running.url())
    try:
        rows = await client.fetch(
            "UPDATE item SET v = v + 100 WHERE id > $1 AND id < $1 + 4 RETURNING id, v", k
        )
        assert sorted(map(tuple, rows)) == [(k + 1, 101), (k + 2, 102), (k + 3, 103)]
        assert await client.execute("UPDATE item SET v = 3 WHERE id = $1", k + 4) == "UPDATE 1"
        many = "UPDATE item SET note = repeat('x', $2) WHERE id > $1 AND id < $1 + 9 RETURNING note, id"
        assert {len(note) for note, _ in await client.fetch(many, k, 300_000)} == {300_000}
        async with client.transaction():
            cursor = await client.cursor(
                "UPDATE item SET v = 7 WHERE id > $1 AND id < $1 + 9 RETURNING id", k
            )
            assert len(await cursor.fetch(2)) == 2
            assert len(await cursor.fetch(9)) == 6
    finally:
        await client.close()
    split.assert_equal()
