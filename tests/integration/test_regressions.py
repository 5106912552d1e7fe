"""Bugs that were found once by trying to break the proxy; each must never come back.

Writes that escaped their capture, sessions that waited for ever, answers that were not the
client's. Every test speaks the protocol message by message, as the drivers that hit these do.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster
from tests.integration.protocol import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Message,
    Raw,
    bind,
    copy_data,
    describe,
    execute,
    parse,
    query,
    run,
)
from tests.integration.through import Crossing, crossing
from tests.running import DATABASE

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE SCHEMA other;
CREATE TABLE other.t (id int PRIMARY KEY, v text);
DO $$ BEGIN IF to_regrole('tenant') IS NULL THEN CREATE ROLE tenant; END IF; END $$;
CREATE SCHEMA tenant;
CREATE TABLE tenant.t (id int PRIMARY KEY, v text);
GRANT ALL ON SCHEMA tenant TO tenant; GRANT ALL ON tenant.t TO tenant;
CREATE FUNCTION writes(i int) RETURNS int LANGUAGE sql AS $$ INSERT INTO t VALUES (i) RETURNING id $$;
CREATE FUNCTION claims_to_read(i int) RETURNS int LANGUAGE sql STABLE AS $$ SELECT writes(i) $$;
"""
KEYS = {"t": "id", "other.t": "id", "tenant.t": "id"}


