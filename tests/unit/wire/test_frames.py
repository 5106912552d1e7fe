"""Frames, marks and COPY boundaries depend on the bytes, never on how they were chunked."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.wire.frames import FRAME_LENGTH_MAX, CopyRelay, Frame, FrameDecoder, Mark, ServerScanner, encode
from tests.unit.wire.sample import cuts, pieces

HEADER_SIZE = 5
ROW, COPY_DATA = b"D", b"d"


def messages(codes: bytes) -> st.SearchStrategy[list[Frame]]:
    """Return lists of messages of these codes; some bodies are empty, some longer than a chunk."""
    bodies = st.binary(max_size=20) | st.integers(21, 300).map(bytes)
    return st.lists(st.builds(Frame, st.sampled_from(codes), bodies), max_size=12)


def stream_of(sent: list[Frame]) -> bytes:
    return b"".join(frame.encode() for frame in sent)


def found(buffer: bytes, marks: list[Mark]) -> list[Frame]:
    """Return the messages that marks point at."""
    frames = []
    for code, start, end in marks:
        assert buffer[start] == code
        assert int.from_bytes(buffer[start + 1 : start + HEADER_SIZE], "big") == end - start - 1
        frames.append(Frame(code, buffer[start + HEADER_SIZE : end]))
    return frames


# The client's messages.


@given(messages(bytes(range(256))), cuts)
def test_frames_do_not_depend_on_chunking(sent: list[Frame], at: list[int]) -> None:
    decoder = FrameDecoder()
    received = [frame for chunk in pieces(stream_of(sent), at) for frame in decoder.feed(chunk)]
    assert received == sent
    assert not decoder.pending


@given(messages(b"QPBX"))
def test_a_frame_is_there_with_its_last_byte_and_not_before(sent: list[Frame]) -> None:
    stream = stream_of(sent)
    ends, at = {}, 0
    for frame in sent:
        at += len(frame.encode())
        ends[at] = frame
    decoder = FrameDecoder()
    for position in range(len(stream)):
        frames = decoder.feed(stream[position : position + 1])
        assert frames == ([ends[position + 1]] if position + 1 in ends else [])


@given(messages(b"QP"), st.binary(min_size=1, max_size=4), st.binary(max_size=50))
def test_what_is_not_whole_is_kept_and_can_be_taken_back(sent: list[Frame], head: bytes, body: bytes) -> None:
    for rest in (head, encode(b"Q", body + b"!")[:-1]):
        decoder = FrameDecoder()
        assert decoder.feed(stream_of(sent) + rest) == sent
        assert len(decoder.pending) == len(rest)
        assert decoder.take_pending() == rest
        assert not decoder.pending
        assert decoder.feed(encode(b"S")) == [Frame(ord("S"), b"")]


def test_a_large_frame_is_not_copied_until_it_is_whole() -> None:
    """Else every chunk would copy all before it: 4 MiB in 1 KiB chunks are 8 GiB of copying."""
    stream = encode(b"Q", bytes(4 << 20))
    decoder = FrameDecoder()
    decoder.feed(stream[: 2 << 20])
    tracemalloc.start()
    for start in range(2 << 20, 3 << 20, 1024):
        assert decoder.feed(stream[start : start + 1024]) == []
    tracemalloc.reset_peak()
    decoder.feed(stream[3 << 20 : (3 << 20) + 1024])
    now_bytes, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes - now_bytes < 1 << 20
    (frame,) = decoder.feed(stream[(3 << 20) + 1024 :])
    assert frame.body == bytes(4 << 20)


@pytest.mark.parametrize("length", [0, 3, FRAME_LENGTH_MAX + 1, 0xFFFF_FFFF])
@pytest.mark.parametrize("size", [1, 5])
def test_an_impossible_length_is_fatal_before_its_body_arrives(length: int, size: int) -> None:
    decoder = FrameDecoder()
    header = b"Q" + length.to_bytes(4, "big")
    with pytest.raises(ProtocolViolation, match=f"impossible length {length} for message b'Q'") as caught:
        for chunk in (header[:size], header[size:]):
            decoder.feed(chunk)
    assert (caught.value.sqlstate, caught.value.severity) == ("08P01", "FATAL")


def test_the_limit_is_the_callers_and_can_change_between_messages() -> None:
    decoder = FrameDecoder(length_max=10)
    decoder.feed(encode(b"p", b"123456"))
    with pytest.raises(ProtocolViolation):
        FrameDecoder(length_max=10).feed(encode(b"p", b"1234567"))
    decoder.length_max = 11
    assert decoder.feed(encode(b"p", b"1234567")) == [Frame(ord("p"), b"1234567")]


# The server's messages.


@given(messages(b"DdTCZE"), cuts)
def test_marks_do_not_depend_on_chunking_and_no_byte_is_lost(sent: list[Frame], at: list[int]) -> None:
    scanner = ServerScanner()
    passed, marked = b"", []
    for chunk in pieces(stream_of(sent), at):
        buffer, marks = scanner.feed(chunk)
        assert marks == sorted(marks, key=lambda mark: mark[1])
        marked += found(buffer, marks)
        passed += buffer
    assert passed == stream_of(sent)
    assert marked == [frame for frame in sent if frame.code not in ROW + COPY_DATA]
    assert scanner.is_between_messages


@given(messages(b"DdTCZ"), cuts)
def test_only_an_unfinished_header_or_control_message_is_held_back(sent: list[Frame], at: list[int]) -> None:
    """Rows are relayed as they come, so that a huge one costs no memory."""
    scanner = ServerScanner()
    stream = stream_of(sent)
    ends = [0]
    for frame in sent:
        ends.append(ends[-1] + len(frame.encode()))
    received = passed = 0
    for chunk in pieces(stream, at):
        received += len(chunk)
        passed += len(scanner.feed(chunk)[0])
        begun = max(end for end in ends if end <= received)
        is_row = begun < received and stream[begun] in ROW + COPY_DATA
        has_header = received - begun >= HEADER_SIZE
        assert passed == (received if is_row and has_header else begun)
        assert scanner.is_between_messages == (received == begun)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 4096])
def test_a_row_larger_than_any_buffer_passes_through_without_being_held(chunk_bytes: int) -> None:
    length = 64 * 4096 * 5
    scanner = ServerScanner()
    assert scanner.feed(ROW + length.to_bytes(4, "big")) == (ROW + length.to_bytes(4, "big"), [])
    left = length - 4
    while left > chunk_bytes and left > length - 4 - 100 * chunk_bytes:
        assert scanner.feed(bytes(chunk_bytes)) == (bytes(chunk_bytes), [])
        left -= chunk_bytes
        assert not scanner.is_between_messages
    ready = encode(b"Z", b"I")
    assert scanner.feed(bytes(left) + ready) == (bytes(left) + ready, [(ord("Z"), left, left + len(ready))])
    assert scanner.is_between_messages


def test_a_row_of_a_gigabyte_is_no_violation_but_a_control_message_of_that_length_is() -> None:
    assert ServerScanner().feed(ROW + (1 << 30).to_bytes(4, "big"))[1] == []
    with pytest.raises(ProtocolViolation, match="server sent length 1073741824 for message b'T'"):
        ServerScanner().feed(b"T" + (1 << 30).to_bytes(4, "big"))


@pytest.mark.parametrize("code", [ROW, COPY_DATA, b"Z"])
def test_a_length_that_does_not_count_itself_ends_the_connection(code: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="length 3"):
        ServerScanner().feed(code + (3).to_bytes(4, "big"))


# What a client sends during COPY FROM STDIN.


@given(messages(b"dcfSH"), st.sampled_from(b"QPBDECFX"), messages(b"QPBDECSHFdcX"), cuts)
@example([Frame(ord("c"), b"")], ord("D"), [], [])
def test_a_copy_ends_where_something_else_begins(
    copied: list[Frame], code: int, behind: list[Frame], at: list[int]
) -> None:
    """A Describe has the code of a DataRow, and must not pass for one."""
    next_request = stream_of([Frame(code, b"next\0"), *behind])
    relay = CopyRelay()
    passed = rest = b""
    for chunk in pieces(stream_of(copied) + next_request, at):
        if rest:
            rest += chunk
            continue
        output, rest = relay.feed(chunk)
        passed += output
    assert passed == stream_of(copied)
    assert rest == next_request
    assert relay.is_between_messages


@given(messages(b"dcfS"), st.integers(1, 10_000))
def test_between_messages_of_a_copy_is_known_after_every_byte(copied: list[Frame], row_bytes: int) -> None:
    relay = CopyRelay()
    assert relay.feed(stream_of(copied)) == (stream_of(copied), b"")
    assert relay.is_between_messages
    row = encode(b"d", bytes(row_bytes))
    relay.feed(row[:-1])
    assert not relay.is_between_messages
    relay.feed(row[-1:])
    assert relay.is_between_messages


def test_an_impossible_length_in_copy_data_is_fatal() -> None:
    with pytest.raises(ProtocolViolation):
        CopyRelay().feed(b"d\0\0\0\1")
