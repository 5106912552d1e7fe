"""A simple query in the words the server gets, and every position in it back in the client's."""

from __future__ import annotations

import pytest

from proxy.server.forms import Forms
from proxy.server.translate import Shape, form_of, hidden_execution, positions_behind, simple
from proxy.session.replies import Step, Transcript
from proxy.session.statements import NO_TYPES, Prepared
from proxy.wire import messages
from tests.unit.server.sample import PATH, bind, frames, judged, make_judge, scanned
from tests.unit.wire.sample import READY, ROW, column, complete, description, failure


def translated(text: str) -> tuple[str, Transcript]:
    """Return what is sent for a simple query, and the answers it will bring."""
    judge = make_judge()
    found = judge.judge(text, PATH)
    payload, transcript = simple(text, found, Forms(judge).of(text, found, PATH))
    (frame,) = frames(payload)
    return messages.read_query(frame.body).decode(errors="surrogateescape"), transcript


TEXTS = [
    "DELETE FROM a WHERE nowhere = 1",
    "  DELETE FROM a WHERE nowhere = 1 ; ",
    "SELECT 10; UPDATE a SET nowhere = 'ü'; DELETE FROM b",
    "/* é */ INSERT INTO a (nowhere) VALUES (1); TRUNCATE b; SELECT nowhere",
    "SELECT writes(); DELETE FROM nowhere",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_at_any_place_points_to_the_same_place_in_the_clients_text(text: str) -> None:
    sent, _ = translated(text)
    for statement in judged(text).statements:
        own = text[statement.start : statement.end]
        assert sent.count(own) == 1
        for offset in range(len(own)):
            _, transcript = translated(text)
            error = failure("42703", P=str(sent.index(own) + offset + 1))
            fields = messages.read_error(transcript.feed(*scanned(error)).output[5:])
            assert fields["P"] == str(statement.start + offset + 1)


def test_an_error_in_what_we_added_points_nowhere() -> None:
    text = "DELETE FROM a"
    sent, _ = translated(text)
    for position in (1, sent.index(text), sent.index(text) + len(text) + 2, len(sent)):
        _, transcript = translated(text)
        output = transcript.feed(*scanned(failure("42703", P=str(position)))).output
        assert "P" not in messages.read_error(output[5:])


def test_the_client_sees_the_answers_of_its_own_statements_alone() -> None:
    text = "SELECT 10; DELETE FROM a; TRUNCATE b; SELECT writes()"
    sent, transcript = translated(text)
    tags = {
        "SELECT 10": "SELECT 1",
        "WITH": "INSERT 0 2",
        "TRUNCATE": "TRUNCATE TABLE",
        "SELECT writes": "SELECT 1",
    }
    stream = b""
    for part in sent.split("\n;"):
        tag = next((tag for own, tag in tags.items() if part.startswith(own)), "SELECT 99")
        stream += complete(tag)
    assert stream.count(complete("SELECT 99")) == 3  # an entry before TRUNCATE, a watch around the call
    tags["WITH"] = "DELETE 2"
    assert transcript.feed(*scanned(stream + READY)).output == b"".join(map(complete, tags.values())) + READY
    assert len(transcript) == 0


def test_only_what_the_session_must_know_is_reported() -> None:
    _, transcript = translated("SET a.b TO 1; SELECT 1; COMMIT")
    stream = complete("SET") + ROW + complete("SELECT 1") + complete("COMMIT") + READY
    done = transcript.feed(*scanned(stream)).completed
    assert [each.statement.tag for each in done if each.statement] == ["SET", "COMMIT"]


def test_bytes_that_are_no_utf8_arrive_as_they_came() -> None:
    """A client with another encoding: the parser does not understand it, so it is watched."""
    text = b"INSERT INTO a VALUES ('\xe9')".decode(errors="surrogateescape")
    sent, _ = translated(text)
    assert text in sent and sent.encode(errors="surrogateescape").count(b"\xe9") == 1


def test_a_comment_at_the_end_of_a_statement_hides_nothing_of_ours() -> None:
    sent, _ = translated("SELEC 1 -- why")
    assert sent.index("watch_end") > sent.index("\n", sent.index("-- why"))


def test_a_write_that_returns_has_the_clients_columns() -> None:
    text = "DELETE FROM a RETURNING id"
    found = judged(text)
    shape = Shape(1, description(column(b"id", 23)))
    form = form_of(text, found.statements[0], found.plans[0], shape, 160000)
    assert (form.tag, form.shape) == ("DELETE", shape.row_description)
    assert text in form.text and form.text.startswith("WITH ")


def test_positions_behind_a_prefix() -> None:
    position = positions_behind(10, 5)
    assert [position(sent) for sent in (10, 11, 15, 16, 17)] == [None, 1, 5, 6, None]


@pytest.mark.parametrize("is_parsed", [False, True])
def test_a_hidden_statement_has_a_portal_of_its_own_and_leaves_none(is_parsed: bool) -> None:
    """The client's unnamed portal may be in use."""
    ours = Prepared(b"SELECT 1", NO_TYPES)
    out, owed = hidden_execution(ours, is_parsed=is_parsed)
    codes = [chr(frame.code) for frame in frames(*out)]
    assert codes == (["B", "E", "C"] if is_parsed else ["P", "B", "E", "C"])
    assert bind(ours.server_name, portal=b"crossfade") in out
    assert all(each.is_hidden for each in owed)
    steps = [Step.BIND, Step.EXECUTE, Step.CLOSE]
    assert [each.step for each in owed] == (steps if is_parsed else [Step.PARSE, *steps])
    assert is_parsed or owed[0].server_name == ours.server_name
