"""What a client gets of an answer, and when a request can still be run elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given

from proxy.server.answer import Answer, Outcome, rerun_for
from proxy.server.translate import Shape
from proxy.session.replies import Owed, Renamed, Step, Transcript
from proxy.session.statements import Prepared
from proxy.sql.classify import parse as parsed
from proxy.wire import messages
from proxy.wire.frames import ServerScanner, encode
from tests.unit.server.sample import SYNC, frames, parse
from tests.unit.wire.sample import (
    NOTICE,
    NOTIFICATION,
    PARAMETER,
    READY,
    ROW,
    column,
    complete,
    cuts,
    description,
    failure,
    pieces,
)

IDLE, FAILED = ord("I"), ord("E")
DESCRIBED = encode(b"T", description(column(b"id", 1)))
EARLY = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + DESCRIBED
COPY_IN = encode(b"G", b"\0\0\0")
READ_ONLY, FENCED = failure("25006"), failure("CF001")
UNNAMED = b""


def receive(
    answer: Answer, stream: bytes, at: list[int] | None = None
) -> tuple[list[Outcome], bytes, list[int]]:
    """Give an answer its bytes in pieces; return the outcomes that matter, the output, what is ready."""
    scanner = ServerScanner()
    outcomes, output, readies = [], b"", []
    for piece in pieces(stream, at or []):
        outcome, out, ready = answer.receive(*scanner.feed(piece))
        output += out
        if outcome is not Outcome.RELAYED:
            outcomes.append(outcome)
        if ready is not None:
            readies.append(ready)
    return outcomes, output, readies


def expecting(
    *owed: Owed, can_rerun: bool = False, is_read_only: bool = True, is_part: bool = False
) -> Answer:
    """Return an answer whose body comes next, along a transcript if anything is owed."""
    answer, transcript = Answer(), None
    if owed:
        transcript = Transcript()
        for each in owed:
            transcript.add(each)
    answer.expect(transcript, is_part=is_part, can_rerun=can_rerun, is_read_only=is_read_only)
    return answer


# Relaying.


@pytest.mark.parametrize("can_rerun", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        EARLY + ROW + ROW + complete("SELECT 2"),
        EARLY + complete("INSERT 0 1"),
        messages.PARSE_COMPLETE,
        NOTICE + PARAMETER + NOTIFICATION + EARLY + ROW + complete("SELECT 1"),
        EARLY + ROW + failure("22012"),
        EARLY + failure("22012"),
        b"",
    ],
)
@given(at=cuts)
def test_an_answer_is_relayed_byte_for_byte_however_it_is_chunked(
    can_rerun: bool, body: bytes, at: list[int]
) -> None:
    answer = expecting(can_rerun=can_rerun)
    for turn in range(2):  # the same object serves the next request
        assert receive(answer, body + READY, at) == ([], body + READY, [IDLE])
        has_failed = body.endswith(failure("22012"))
        assert answer.has_failed == has_failed
        assert answer.take_forgotten() == ([UNNAMED] if has_failed else []), turn
        answer.expect(None, is_part=False, can_rerun=can_rerun, is_read_only=True)


@pytest.mark.parametrize("behind", [NOTIFICATION, PARAMETER, NOTICE])
@pytest.mark.parametrize("owed", [(), (Owed(Step.EXECUTE, tag="INSERT"), Owed(Step.READY))])
def test_what_arrives_right_behind_the_end_does_not_hide_it(behind: bytes, owed: tuple[Owed, ...]) -> None:
    """A notification, or a parameter that an administrator changed, in the same packet."""
    stream = complete("INSERT 0 1") + READY + behind
    assert receive(expecting(*owed), stream) == ([], stream, [IDLE])


@given(cuts)
def test_a_transcript_is_walked(at: list[int]) -> None:
    (statement,) = parsed("SET a.b TO 1")
    answer = expecting(
        Owed(Step.EXECUTE, is_hidden=True),
        Owed(Step.EXECUTE, tag="UPDATE", statement=statement),
        Owed(Step.READY),
        can_rerun=True,
    )
    stream = ROW + complete("SELECT 1") + complete("INSERT 0 3") + READY
    assert receive(answer, stream, at) == ([], complete("UPDATE 3") + READY, [IDLE])
    assert answer.take_completed() == [statement]
    assert answer.take_completed() == []


@pytest.mark.parametrize("owed", [(), (Owed(Step.EXECUTE),)])
def test_copy_in_is_noticed(owed: tuple[Owed, ...]) -> None:
    answer = expecting(*owed, can_rerun=True)
    assert receive(answer, COPY_IN) == ([], COPY_IN, [])
    assert answer.is_copy_in


def test_a_part_is_answered_along_the_transcript_that_its_rest_continues() -> None:
    before = Prepared(b"SELECT 1", b"\0\0")
    answer = expecting(Owed(Step.PARSE, renamed=Renamed(b"a", before)), is_part=True)
    transcript = answer.transcript_of_part()
    assert transcript is not None
    assert receive(answer, failure("42601")) == ([Outcome.PART], failure("42601"), [])
    assert answer.is_ignored and not answer.owes_part
    assert answer.is_part and answer.take_undone() == []
    transcript.add(Owed(Step.READY))
    answer.expect(transcript, is_part=False, can_rerun=False)
    assert answer.transcript_of_part() is None
    assert receive(answer, READY) == ([], READY, [IDLE])
    assert answer.take_undone() == [Renamed(b"a", before)]


# Running elsewhere.


@pytest.mark.parametrize(
    ("sqlstate", "is_read_only", "outcome"),
    [
        ("25006", True, Outcome.READ_ONLY),
        ("25006", False, None),  # the client's own wish
        ("CF001", True, Outcome.FENCED),
        ("CF001", False, Outcome.FENCED),
        ("40001", True, None),
    ],
)
def test_which_refusals_are_run_again(sqlstate: str, is_read_only: bool, outcome: Outcome | None) -> None:
    assert rerun_for(sqlstate, is_read_only=is_read_only) is outcome


@pytest.mark.parametrize(("error", "outcome"), [(READ_ONLY, Outcome.READ_ONLY), (FENCED, Outcome.FENCED)])
@pytest.mark.parametrize("before", [b"", EARLY, NOTICE + EARLY + PARAMETER])
@given(at=cuts)
def test_a_refusal_the_client_has_seen_nothing_of_is_swallowed_whole(
    error: bytes, outcome: Outcome, before: bytes, at: list[int]
) -> None:
    answer = expecting(can_rerun=True)
    assert receive(answer, before + error + READY, at) == ([outcome], b"", [])
    assert not answer.has_failed
    answer.expect(None, is_part=False, can_rerun=True)
    again = EARLY + ROW + complete("SELECT 1") + READY
    assert receive(answer, again, at) == ([], again, [IDLE])


@given(cuts)
def test_a_refusal_behind_rows_reaches_the_client_if_one_of_them_has(at: list[int]) -> None:
    answer = expecting(can_rerun=True)
    assert receive(answer, EARLY + ROW, at) == ([], EARLY + ROW, [])
    assert receive(answer, FENCED + READY, at) == ([], FENCED + READY, [IDLE])
    assert receive(expecting(can_rerun=True), EARLY + ROW + FENCED + READY) == ([Outcome.FENCED], b"", [])


@pytest.mark.parametrize("before", [b"", EARLY])
@given(at=cuts)
def test_what_has_committed_is_not_run_a_second_time(before: bytes, at: list[int]) -> None:
    """BEGIN; INSERT; COMMIT; INSERT in one string, and the fence comes behind the COMMIT."""
    stream = before + complete("BEGIN") + complete("INSERT 0 1") + complete("COMMIT") + FENCED + READY
    assert receive(expecting(can_rerun=True), stream, at) == ([], stream, [IDLE])


def test_a_refusal_inside_a_transaction_reaches_the_client() -> None:
    stream = FENCED + messages.ready(FAILED)
    assert receive(expecting(can_rerun=False), stream) == ([], stream, [FAILED])


def test_what_comes_before_the_first_row_is_held_until_it_is_certain() -> None:
    answer = expecting(can_rerun=True)
    assert receive(answer, messages.BIND_COMPLETE) == ([], b"", [])
    assert receive(answer, DESCRIBED + NOTICE) == ([], b"", [])
    assert receive(answer, ROW) == ([], messages.BIND_COMPLETE + DESCRIBED + NOTICE + ROW, [])
    assert not answer.can_rerun


def test_not_more_than_so_much_is_held() -> None:
    answer = expecting(can_rerun=True)
    notice = encode(b"N", bytes(40_000))
    assert receive(answer, notice) == ([], b"", [])
    assert receive(answer, notice) == ([], notice + notice, [])
    assert receive(answer, READ_ONLY + READY) == ([], READ_ONLY + READY, [IDLE])


@given(cuts)
def test_a_statement_parsed_before_the_refusal_is_on_that_server(at: list[int]) -> None:
    """Else it would be parsed there a second time, under the same name: 42P05."""
    answer = expecting(
        Owed(Step.PARSE, server_name=b"cf_done"),
        Owed(Step.BIND),
        Owed(Step.EXECUTE),
        Owed(Step.PARSE, server_name=b"cf_skipped"),
        Owed(Step.PARSE, synthetic=messages.PARSE_COMPLETE),
        Owed(Step.READY),
        can_rerun=True,
    )
    stream = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + FENCED + READY
    assert receive(answer, stream, at) == ([Outcome.FENCED], b"", [])
    assert answer.take_forgotten() == [b"cf_skipped", UNNAMED]
    assert answer.take_undone() == []


# Our own questions.


@given(cuts)
def test_the_answer_to_our_settings_is_never_seen(at: list[int]) -> None:
    answer = Answer()
    assert answer.hide("") == b""
    assert answer.hide("SET a TO 1") == messages.query(b"SET a TO 1")
    answer.expect(None, is_part=False, can_rerun=True)
    stream = complete("SET") + PARAMETER + READY
    assert receive(answer, stream + EARLY + ROW + READY, at) == ([], EARLY + ROW + READY, [IDLE])


def test_what_the_server_shall_drop_is_dropped_before_our_settings() -> None:
    closes = messages.close_statement(b"cf_a") + messages.close_statement(b"cf_b")
    assert Answer().hide("SET a TO 1", [b"cf_a", b"cf_b"]) == closes + messages.query(b"SET a TO 1")
    answer = Answer()
    assert answer.hide("", [b"cf_a", b"cf_b"]) == closes + SYNC
    answer.expect(None, is_part=False, can_rerun=True)
    stream = messages.CLOSE_COMPLETE * 2 + READY
    assert receive(answer, stream + EARLY + ROW + READY) == ([], EARLY + ROW + READY, [IDLE])


def test_settings_that_are_refused_end_the_session() -> None:
    answer = Answer()
    answer.hide("SET a TO 1")
    answer.expect(None, is_part=False, can_rerun=True)
    assert receive(answer, failure("42704") + READY) == ([Outcome.BROKEN], b"", [])


@given(cuts)
def test_the_shape_is_learned_and_not_relayed(at: list[int]) -> None:
    answer = Answer()
    asked = answer.ask_shape(Prepared(b"INSERT INTO a DEFAULT VALUES RETURNING id", b"\0\0"), 0)
    assert asked == b"".join(
        [parse(b"", "INSERT INTO a DEFAULT VALUES RETURNING id"), messages.describe_statement(b""), SYNC]
    )
    stream = messages.PARSE_COMPLETE + encode(b"t", b"\0\0") + DESCRIBED + READY
    assert receive(answer, stream, at) == ([Outcome.SHAPED], b"", [])
    assert answer.shape == Shape(1, DESCRIBED[5:])


def test_after_our_settings_the_shape() -> None:
    answer = Answer()
    answer.hide("SET a TO 1")
    answer.ask_shape(Prepared(b"DELETE FROM a RETURNING *", b"\0\0"), 0)
    stream = complete("SET") + READY + messages.PARSE_COMPLETE + DESCRIBED + READY
    assert receive(answer, stream) == ([Outcome.SHAPED], b"", [])


def test_a_statement_that_cannot_be_described_fails_as_if_it_had_been_run() -> None:
    """Its error points into the client's text, in which it begins behind the first ten characters."""
    answer = Answer()
    answer.ask_shape(Prepared(b"DELETE FROM nowhere RETURNING *", b"\0\0"), 10)
    outcomes, output, readies = receive(answer, failure("42P01", P="13") + READY)
    assert (outcomes, readies) == ([Outcome.SHAPE_REFUSED], [IDLE])
    assert messages.read_error(frames(output)[0].body)["P"] == "23"


