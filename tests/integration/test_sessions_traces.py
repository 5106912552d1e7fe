"""What functions, triggers and DO do to a session is the session's own, and nobody else's.

One server connection, and two clients that take turns on it: whatever the first leaves there, the
second would meet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import Cross
from tests.integration.protocol import SYNC, Raw, bind, execute, parse
from tests.integration.test_sessions_moving import Party, one
from tests.integration.through import Crossing

SCHEMA = """
CREATE TABLE public.account (id int PRIMARY KEY, name text);
CREATE SCHEMA tenant;
CREATE TABLE tenant.account (id int PRIMARY KEY, name text);
CREATE TABLE audited (id int PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY REFERENCES parent ON DELETE CASCADE);
CREATE FUNCTION enter(text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN UPDATE account SET name = name WHERE false; SET app.tenant = 'mine'; END $$;
CREATE FUNCTION indirect() RETURNS int LANGUAGE sql AS $$ SELECT enter('x'); SELECT 1 $$;
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM indirect(); RETURN NULL; END $$;
CREATE TRIGGER fires AFTER INSERT OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION fired();
CREATE TRIGGER fires AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION fired();
CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON audited DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fired();
CREATE VIEW shown AS SELECT indirect() AS one;
CREATE VIEW written AS SELECT id FROM audited;
CREATE FUNCTION runs(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$;
CREATE PROCEDURE goes(text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; COMMIT; PERFORM 1 / 0; END $$;
CREATE FUNCTION stable_one() RETURNS text STABLE LANGUAGE plpgsql AS $$
BEGIN RETURN set_config('app.tenant', 'mine', false); END $$;
CREATE OPERATOR ### (FUNCTION = runs, RIGHTARG = text);
INSERT INTO audited VALUES (1), (2);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1);
"""


_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"
_VALUE = "SELECT current_setting('app.tenant', true)"


@pytest.fixture(scope="module")
def narrow(cross: Cross) -> Crossing:
    """A proxy with one connection to the server."""
    return cross(SCHEMA, {"pool": {"size": 1}})


@pytest.fixture
def party(narrow: Crossing) -> Iterator[Party]:
    made = Party(narrow)
    yield made
    made.close()


def pins(party: Party, client: Raw) -> list[str]:
    """Return why sessions are pinned when all that a client did is known."""
    one(client, "SELECT 1")
    return party.pins()


def values(client: Raw, text: str) -> list[str]:
    """Return the rows of an answer."""
    return [line for line in one(client, text) if line.startswith("D ")]


@pytest.mark.parametrize(
    "texts",
    [
        ["SELECT enter('x')"],
        ["SELECT indirect()"],
        ["SELECT * FROM shown"],
        ["SELECT ### $$SET app.tenant = 'mine'$$"],
        ["SELECT stable_one()"],
        ["INSERT INTO audited VALUES (3)"],
        ["WITH w AS (INSERT INTO audited VALUES (4) RETURNING id) SELECT * FROM w"],
        ["INSERT INTO written VALUES (5)"],
        ["DELETE FROM parent"],
        ["BEGIN", "UPDATE audited SET id = id", "COMMIT"],
        ["EXPLAIN ANALYZE SELECT enter('x')"],
        ["CREATE TEMP TABLE made ON COMMIT DROP AS SELECT indirect()"],
        ["DO $$ BEGIN SET app.tenant = 'mine'; END $$"],
        ["CALL goes($$SET app.tenant = 'mine'$$)"],
        ["PREPARE p AS SELECT enter('x')", "EXECUTE p"],
        ["PREPARE p AS SELECT set_config('app.tenant', 'mine', false)", "EXECUTE p"],
        ["BEGIN", "DECLARE c CURSOR FOR SELECT enter('x')", "FETCH c", "COMMIT"],
    ],
)
def test_setting_made_unseen_stays_with_its_session(party: Party, texts: list[str]) -> None:
    first, second = party.client(), party.client()
    for text in texts:
        one(first, text)
    assert values(second, _VALUE) in (["D [b'']"], ["D [None]"])
    assert values(first, _VALUE) == ["D [b'mine']"]
    assert party.pins() == []


@pytest.mark.parametrize(
    ("text", "reason", "probe", "free"),
    [
        ("CREATE TEMP TABLE t (id int)", "temporary object", "SELECT to_regclass('t')", "D [None]"),
        ("SELECT pg_advisory_lock(7)", "session-level advisory lock", _LOCKS, "D [b'0']"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursor WITH HOLD", "SELECT count(*) FROM pg_cursors",
         "D [b'0']"),
        ("PREPARE unseen AS SELECT 1", "SQL-level PREPARE",
         "SELECT count(*) FROM pg_prepared_statements WHERE name = 'unseen'", "D [b'0']"),
        ("LISTEN unseen", "LISTEN", "SELECT count(*) FROM pg_listening_channels()", "D [b'0']"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["DO $do$ BEGIN EXECUTE $${}$$; END $do$", "SELECT runs($${}$$)"])
def test_what_cannot_move_and_was_made_unseen_pins(
    party: Party, form: str, text: str, reason: str, probe: str, free: str
) -> None:
    first, second = party.client(), party.client()
    one(first, form.format(text))
    assert pins(party, first) == [reason]
    first.close()
    assert values(second, probe) == [free]


def test_lock_released_unseen_ends_its_pin(party: Party) -> None:
    first, second = party.client(), party.client()
    one(first, "SELECT runs('SELECT pg_advisory_lock(7)')")
    assert pins(party, first) == ["session-level advisory lock"]
    one(first, "SELECT runs('SELECT pg_advisory_unlock(7)')")
    assert pins(party, first) == []
    assert values(second, "SELECT 1") == ["D [b'1']"]


def test_lock_survives_a_rollback_as_in_postgresql(party: Party) -> None:
    first = party.client()
    for text in ("BEGIN", "SELECT runs('SELECT pg_advisory_lock(7)')", "SELECT 1 / 0", "ROLLBACK"):
        one(first, text)
    assert pins(party, first) == ["session-level advisory lock"]
    first.close()
    assert values(
        party.client(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"
    ) == ["D [b'0']"]


@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO s"])
def test_setting_made_unseen_is_undone_as_in_postgresql(party: Party, end: str) -> None:
    first = party.client()
    for text in ("BEGIN", "SAVEPOINT s", "SELECT enter('x')", end, "COMMIT"):
        one(first, text)
    assert values(first, _VALUE) in (["D [b'']"], ["D [None]"])


def test_setting_reset_unseen_goes_from_its_session(party: Party) -> None:
    first, second = party.client(work_mem="2MB"), party.client()
    one(first, "SET work_mem = '3MB'")
    one(first, "SELECT runs('RESET work_mem')")
    one(second, "SELECT 1")
    assert values(first, "SHOW work_mem") == ["D [b'2MB']"]


def test_role_taken_unseen_stays_with_its_session(party: Party) -> None:
    first, second = party.client(), party.client()
    one(first, "SELECT runs('SET ROLE pg_monitor')")
    assert values(second, "SELECT current_user") == ["D [b'postgres']"]
    assert values(first, "SELECT current_user") == ["D [b'pg_monitor']"]
    one(first, "SELECT runs('SET SESSION AUTHORIZATION pg_monitor')")
    one(first, "RESET ROLE")
    assert values(second, "SELECT session_user") == ["D [b'postgres']"]


def test_setting_whose_name_is_computed_reaches_nobody_else(party: Party) -> None:
    first, second = party.client(), party.client()
    one(first, "SELECT runs('SET app.' || chr(120) || chr(121) || ' = 1')")
    probe = "SELECT current_setting('app.' || chr(120) || chr(121), true)"
    assert values(first, probe) == ["D [b'1']"]
    assert values(second, probe) == ["D [b'']"]


def test_statements_deallocated_unseen_are_parsed_again(party: Party) -> None:
    first, second = party.client(), party.client()
    for client in (first, second):
        client.ask([parse("SELECT 1", name="s"), SYNC])
    one(first, "SELECT runs('DEALLOCATE ALL')")
    for client in (second, first):
        assert "D [b'1']" in client.ask([bind(name="s"), execute(), SYNC])


async def test_write_is_captured_for_the_table_that_its_name_means(party: Party) -> None:
    first = party.client(search_path="tenant")
    one(first, "TRUNCATE public.account")
    for text in (
        "BEGIN",
        "SELECT public.runs('SET LOCAL search_path TO public')",
        "INSERT INTO account VALUES (1)",
        "COMMIT",
    ):
        one(first, text)
    one(first, "INSERT INTO account VALUES (2)")
    one(first, "SELECT public.runs('SET search_path TO public')")
    one(first, "INSERT INTO account VALUES (3)")
    await party.through.assert_equal({"account": "id"})
    assert party.through.rows(1, "account", "id") == "1\t\\N\n3\t\\N\n"
