"""Whatever a client or a server says, nobody else notices; `make fuzz` looks further."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.frames import encode
from tests.fuzz.targets import ANSWERS, LOGIN, PIECES, REQUESTS, client_says, server_says

BODIES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\0", b"S\0", b"P\0", b"\0\0\0\0\0\0"]))
# Whole messages of any kind with any body, messages as they should be, and pieces of none.
FRAMES = st.builds(lambda code, body: encode(bytes((code,)), body), st.integers(0, 255), BODIES)
CLIENT = st.sampled_from([*REQUESTS, *PIECES])
SERVER = st.sampled_from(ANSWERS)


def said(usual: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Return what is said, cut into packets anywhere."""
    whole = st.lists(st.one_of(usual, usual, FRAMES, st.binary(max_size=30)), max_size=8).map(b"".join)
    return st.builds(cut, whole, st.lists(st.integers(0, 300), max_size=4))


def cut(whole: bytes, at: list[int]) -> list[bytes]:
    ends = sorted({0, len(whole), *(min(each, len(whole)) for each in at)})
    return [whole[start:end] for start, end in pairwise(ends)]


@settings(deadline=None, max_examples=60)
@given(said(CLIENT))
async def test_a_client_may_say_anything(pieces: list[bytes]) -> None:
    await client_says(pieces, is_logged_in=True)


@settings(deadline=None, max_examples=40)
@given(said(st.just(LOGIN)))
async def test_a_client_may_say_anything_before_it_is_logged_in(pieces: list[bytes]) -> None:
    await client_says(pieces, is_logged_in=False)


@pytest.mark.parametrize("request_", REQUESTS)
@settings(deadline=None, max_examples=12)
@given(pieces=said(SERVER))
async def test_a_server_may_say_anything(request_: bytes, pieces: list[bytes]) -> None:
    await server_says(request_, pieces)
