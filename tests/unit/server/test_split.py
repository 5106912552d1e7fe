"""The messages of the split form."""

from __future__ import annotations

import struct

import pytest

from proxy.server.split import entries, may_end_transaction, simple, with_formats
from proxy.server.translate import Form
from proxy.session.replies import NO_ROWS, Transcript
from proxy.session.returned import Keys
from proxy.session.statements import ServerStatements
from proxy.sql.classify import parse
from proxy.wire.frames import FrameDecoder, ServerScanner, encode


def rest(results: list[int]) -> bytes:
    """Return the rest of a Bind with two parameters, one of them NULL."""
    formats = struct.pack(f"!H{len(results)}H", len(results), *results)
    return struct.pack("!HHHi", 1, 1, 2, 1) + b"x" + struct.pack("!i", -1) + formats


@pytest.mark.parametrize(
    ("asked", "sent"), [([], []), ([1], [1]), ([0, 1], [0, 1, 0, 0]), ([1, 1, 1], [1, 1, 1, 0, 0])]
)
def test_formats_cover_the_keys(asked: list[int], sent: list[int]) -> None:
    assert with_formats(rest(asked), 2) == rest(sent)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("COMMIT", True), ("END", True), ("ROLLBACK", True), ("PREPARE TRANSACTION 'a'", True),
        ("COMMIT PREPARED 'a'", True), ("CALL p()", True), ("DO ''", True), ("VACUUM", True),
        ("no sql", True),
        ("BEGIN", False), ("UPDATE t SET a = 1", False), ("SELECT 1", False), ("SAVEPOINT a", False),
    ],
)  # fmt: skip
def test_what_may_end_a_transaction(text: str, ends: bool) -> None:
    assert any(map(may_end_transaction, parse(text))) is ends


def answered(*messages: bytes) -> tuple[Transcript, bytes]:
    """Return the transcript of a simple query after an answer, and what its client saw."""
    form = Form("UPDATE t SET a = 1 RETURNING t.id::text", shape=NO_ROWS, keys=Keys(7, "k", 1, is_bare=True))
    payload, transcript = simple(form, ServerStatements(bytes_max=10_000))
    assert [chr(frame.code) for frame in FrameDecoder().feed(payload)] == ["P", "B", "E", "H"]
    return transcript, transcript.feed(*ServerScanner().feed(b"".join(messages))).output


KEY = encode(b"D", b"\0\1\0\0\0\0014")
DONE = encode(b"C", b"UPDATE 1\0")
FAILED = encode(b"E", b"SERROR\0C22012\0Mno\0\0")


def test_entries_follow_when_the_keys_have_come_and_before_the_sync() -> None:
    transcript, seen = answered(encode(b"1"), encode(b"2"), KEY, DONE)
    assert seen == DONE and transcript.owes_keys
    sent = FrameDecoder().feed(entries(transcript, ServerStatements(bytes_max=10_000)))
    assert [chr(frame.code) for frame in sent] == ["P", "B", "E", "C", "S"]
    assert b"SELECT 7, 'k', ARRAY[k1]" in sent[0].body
    assert not transcript.owes_keys


def test_after_an_error_nothing_is_entered() -> None:
    transcript, seen = answered(encode(b"1"), encode(b"2"), KEY, FAILED)
    assert b"22012" in seen and transcript.owes_keys
    sent = FrameDecoder().feed(entries(transcript, ServerStatements(bytes_max=10_000)))
    assert [chr(frame.code) for frame in sent] == ["S"]


def test_a_write_of_no_rows_enters_nothing() -> None:
    transcript, _ = answered(encode(b"1"), encode(b"2"), encode(b"C", b"UPDATE 0\0"))
    sent = FrameDecoder().feed(entries(transcript, ServerStatements(bytes_max=10_000)))
    assert [chr(frame.code) for frame in sent] == ["S"]
    assert transcript.feed(*ServerScanner().feed(encode(b"Z", b"I"))).ready == 0x49
    assert len(transcript) == 0
