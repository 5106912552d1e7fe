"""What a client sees of an answer: its own statements as it wrote them, and nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.replies import FENCED_SQLSTATE, Owed, Progress, Renamed, Step, Transcript, rewritten
from proxy.session.replies import with_formats as with_formats_of
from proxy.session.statements import Prepared
from proxy.sql.classify import parse
from proxy.sql.statement import Kind
from proxy.wire import messages
from proxy.wire.frames import ServerScanner, encode
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

(WRITE,) = parse("INSERT INTO t VALUES (1)")
(COMMIT,) = parse("COMMIT")
COPY_IN = encode(b"G", b"\0\0\0")
PARAMETERS, NO_DATA = encode(b"t", b"\0\0"), messages.NO_DATA


@dataclass(frozen=True)
class Turn:
    """One thing owed, what the server sends for it, and what the client must get."""

    owed: Owed
    sent: bytes
    seen: bytes


def walk(transcript: Transcript, stream: bytes, at: list[int] | None = None) -> list[Progress]:
    """Feed an answer to a transcript as a server connection does, in pieces."""
    scanner = ServerScanner()
    return [transcript.feed(*scanner.feed(piece)) for piece in pieces(stream, at or [])]


def output(progress: list[Progress]) -> bytes:
    return b"".join(each.output for each in progress)


def transcript_of(*owed: Owed) -> Transcript:
    made = Transcript()
    for each in owed:
        made.add(each)
    return made


def visible(step: Step, sent: bytes, **more: object) -> Turn:
    return Turn(Owed(step, **more), sent, sent)  # type: ignore[arg-type]


def hidden(step: Step, sent: bytes, seen: bytes = b"", **more: object) -> Turn:
    return Turn(Owed(step, is_hidden=True, **more), sent, seen)  # type: ignore[arg-type]


def synthetic(step: Step, seen: bytes) -> Turn:
    return Turn(Owed(step, synthetic=seen), b"", seen)


TURNS = [
    visible(Step.PARSE, messages.PARSE_COMPLETE, server_name=b"seen"),
    hidden(Step.PARSE, messages.PARSE_COMPLETE, server_name=b"unseen"),
    synthetic(Step.PARSE, messages.PARSE_COMPLETE),
    visible(Step.BIND, messages.BIND_COMPLETE),
    hidden(Step.BIND, messages.BIND_COMPLETE),
    visible(Step.DESCRIBE, PARAMETERS + NO_DATA),
    visible(Step.DESCRIBE, encode(b"T", description(column(b"a", 1)))),
    visible(Step.EXECUTE, ROW + ROW + PARAMETER + complete("SELECT 2")),
    visible(Step.EXECUTE, ROW + encode(b"s")),
    visible(Step.EXECUTE, messages.EMPTY_QUERY),
    visible(Step.EXECUTE, NOTICE + complete("INSERT 0 1"), statement=WRITE),
    Turn(Owed(Step.EXECUTE, tag="UPDATE", statement=WRITE), complete("INSERT 0 3"), complete("UPDATE 3")),
    hidden(Step.EXECUTE, NOTICE + ROW + NOTIFICATION + PARAMETER + ROW + complete("SELECT 2"), NOTIFICATION),
    hidden(Step.CLOSE, messages.CLOSE_COMPLETE),
    synthetic(Step.CLOSE, messages.CLOSE_COMPLETE),
    visible(Step.FUNCTION, encode(b"V", b"\xff\xff\xff\xff")),
]
turns = st.lists(st.sampled_from(TURNS), max_size=12)
END = Turn(Owed(Step.READY), READY, READY)


@given(turns, cuts)
def test_the_client_gets_what_it_asked_for_however_the_answer_is_chunked(
    asked: list[Turn], at: list[int]
) -> None:
    transcript = transcript_of(*(turn.owed for turn in [*asked, END]))
    progress = walk(transcript, b"".join(turn.sent for turn in [*asked, END]), at)
    assert output(progress) == b"".join(turn.seen for turn in asked) + READY
    completed = [owed for each in progress for owed in each.completed]
    assert completed == [turn.owed for turn in asked if turn.owed.statement is not None]
    assert [each.ready for each in progress if each.ready is not None] == [ord("I")]
    assert not any(each.forgotten or each.error for each in progress)
    assert len(transcript) == 0


@given(turns, turns, st.integers(0, 11), cuts)
def test_after_an_error_everything_up_to_the_next_sync_is_skipped(
    first: list[Turn], second: list[Turn], number: int, at: list[int]
) -> None:
    """Two batches in one pipeline, the first failing somewhere: the second is answered as if alone."""
    failing = [place for place, turn in enumerate(first) if turn.sent]
    if not failing:
        return
    place = failing[number % len(failing)]
    error = failure("22012")
    stream = b"".join(turn.sent for turn in first[:place]) + error + messages.ready(ord("E"))
    stream += b"".join(turn.sent for turn in second) + READY
    transcript = transcript_of(*(turn.owed for turn in [*first, END, *second, END]))
    progress = walk(transcript, stream, at)

    seen = b"".join(turn.seen for turn in first[:place]) + error + messages.ready(ord("E"))
    assert output(progress) == seen + b"".join(turn.seen for turn in second) + READY
    assert [name for each in progress for name in each.forgotten] == [
        turn.owed.server_name for turn in first[place:] if turn.owed.step is Step.PARSE and turn.sent
    ]
    assert [owed for each in progress for owed in each.completed] == [
        turn.owed for turn in [*first[:place], *second] if turn.owed.statement is not None
    ]
    assert [each.error for each in progress if each.error is not None] == [error[5:]]
    assert len(transcript) == 0


@given(turns, turns, cuts)
def test_an_error_that_comes_before_the_sync_was_sent_silences_what_is_sent_until_then(
    first: list[Turn], late: list[Turn], at: list[int]
) -> None:
    """A client that flushes learns of the error, and goes on sending until its Sync."""
    error = failure("42P01")
    transcript = transcript_of(*(turn.owed for turn in first), Owed(Step.BIND))
    before = walk(transcript, b"".join(turn.sent for turn in first) + error, at)
    assert output(before) == b"".join(turn.seen for turn in first) + error
    for turn in late:
        transcript.add(turn.owed)
    assert transcript.take_synthetic() == b""
    transcript.add(Owed(Step.READY))
    transcript.add(Owed(Step.BIND))  # of the next batch: the server listens again
    after = walk(transcript, messages.ready(ord("I")) + messages.BIND_COMPLETE)
    assert output(after) == messages.ready(ord("I")) + messages.BIND_COMPLETE


def test_answers_of_ours_that_nothing_of_the_server_precedes_can_be_had_at_once() -> None:
    transcript = transcript_of(
        synthetic(Step.PARSE, messages.PARSE_COMPLETE).owed,
        synthetic(Step.CLOSE, messages.CLOSE_COMPLETE).owed,
        Owed(Step.BIND),
        synthetic(Step.PARSE, messages.PARSE_COMPLETE).owed,
    )
    assert transcript.take_synthetic() == messages.PARSE_COMPLETE + messages.CLOSE_COMPLETE
    assert transcript.take_synthetic() == b""
    (progress,) = walk(transcript, messages.BIND_COMPLETE)
    assert progress.output == messages.BIND_COMPLETE + messages.PARSE_COMPLETE


def test_rows_of_a_hidden_statement_cut_anywhere_stay_hidden() -> None:
    transcript = transcript_of(Owed(Step.EXECUTE, is_hidden=True), Owed(Step.EXECUTE), Owed(Step.READY))
    stream = encode(b"D", bytes(500)) + complete("SELECT 1") + ROW + complete("SELECT 1") + READY
    assert output(walk(transcript, stream, [3, 100, 200, 507])) == ROW + complete("SELECT 1") + READY


def test_a_hidden_ready_is_not_the_end_of_the_request() -> None:
    transcript = transcript_of(Owed(Step.READY, is_hidden=True), Owed(Step.BIND))
    (progress,) = walk(transcript, READY)
    assert (progress.output, progress.ready) == (b"", None)


@pytest.mark.parametrize(("status", "kind"), [("COMMIT", Kind.COMMIT), ("ROLLBACK", Kind.ROLLBACK)])
def test_a_commit_answered_with_rollback_was_one(status: str, kind: Kind) -> None:
    owed = Owed(Step.EXECUTE, statement=COMMIT)
    (progress,) = walk(transcript_of(owed, Owed(Step.READY)), complete(status) + READY)
    assert [each.statement.kind for each in progress.completed if each.statement] == [kind]
    assert progress.output == complete(status) + READY


def test_copy_in_is_told_unless_it_is_ours() -> None:
    (progress,) = walk(transcript_of(Owed(Step.EXECUTE)), COPY_IN)
    assert (progress.output, progress.is_copy_in) == (COPY_IN, True)
    assert not walk(transcript_of(Owed(Step.EXECUTE, is_hidden=True)), COPY_IN)[0].is_copy_in


def test_a_sync_sent_among_copy_data_brings_a_ready_nobody_waited_for() -> None:
    (progress,) = walk(transcript_of(Owed(Step.EXECUTE)), READY)
    assert progress.ready == ord("I")


def test_a_parse_that_did_not_happen_gives_its_name_back_latest_first() -> None:
    before = Prepared(b"SELECT 1", b"\0\0")
    done, first, second = Renamed(b"ok", None), Renamed(b"a", before), Renamed(b"a", None)
    transcript = transcript_of(
        Owed(Step.PARSE, renamed=done), Owed(Step.PARSE, renamed=first), Owed(Step.CLOSE, renamed=second)
    )
    walk(transcript, messages.PARSE_COMPLETE + failure("42601"))
    transcript.add(Owed(Step.CLOSE, renamed=Renamed(b"late", None)))
    assert transcript.take_undone() == [Renamed(b"late", None), second, first]
    assert transcript.take_undone() == []


# Errors.


def error_seen(owed: Owed, error: bytes) -> dict[str, str]:
    return messages.read_error(output(walk(transcript_of(owed), error))[5:])


def behind_prefix(position: int) -> int | None:
    return position - 10 if 10 < position <= 20 else None


@pytest.mark.parametrize(("sent", "seen"), [("11", "1"), ("20", "10"), ("10", None), ("21", None)])
def test_an_error_position_points_into_the_clients_text_or_nowhere(sent: str, seen: str | None) -> None:
    fields = error_seen(Owed(Step.EXECUTE, positions=behind_prefix), failure("42703", P=sent, D="kept"))
    assert fields.get("P") == seen
    assert (fields["C"], fields["M"], fields["D"]) == ("42703", "it failed", "kept")


def test_an_error_in_another_encoding_is_moved_byte_for_byte() -> None:
    error = failure("42703", M="Spalte \udce9", P="12")
    assert b"MSpalte \xe9\0P12\0" in error
    assert b"MSpalte \xe9\0P2\0" in output(
        walk(transcript_of(Owed(Step.EXECUTE, positions=behind_prefix)), error)
    )


def test_an_error_of_a_hidden_statement_points_nowhere() -> None:
    assert "P" not in error_seen(Owed(Step.EXECUTE, is_hidden=True), failure("42P01", P="3"))


def test_an_error_of_a_statement_sent_as_it_was_written_is_not_touched() -> None:
    error = failure("42P01", P="3")
    assert output(walk(transcript_of(Owed(Step.EXECUTE)), error)) == error


@pytest.mark.parametrize("is_hidden", [False, True])
def test_the_fence_tells_the_driver_to_run_the_transaction_again(is_hidden: bool) -> None:
    fields = error_seen(Owed(Step.EXECUTE, is_hidden=is_hidden), failure(FENCED_SQLSTATE))
    assert (fields["C"], fields["S"], fields["H"]) == ("40001", "ERROR", "run the transaction again")


def test_what_we_made_fail_says_why_ourselves_unless_it_failed_otherwise() -> None:
    ours = failure("26000", M="no such name")
    assert output(walk(transcript_of(Owed(Step.BIND, error=ours)), failure("26000"))) == ours
    other = failure("25P02")
    assert output(walk(transcript_of(Owed(Step.BIND, error=ours)), other)) == other


def test_a_captured_write_in_a_read_only_transaction_is_refused_by_its_own_name() -> None:
    error = failure("25006", M="cannot execute INSERT in a read-only transaction")
    fields = error_seen(Owed(Step.EXECUTE, tag="UPDATE", positions=behind_prefix), error)
    assert fields["M"] == "cannot execute UPDATE in a read-only transaction"


# Row descriptions, and the answer to one captured statement.


def test_the_columns_are_the_clients_and_the_formats_those_of_its_bind() -> None:
    shape = description(column(b"id", 7), column(b"name", 8))
    actual = description(column(b"k1", 99, 1), column(b"k2", 98, 0))
    expected = description(column(b"id", 7, 1), column(b"name", 8, 0))
    assert with_formats_of(shape, actual) == expected
    owed = Owed(Step.DESCRIBE, shape=shape)
    assert output(walk(transcript_of(owed), encode(b"T", actual))) == encode(b"T", expected)


@given(st.lists(st.integers(0, 1), max_size=5), st.lists(st.integers(0, 1), max_size=5))
def test_a_shape_keeps_its_columns_whatever_the_server_describes(ours: list[int], theirs: list[int]) -> None:
    shape = description(*(column(b"c", number, code) for number, code in enumerate(ours)))
    actual = description(*(column(b"k", 9, code) for code in theirs))
    formats = [theirs[at] if at < len(theirs) else code for at, code in enumerate(ours)]
    expected = description(*(column(b"c", number, code) for number, code in enumerate(formats)))
    assert with_formats_of(shape, actual) == expected


def test_the_answer_to_one_captured_statement_differs_in_its_tag_alone() -> None:
    owed = Owed(Step.EXECUTE, tag="DELETE", positions=behind_prefix)
    answer = messages.BIND_COMPLETE + NOTICE + complete("INSERT 0 2") + NOTIFICATION + READY
    assert rewritten(*ServerScanner().feed(answer), owed) == (
        messages.BIND_COMPLETE + NOTICE + complete("DELETE 2") + NOTIFICATION + READY
    )
    moved = rewritten(*ServerScanner().feed(failure("42703", P="12") + READY), owed)
    assert moved == failure("42703", P="2") + READY