def test_a_text_of_several_statements_only_cannot_be_described() -> None:
    answer = Answer()
    answer.ask_shape(Prepared(b"SELEC; T", b"\0\0"), 0)
    assert receive(answer, failure("42601", R="exec_parse_message") + READY) == ([Outcome.SHAPED], b"", [])
    assert answer.shape == Shape(0, b"")


@given(cuts)
def test_values_are_read_however_their_row_is_chunked(at: list[int]) -> None:
    answer = Answer()
    assert answer.ask_values(["one()", "two()"]) == messages.query(b"SELECT one(), two()")
    row = encode(b"D", b"\0\2\0\0\0\5hello\xff\xff\xff\xff")
    stream = DESCRIBED + NOTICE + row + complete("SELECT 1") + messages.ready(ord("T"))
    assert receive(answer, stream, at) == ([Outcome.VALUES], b"", [ord("T")])
    assert answer.values == ["hello", None]
    assert answer.take_forgotten() == [UNNAMED]


def test_values_that_could_not_be_asked_are_none_and_the_next_question_starts_afresh() -> None:
    answer = Answer()
    answer.ask_values(["a.b"])
    assert receive(answer, failure("42501") + READY) == ([Outcome.VALUES], b"", [IDLE])
    assert answer.values == []
    answer.ask_values(["a.b"])
    receive(answer, DESCRIBED + ROW + complete("SELECT 1") + READY)
    assert answer.values == ["x"]


def test_a_request_that_failed_unsent_has_failed() -> None:
    answer = expecting(can_rerun=True)
    answer.expect_nothing()
    assert answer.has_failed and not (answer.can_rerun or answer.is_part)
