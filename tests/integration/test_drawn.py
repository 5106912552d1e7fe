"""lastval() and currval() tell what their own session drew, or nothing: never what another one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.errors import ObjectNotInPrerequisiteState

from tests.integration.through import Cross, Crossing

SCHEMA = """
CREATE TABLE orders (id serial PRIMARY KEY, note text);
CREATE TABLE lines (id serial PRIMARY KEY, note text);
ALTER SEQUENCE lines_id_seq RESTART 1000;
"""
DRAW = "INSERT INTO orders (note) VALUES ('mine') RETURNING id"
TOLD = "SELECT lastval(), currval('orders_id_seq')"
Session = Callable[[str], Any]


@pytest.fixture(scope="module")
def through(cross: Cross) -> Crossing:
    """A proxy with two server connections."""
    return cross(SCHEMA, {"pool": {"size": 2}})


@pytest.fixture(params=[False, True], ids=["simple", "prepared"])
def join(through: Crossing, request: pytest.FixtureRequest) -> Iterator[Callable[[], Session]]:
    """Return a function that makes one more client; a client runs a text and returns the first row."""
    with ExitStack() as stack:

        def joined() -> Session:
            client = stack.enter_context(psycopg.connect(through.url, autocommit=True))
            client.prepare_threshold = None

            def run(text: str) -> Any:
                cursor = client.execute(text, prepare=request.param)
                return cursor.fetchone() if cursor.description else None

            return run

        yield joined


def test_own_value_is_told_whoever_writes_in_between(join: Callable[[], Session]) -> None:
    one, other = join(), join()
    for _ in range(3):
        (drawn,) = one(DRAW)
        assert one(TOLD) == (drawn, drawn)  # from the first time on the server stays its own
        assert other(DRAW)[0] > drawn
        assert one(TOLD) == (drawn, drawn)


def test_own_value_is_told_after_a_read(join: Callable[[], Session]) -> None:
    """A read leaves its server in another mode, in which a write would rather have another server."""
    one, other = join(), join()
    other("BEGIN")
    other(DRAW)
    (drawn,) = one(DRAW)
    other("COMMIT")
    one("SELECT count(*) FROM orders")
    one("SELECT count(*) FROM orders")
    assert one(TOLD) == (drawn, drawn)


def test_value_that_another_session_has_run_over_is_an_error_and_not_theirs(
    join: Callable[[], Session],
) -> None:
    keeper, one, other = join(), join(), join()
    keeper(DRAW)
    keeper(TOLD)  # keeps one of the two servers; the others share one
    one(DRAW)
    other(DRAW)
    with pytest.raises(ObjectNotInPrerequisiteState, match="not yet defined in this session"):
        one(TOLD)
    (drawn,) = one(DRAW)
    assert one(TOLD) == (drawn, drawn)


def test_who_drew_nothing_is_told_nothing(join: Callable[[], Session]) -> None:
    keeper, one, other = join(), join(), join()
    keeper(DRAW)
    keeper(TOLD)
    other("INSERT INTO lines (note) VALUES ('theirs')")
    for text in ("SELECT lastval()", "SELECT currval('lines_id_seq')"):
        with pytest.raises(ObjectNotInPrerequisiteState):
            one(text)
    one("BEGIN")
    (drawn,) = one(DRAW)
    assert one(TOLD) == (drawn, drawn)
    with pytest.raises(ObjectNotInPrerequisiteState):
        one("SELECT currval('lines_id_seq')")  # drawn on this server, and not by us
    one("ROLLBACK")


def test_within_a_transaction_nothing_is_kept_from_others(join: Callable[[], Session]) -> None:
    clients = [join() for _ in range(4)]  # twice as many as servers
    for _ in range(2):
        for client in clients:
            client("BEGIN")
            (drawn,) = client(DRAW)
            assert client(TOLD) == (drawn, drawn)
            client("COMMIT")


def test_discard_gives_the_server_back(join: Callable[[], Session]) -> None:
    clients = [join() for _ in range(3)]
    for client in clients:
        (drawn,) = client(DRAW)
        assert client(TOLD) == (drawn, drawn)
        client("DISCARD SEQUENCES")
    with pytest.raises(ObjectNotInPrerequisiteState):
        clients[0]("SELECT lastval()")


def test_writing_often_tells_nobody_what_others_drew(join: Callable[[], Session]) -> None:
    """What is written again and again takes the fast lane."""
    keeper, one, other = join(), join(), join()
    keeper(DRAW)
    keeper(TOLD)
    for _ in range(3):
        one("INSERT INTO orders (note) VALUES ('mine')")
        other("INSERT INTO lines (note) VALUES ('theirs')")
    one("INSERT INTO orders (note) VALUES ('mine')")
    with pytest.raises(ObjectNotInPrerequisiteState):
        one("SELECT currval('lines_id_seq')")