@pytest.fixture
def crossed(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> Iterator[Crossing]:
    changes = {"tables": {"include": ["*.*"]}, "pool": {"size": 1, "wait": "10s"}}
    with crossing(tmp_path, (pg16, pg18), make_database, SCHEMA, changes) as made:
        asyncio.run(made.running.wait_converged())
        yield made


def connected(made: Crossing) -> Raw:
    return Raw(made.running.port, DATABASE)


def send(client: Raw, *messages: Message) -> None:
    """Send messages without waiting for their answer."""
    client.socket.sendall(b"".join(message.encode() for message in messages))


def answer_of(client: Raw, readies: int = 1) -> list[str]:
    client._owed_readies += readies
    return client.answer()


# Writes that must be captured.


INSERT = "INSERT INTO t VALUES ({})"
BETWEEN: dict[str, list[list[Message | str]]] = {
    "set local": [[query("BEGIN")], [query("SET LOCAL search_path TO other")], [INSERT], [query("COMMIT")]],
    "after set local": [[INSERT]],
    "set_config": [
        [query("BEGIN; SELECT set_config('search_path', 'other', true)")],
        [INSERT],
        [query("END")],
    ],
    "computed": [
        [query("BEGIN")],
        [parse("SELECT set_config($1, $2, true)"), bind("search_path", "other"), execute(), SYNC],
        [INSERT],
        [query("COMMIT")],
    ],
    "savepoint": [
        [query("BEGIN; SAVEPOINT s; SET LOCAL search_path TO other")],
        [query("ROLLBACK TO s")],
        [INSERT],
        [query("COMMIT")],
    ],
    "failed commit": [
        [query("BEGIN")],
        [query("SET search_path TO other")],
        [query("SELECT 1/0")],
        [query("COMMIT")],
        [INSERT],
    ],
    "one text": [[query("SET search_path TO other; INSERT INTO t VALUES (100)")]],
    "one batch": [[*run("SET search_path TO other"), *run("INSERT INTO t VALUES (101)"), SYNC]],
    "parts": [[*run("SET search_path TO other"), FLUSH], [*run("INSERT INTO t VALUES (102)"), SYNC]],
    "role": [[query("SET ROLE tenant")], [INSERT]],
    "authorization": [[query("SET SESSION AUTHORIZATION tenant")], [INSERT]],
}


async def test_a_write_is_captured_for_the_table_that_the_name_means_when_it_runs(crossed: Crossing) -> None:
    for number, (name, asked) in enumerate(BETWEEN.items()):
        with connected(crossed) as client:
            if name == "after set local":
                client.ask([query("BEGIN; SET LOCAL search_path TO other")])
                client.ask([query("COMMIT")])
            for messages in asked:
                whole = [query(each.format(number)) if isinstance(each, str) else each for each in messages]
                await asyncio.to_thread(client.ask, whole)
        await crossed.assert_equal(KEYS)


async def test_settings_of_a_failed_transaction_are_not_those_of_the_session(crossed: Crossing) -> None:
    with connected(crossed) as client, connected(crossed) as other:
        for text in ("BEGIN", "SET statement_timeout TO 5000", "SELECT 1/0", "COMMIT"):
            client.ask([query(text)])
        other.ask([query("SET statement_timeout TO 7000")])
        assert "D [b'0']" in client.ask([query("SHOW statement_timeout")])


async def test_a_text_is_not_judged_where_a_backslash_may_escape_its_quotes(crossed: Crossing) -> None:
    with connected(crossed) as client:
        client.ask([query("SET standard_conforming_strings TO off")])
        text = r"INSERT INTO t VALUES (1, 'a\'), (2, --'), (3, 'b')"
        assert client.ask([query(text)]) == ["C b'INSERT 0 2\\x00'", "Z b'I'"]
    await crossed.assert_equal({"t": "id"})


async def test_a_text_that_cannot_be_judged_may_be_several_statements(crossed: Crossing) -> None:
    with connected(crossed) as client:
        client.ask([query("SET standard_conforming_strings TO off")])
        asked = client.ask([query(r"SELECT '\''; INSERT INTO t VALUES (1, 'a'); SELECT 2 AS two --'")])
        tags = [line for line in asked if line[0] == "C"]
        assert tags == ["C b'SELECT 1\\x00'", "C b'INSERT 0 1\\x00'", "C b'SELECT 1\\x00'"]
        assert not any("watch" in line for line in asked)
    await crossed.assert_equal({"t": "id"})


async def test_a_function_call_message_cannot_write_uncaptured(crossed: Crossing) -> None:
    with connected(crossed) as client:
        told = client.ask([query("SELECT 'writes'::regproc::oid::int")])
        oid = int(told[1].split("'")[1])
        body = struct.pack("!IHHHiiH", oid, 1, 1, 1, 4, 1, 1)
        refused, ready = client.ask([Message("F", body)], readies=1)
        assert "'C': '0A000'" in refused
        assert ready == "Z b'I'"


async def test_what_turns_out_to_be_a_write_is_captured_when_it_is_run_again(
    crossed: Crossing,
) -> None:
    crossed.running.database["rollout"] = {"reads_on_new": "100%"}
    crossed.running.write()
    await crossed.running.wait_for(lambda told: told["rollout"]["reads_on_new_ratio"] == 1)
    with connected(crossed) as client:
        assert "D [b'1']" in client.ask([query("SELECT claims_to_read(1)")])
        assert "D [b'2']" in client.ask([*run("SELECT claims_to_read(2)"), SYNC])
    await crossed.assert_equal({"t": "id"})


async def test_a_table_that_init_learns_of_later_is_copied_and_loses_no_write(
    crossed: Crossing,
) -> None:
    with connected(crossed) as client:
        made = "CREATE TABLE later (id int PRIMARY KEY)"
        for side in ("old", "new"):  # past the proxy
            cluster = await asyncpg.connect(crossed.running.database[side]["primary"])
            await cluster.execute(made)
            await cluster.close()
        for number in range(3):
            client.ask([query(f"INSERT INTO later VALUES ({number})")])
        await asyncio.to_thread(crossed.running.command, "init")
        for number in range(3, 6):
            client.ask([query(f"INSERT INTO later VALUES ({number})")])
    await crossed.running.wait_for(lambda told: len(told["backfill"]["tables"]) == len(KEYS) + 1)
    await crossed.assert_equal({"later": "id"})


# Sessions that must go on.


@pytest.mark.parametrize("count", [1, 1500])
async def test_what_follows_a_part_that_had_to_wait_is_sent_too(crossed: Crossing, count: int) -> None:
    with connected(crossed) as holder, connected(crossed) as client:
        holder.ask([query("BEGIN")])
        numbers = [[bind(str(number), name="s"), execute()] for number in range(count)]
        batch = [parse("SELECT $1::int", name="s"), *(each for pair in numbers for each in pair)]
        send(client, *batch, *([FLUSH] if count == 1 else []), *run("SELECT 2"), SYNC)
        await crossed.running.wait_for(lambda told: told["clients"]["waiting"] == 1)
        holder.ask([query("COMMIT")])
        answered = await asyncio.to_thread(answer_of, client)
        assert len([line for line in answered if line[0] == "D"]) == count + 1


async def test_a_shape_is_not_asked_for_in_the_middle_of_a_batch(crossed: Crossing) -> None:
    with connected(crossed) as client:
        send(client, *run("INSERT INTO t VALUES (1, 'a') RETURNING v"), FLUSH)
        send(client, *run("INSERT INTO t VALUES (2, 'b') RETURNING id, v"), SYNC)
        answered = await asyncio.to_thread(answer_of, client)
        assert [line for line in answered if line[0] == "D"] == ["D [b'a']", "D [b'2', b'b']"]
    await crossed.assert_equal({"t": "id"})


async def test_a_client_that_copies_without_waiting_is_read_from_again(crossed: Crossing) -> None:
    with connected(crossed) as client:
        rows = [copy_data(f"{number}\tx\n") for number in range(6000)]
        send(client, query("COPY t FROM STDIN"), *rows, COPY_DONE)
        await asyncio.to_thread(answer_of, client)
        assert client.answer()[0] == "C b'COPY 6000\\x00'"
        assert "D [b'6000']" in await asyncio.to_thread(client.ask, [query("SELECT count(*) FROM t")])


async def test_a_read_only_session_gets_its_error_and_no_endless_retry(crossed: Crossing) -> None:
    with connected(crossed) as client:
        client.ask([query("SET default_transaction_read_only TO on")])
        for messages in ([query("INSERT INTO t VALUES (1)")], [*run("INSERT INTO t VALUES (1)"), SYNC]):
            assert "'C': '25006'" in "".join(client.ask(messages))


async def test_a_write_behind_a_flushed_read_is_not_sent_to_the_mirror(crossed: Crossing) -> None:
    crossed.running.database["rollout"] = {"reads_on_new": "100%"}
    crossed.running.write()
    await crossed.running.wait_for(lambda told: told["rollout"]["reads_on_new_ratio"] == 1)
    with connected(crossed) as client:
        client.ask([*run("SELECT count(*) FROM t"), FLUSH])
        assert "C b'INSERT 0 1\\x00'" in client.ask([*run("INSERT INTO t VALUES (1)"), FLUSH])
        client.ask([SYNC])
    await crossed.assert_equal({"t": "id"})


async def test_everything_up_to_the_sync_is_ignored_after_an_error_of_ours(
    tmp_path: Path, pg16: Cluster, pg18: Cluster, make_database: Callable[..., str]
) -> None:
    pool = {"pool": {"size": 1, "wait": "200ms"}}
    with (
        crossing(tmp_path, (pg16, pg18), make_database, SCHEMA, pool) as made,
        connected(made) as holder,
        connected(made) as client,
    ):
        client.ask([parse("SELECT 1", name="s"), SYNC])
        for _ in range(2):
            client.ask([bind(name="s"), describe("P"), execute(), SYNC])
        holder.ask([query("BEGIN")])
        assert "'C': '53300'" in client.ask([bind(name="s"), execute(), FLUSH])[0]
        holder.ask([query("COMMIT")])
        assert client.ask([bind(name="s"), describe("P"), execute(), SYNC]) == ["Z b'I'"]
        assert "C b'SELECT 1\\x00'" in client.ask([bind(name="s"), execute(), SYNC])


async def test_what_was_written_while_mirroring_was_off_is_found_also_on_the_way_back(
    crossed: Crossing,
) -> None:
    await crossed.running.switch("new")
    with connected(crossed) as client:
        crossed.running.database["mirror"] = {"enabled": False}
        crossed.running.write()
        # Off is seen by what it voids: the verification, which the gate asks for.
        await crossed.running.wait_for(lambda told: told["verification"]["at"] is None)
        client.ask([query("INSERT INTO t VALUES (1)")])
        crossed.running.database["mirror"] = {"enabled": True}
        crossed.running.write()
        await crossed.running.switch("old")
    await crossed.assert_equal({"t": "id"})
