"""Sessions change servers, and neither lose what is theirs nor meet what is another's.

Each test takes away the server that would be lent next (`Disturber`) where that matters.
"""

# ruff: noqa: E501 (a list of statements reads better in one line each)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.protocol import (
    SYNC,
    Disturber,
    Message,
    Raw,
    bind,
    close,
    describe,
    execute,
    parse,
    query,
)  # fmt: skip
from tests.integration.through import Crossing
from tests.running import DATABASE


class Party:
    """Clients of one proxy."""

    def __init__(self, through: Crossing) -> None:
        self.through = through
        self._clients: list[Raw] = []

    def client(self, **parameters: str) -> Raw:
        self._clients.append(Raw(self.through.running.port, DATABASE, **parameters))
        return self._clients[-1]

    def pins(self) -> list[str]:
        """Return why sessions are pinned now."""
        told = self.through.running.status()
        return [each["reason"] for each in told["clients"]["pinned"]]

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()


@pytest.fixture
def party(through: Crossing) -> Iterator[Party]:
    made = Party(through)
    yield made
    made.close()


def codes(lines: list[str]) -> str:
    return "".join(line[0] for line in lines)


def failure(lines: list[str]) -> str:
    """Return the SQLSTATE of the one error in an answer, or nothing."""
    found = [line.split("'C': '")[1][:5] for line in lines if line.startswith("E ")]
    return found[0] if found else ""


def one(client: Raw, text: str) -> list[str]:
    return client.ask([query(text)])


# Statements by name.


