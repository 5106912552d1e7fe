"""What was PREPAREd follows its session, and reaches no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.session.prepares import Held, Prepares, Replay, deallocate
from proxy.sql.classify import parse
from proxy.sql.statement import Statement


def ran(text: str) -> Statement:
    """Return the one statement of a text as it is noted when it has completed."""
    return replace(parse(text)[0], source=text)


class Session:
    """The statements of one session, and a server that it runs them on."""

    def __init__(self, *texts: str, bytes_max: int = 1000) -> None:
        self.prepares = Prepares(bytes_max=bytes_max)
        self.held: Held = {}
        self.run(*texts)

    def run(self, *texts: str, held: Held | None = None) -> None:
        for text in texts:
            self.prepares.note(ran(text), self.held if held is None else held)

    def missing(self, *texts: str, held: Held | None = None) -> list[list[str]]:
        """Return what must be prepared before each statement of a request."""
        replay = Replay(self.prepares, self.held if held is None else held)
        found = []
        for text in texts:
            found.append([each.source for each in replay.before(ran(text))])
            replay.follow(ran(text))
        return found


STAND_IN = 'PREPARE "a" AS SELECT 1'
A, B = "PREPARE a AS SELECT 7", "PREPARE b (int) AS SELECT $1"


def test_where_it_was_prepared_nothing_is_missing() -> None:
    session = Session(A)
    assert session.missing("EXECUTE a") == [[]]
    assert session.prepares.foreign(session.held) == []


@pytest.mark.parametrize("text", ["EXECUTE a", "EXPLAIN EXECUTE a", "CREATE TABLE t AS EXECUTE a", A])
def test_elsewhere_it_is_prepared_before_what_needs_it_and_nothing_else(text: str) -> None:
    session = Session(A, B)
    assert session.missing("SELECT 1", text, text, held={}) == [[], [A], []]
    assert session.missing("EXECUTE c", held={}) == [[]]


def test_what_a_request_does_to_names_is_followed_within_it() -> None:
    session = Session(A, B)
    other = "PREPARE a AS SELECT 2"
    assert session.missing("DEALLOCATE a", other, "EXECUTE a", "EXECUTE b", held={}) == [
        [STAND_IN],
        [],
        [],
        [B],
    ]
    assert session.missing("DEALLOCATE ALL", "EXECUTE a", held={}) == [[], []]
    assert session.missing("DISCARD ALL", "EXECUTE a", held={}) == [[], []]


def test_the_same_text_of_another_session_is_foreign() -> None:
    first, second = Session(A), Session(A)
    assert second.prepares.foreign(first.held) == ["a"]
    assert Session().prepares.foreign(first.held) == ["a"]
    assert deallocate(['we"ird']) == ['DEALLOCATE "we""ird"']


def test_a_statement_prepared_anew_elsewhere_is_not_the_one_that_was_left_behind() -> None:
    session = Session(A)
    elsewhere: Held = {}
    session.run("DEALLOCATE a", A, held=elsewhere)
    assert session.prepares.foreign(session.held) == ["a"]
    assert session.prepares.foreign(elsewhere) == []


def test_deallocate_ends_one_and_discard_all_all() -> None:
    session = Session(A, B, "DEALLOCATE a")
    assert list(session.prepares.by_name) == list(session.held) == ["b"]
    session.run("DEALLOCATE nope", "DISCARD PLANS", "EXECUTE b")
    assert list(session.prepares.by_name) == ["b"]
    session.run(A, "DISCARD ALL")
    assert not session.prepares.by_name and not session.held


def test_too_much_text_is_not_carried_about() -> None:
    session = Session(A, bytes_max=2 * len(A))
    for _ in range(5):
        session.run("DEALLOCATE a", A)
    assert not session.prepares.is_too_large
    session.run("PREPARE c AS SELECT 1", "PREPARE d AS SELECT 1")
    assert session.prepares.is_too_large
    session.run("DEALLOCATE ALL")
    assert not session.prepares.is_too_large
