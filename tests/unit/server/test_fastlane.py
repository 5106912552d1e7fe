"""The bytes that the fast lane recognises are exactly those that decoding them would find."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.server.fastlane import bound, query, rename
from proxy.wire import messages
from proxy.wire.frames import Frame, FrameDecoder, encode
from tests.unit.server.sample import SYNC, bind, frames, parse

DESCRIBE, EXECUTE = messages.describe_portal(), messages.execute()
TEXT_MAX = 16 * 1024

pieces = st.sampled_from(
    [
        messages.query(b"SELECT 1"),
        messages.query(b""),
        messages.query("SELECT 'é'".encode()),
        messages.query(b"SELECT '\xe9'"),
        encode(b"Q", b"not terminated"),
        encode(b"Q"),
        bind(b"s"),
        bind(b""),
        bind(b"s", portal=b"p"),
        bind(b"s", rest=b"\0\1\0\1\0\1\0\0\0\4\0\0\0\7\0\1\0\1"),
        encode(b"B", b"\0not terminated"),
        encode(b"B", b"\0"),
        encode(b"B"),
        DESCRIBE,
        messages.describe_statement(b""),
        EXECUTE,
        messages.execute(b"p"),
        encode(b"E", b"\0\0\0\0\5"),
        SYNC,
        messages.FLUSH,
        parse(b"s", "SELECT 1"),
        b"B\0\0\0\0",
        b"Q\0\0\0\0",
        b"Q",
        b"B",
    ]
)
wanted = st.sampled_from([(), (DESCRIBE,)]).map(lambda middle: b"".join([bind(b"s"), *middle, EXECUTE, SYNC]))
arrived = st.one_of(
    st.lists(pieces, min_size=1, max_size=4).map(b"".join), wanted, st.tuples(wanted, pieces).map(b"".join)
)


def decoded(data: bytes) -> list[Frame] | None:
    """Return the messages in the data if it holds nothing else."""
    decoder = FrameDecoder()
    try:
        found = decoder.feed(data)
    except ProtocolViolation:
        return None
    return None if decoder.pending else found


def query_of(found: list[Frame] | None) -> str | None:
    if found is None or len(found) != 1 or found[0].code != ord("Q") or found[0].body[-1:] != b"\0":
        return None
    try:
        return found[0].body[:-1].decode()
    except UnicodeDecodeError:
        return None


def bound_of(found: list[Frame] | None) -> bytes | None:
    if found is None or len(found) < 3 or found[0].code != ord("B"):
        return None
    if b"".join(frame.encode() for frame in found[1:]) not in (DESCRIBE + EXECUTE + SYNC, EXECUTE + SYNC):
        return None
    try:
        portal, name, _ = messages.read_bind(found[0].body)
    except ProtocolViolation:
        return None
    return name if name and not portal else None


@given(arrived, st.integers(0, 3))
@example(b"Q", 0)
@example(messages.query(b"SELECT 1"), 1)
def test_one_whole_simple_query_is_recognised_and_nothing_else(data: bytes, missing: int) -> None:
    data = data[: len(data) - missing] or data
    assert query(data) == query_of(decoded(data))


@given(arrived, st.integers(0, 3))
@example(encode(b"B", b"\0not terminated") + EXECUTE + SYNC, 0)
def test_one_bind_executed_at_once_is_recognised_and_nothing_else(data: bytes, missing: int) -> None:
    data = data[: len(data) - missing] or data
    found = bound(data)
    assert (found.name if found else None) == bound_of(decoded(data))


@given(st.binary(min_size=1, max_size=40) | st.binary(max_size=30).map(lambda rest: b"B" + rest))
def test_any_bytes_are_recognised_as_decoding_would(data: bytes) -> None:
    assert query(data) == query_of(decoded(data))
    found = bound(data)
    assert (found.name if found else None) == bound_of(decoded(data))


@pytest.mark.parametrize(("size", "is_taken"), [(TEXT_MAX, True), (TEXT_MAX + 1, False)])
def test_a_long_text_is_taken_apart(size: int, is_taken: bool) -> None:
    data = messages.query(b"x" * (size - 6))
    assert len(data) == size and (query(data) is not None) == is_taken


names = st.binary(min_size=1, max_size=30).map(lambda name: name.replace(b"\0", b"") or b"s")


@given(names, names, st.binary(max_size=40), st.booleans())
def test_renaming_changes_the_name_and_nothing_else(
    name: bytes, other: bytes, values: bytes, describes: bool
) -> None:
    tail = (DESCRIBE if describes else b"") + EXECUTE + SYNC
    data = bind(name, rest=values) + tail
    found = bound(data)
    assert found is not None and found.name == name
    assert rename(data, found.at, other) == bind(other, rest=values) + tail
    assert frames(rename(data, found.at, name)) == frames(data)