async def test_no_client_reaches_what_another_prepared_in_sql(party: Party) -> None:
    first, second = party.client(), party.client()
    one(first, "PREPARE mine AS SELECT 'secret'")
    assert failure(one(second, "EXECUTE mine")) == "26000"
    one(first, "SELECT 1")
    assert failure(one(second, "DO $$ BEGIN EXECUTE 'EXECUTE mine'; END $$")) == "26000"
    one(first, "EXECUTE mine")
    seen = one(second, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'")
    assert "D [b'0']" in seen
    one(first, "EXECUTE mine")
    assert codes(one(second, "PREPARE mine AS SELECT 'other'")) == "CZ"
    assert "D [b'secret']" in one(first, "EXECUTE mine")
    assert "D [b'other']" in one(second, "EXECUTE mine")
    assert codes(one(first, "DEALLOCATE mine")) == "CZ"
    assert "D [b'other']" in one(second, "EXECUTE mine")
    assert party.pins() == []


# Statements that a table has outgrown. In each case the server parsed it before the ALTER.

_ALTER = "ALTER TABLE account ADD COLUMN grown int"
_SHRINK = "ALTER TABLE account DROP COLUMN grown"
_TEXT = "SELECT * FROM account"
_FAST = [bind(name="s"), describe("P"), execute(), SYNC]
_UNTOLD = [bind(name="s"), execute(), SYNC]


@pytest.fixture
def grown(party: Party) -> Iterator[Raw]:
    """A client whose statement `s` is known to the server, and whose table then grows."""
    client = party.client()
    assert failure(client.ask([parse(_TEXT, name="s"), describe("S", "s"), SYNC])) == ""
    assert failure(client.ask(_FAST)) == failure(client.ask(_FAST)) == ""
    for _ in range(2):  # on the server for transactions, too, where an earlier test may have left it outgrown
        one(client, "BEGIN")
        told = failure(client.ask(_FAST))
        one(client, "COMMIT")
    assert told == ""
    one(party.client(), _ALTER)
    yield client
    client.socket.close()
    one(party.client(), _SHRINK)


def test_statement_that_is_described_anew_is_parsed_anew(grown: Raw) -> None:
    seen = grown.ask(_FAST)
    assert codes(seen) == "2TCZ" and "grown: " in seen[1]
    assert codes(grown.ask(_FAST)) == "2TCZ"


def test_statement_whose_shape_the_client_remembers_fails_as_in_postgresql(grown: Raw) -> None:
    assert failure(grown.ask(_UNTOLD)) == "0A000"
    # What drivers do then: close it and parse it again, which must not be answered from memory.
    again: list[Message] = [close("S", "s"), parse(_TEXT, name="s"), describe("S", "s"), SYNC]
    assert "grown: " in grown.ask(again)[3]
    assert codes(grown.ask(_UNTOLD)) == "2CZ"


def test_statement_parsed_after_the_change_never_fails(grown: Raw, party: Party) -> None:
    late = party.client()
    assert "grown: " in late.ask([parse(_TEXT, name="t"), describe("S", "t"), SYNC])[2]
    assert codes(late.ask([bind(name="t"), execute(), SYNC])) == "2CZ"


def test_statement_parsed_after_the_change_meets_a_server_that_parsed_it_before(party: Party) -> None:
    early, late = party.client(), party.client()
    with Disturber(party.client) as disturber:
        for _ in range(3):
            early.ask([close("S", "s"), parse(_TEXT, name="s"), *_FAST])
            disturber.disturb()
        one(party.client(), _ALTER)
        late.ask([parse(_TEXT, name="t"), SYNC])
        for _ in range(6):
            disturber.disturb()
            assert codes(late.ask([bind(name="t"), execute(), SYNC])) == "2CZ"
    one(party.client(), _SHRINK)


def test_in_a_transaction_a_statement_that_another_session_had_before_the_change_does_not_fail(
    grown: Raw, party: Party
) -> None:
    late = party.client()
    one(late, "BEGIN")
    assert codes(late.ask([parse(_TEXT, name="t"), SYNC])) == "1Z"
    assert codes(late.ask([bind(name="t"), execute(), SYNC])) == "2CZ"
    assert codes(one(late, "COMMIT")) == "CZ"
    one(grown, "BEGIN")
    assert codes(grown.ask(_FAST)) == "2TCZ"
    one(grown, "COMMIT")


def test_server_that_has_a_statement_from_after_the_change_does_not_hide_it(party: Party) -> None:
    """The change is made past the proxy, so that nobody has told it."""
    early, late = party.client(), party.client()
    formats = Message("B", b"\0s\0\0\0\0\0" + b"\0\3" + bytes(6))  # for three columns, as pgjdbc asks
    wide = [parse("SELECT * FROM past", name="s"), describe("S", "s"), SYNC]
    one(early, "CREATE TABLE past (a int PRIMARY KEY, b int, c text)")
    assert failure(early.ask(wide)) == ""
    party.through.alter("ALTER TABLE past ADD COLUMN d int")
    with Disturber(party.client) as disturber:
        for _ in range(3):
            disturber.disturb()
            late.ask([close("S", "s"), *wide])
            assert failure(early.ask([formats, execute(), SYNC])) == "0A000"
            assert failure(early.ask(_UNTOLD)) == "0A000"
    assert failure(early.ask([close("S", "s"), *wide])) == ""
    assert codes(early.ask(_UNTOLD)) == "2CZ"
    one(early, "DROP TABLE past")


def test_in_a_transaction_the_error_goes_through_and_a_savepoint_saves_it(grown: Raw) -> None:
    one(grown, "BEGIN; SAVEPOINT here")
    assert failure(grown.ask(_UNTOLD)) == "0A000"
    one(grown, "ROLLBACK TO here")
    again = [close("S", "s"), parse(_TEXT, name="s"), *_FAST]
    assert codes(grown.ask(again)) == "312TCZ"
    assert codes(one(grown, "COMMIT")) == "CZ"
    assert codes(grown.ask(_FAST)) == "2TCZ"


# Pins.

_ENDS = {
    "DROP TABLE": (["CREATE TEMP TABLE t1 (a int); CREATE TEMP TABLE t2 (a int)"], ["DROP TABLE t1"], "DROP TABLE t2"),
    "DROP VIEW": (["CREATE TEMP VIEW v AS SELECT 1"], [], "DROP VIEW v"),
    "DROP FUNCTION": (["CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"], [], "DROP FUNCTION pg_temp.f"),
    "DISCARD TEMP": (["CREATE TEMP TABLE t (a int)"], [], "DISCARD TEMP"),
    "unlock": (["SELECT pg_advisory_lock(1), pg_advisory_lock(2)"], ["SELECT pg_advisory_unlock(1)"], "SELECT pg_advisory_unlock(2)"),
    "unlock all": (["SELECT pg_advisory_lock(3)"], ["SELECT pg_advisory_unlock(4)"], "SELECT pg_advisory_unlock_all()"),
    "CLOSE": (["DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DECLARE d CURSOR WITH HOLD FOR SELECT 2"], ["CLOSE c"], "CLOSE d"),
    "CLOSE ALL": (["DECLARE c CURSOR WITH HOLD FOR SELECT 1"], [], "CLOSE ALL"),
    "DISCARD ALL": (["CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(5)"], ["BEGIN; DISCARD TEMP; ROLLBACK"], "DISCARD ALL"),
    "rollback": (["BEGIN; CREATE TEMP TABLE t (a int)"], ["SELECT 1"], "ROLLBACK"),
    "failure": (["CREATE TEMP TABLE t (a int)"], ["DROP TABLE t; SELECT 1 / 0"], "DROP TABLE t"),
}  # fmt: skip


async def test_session_is_pinned_for_as_long_as_it_must_be(party: Party) -> None:
    clients = {name: party.client() for name in _ENDS}
    for name, (pinning, keeping, _) in _ENDS.items():
        for text in (*pinning, *keeping):
            one(clients[name], text)
    # An open transaction keeps its server anyway, and is not yet known to need it longer.
    assert len(party.pins()) >= len(_ENDS) - 1
    for name, (*_, ending) in _ENDS.items():
        assert codes(one(clients[name], ending)).endswith("Z"), name
    await party.through.running.wait_for(lambda told: not told["clients"]["pinned"])
    assert all("D [b'1']" in one(client, "SELECT 1") for client in clients.values())
    assert party.pins() == []


async def test_temporary_table_that_is_gone_lets_captured_writes_be_captured_again(party: Party) -> None:
    client = party.client()
    one(client, "CREATE TEMP TABLE account (id bigint, email text)")
    one(client, "INSERT INTO account VALUES (1, 'hidden')")
    one(client, "DROP TABLE account")
    one(client, "INSERT INTO account (email) VALUES ('a@x') RETURNING id")
    await party.through.assert_equal({"account": "id"})


# Settings.


async def test_settings_whose_value_is_computed_follow(party: Party) -> None:
    client = party.client()
    with Disturber(party.client) as disturber:
        one(client, "SET TIME ZONE INTERVAL '-03:30' HOUR TO MINUTE")
        expected = one(client, "SHOW TimeZone")
        disturber.disturb()
        assert one(client, "SHOW TimeZone") == expected
        assert one(party.client(), "SHOW TimeZone") != expected


_TRACES = (
    "SET my.own = 'secret'", "SET search_path = pg_catalog", "SET ROLE pg_read_all_data", "SET TimeZone = 'Asia/Tokyo'",
    "SET statement_timeout = '7s'", "SET client_encoding = 'LATIN1'", "SET SESSION AUTHORIZATION pg_read_all_data",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT set_config('DateStyle', 'German', false)",
    "BEGIN; SET LOCAL my.own = 'local'; SET work_mem = '1MB'; COMMIT", "SET my.own = 'undone'; SELECT 1 / 0", "LISTEN news",
    "CREATE TEMP TABLE secret (a int)", "SELECT pg_advisory_lock(77)", "DECLARE secret CURSOR WITH HOLD FOR SELECT 1", "PREPARE secret AS SELECT 1",
)  # fmt: skip
_SEEN = (
    "SELECT current_user, session_user, nullif(current_setting('my.own', true), ''), current_setting('search_path'),"
    " current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('client_encoding'),"
    " current_setting('default_transaction_isolation'), current_setting('DateStyle'), current_setting('work_mem'),"
    " (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_class WHERE relname = 'secret'"
    " AND relnamespace = pg_my_temp_schema()), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    " AND pid = pg_backend_pid()), (SELECT count(*) FROM pg_cursors WHERE name = 'secret'),"
    " (SELECT count(*) FROM pg_prepared_statements WHERE name = 'secret')"
)


async def test_no_trace_of_a_client_is_seen_by_the_next(party: Party) -> None:
    next_one = party.client()
    clean = one(next_one, _SEEN)
    assert failure(clean) == ""
    for trace in _TRACES:
        client = party.client()
        one(client, trace)
        assert one(next_one, _SEEN) == clean, trace
        one(client, "SELECT 1")
        assert one(next_one, _SEEN) == clean, trace
        client.close()
        assert one(party.client(), _SEEN) == clean, f"{trace}, then closed"
