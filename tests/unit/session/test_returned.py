"""Rows are cut where the client's columns end, however they arrive."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.session import returned
from proxy.session.returned import Keys, Returned
from proxy.wire.frames import encode

VALUES = st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=4)
KEYS = st.tuples(st.one_of(st.none(), st.binary(max_size=9)), st.binary(max_size=9))


def row(values: list[bytes | None]) -> bytes:
    parts = [
        struct.pack("!i", -1) if each is None else struct.pack("!i", len(each)) + each for each in values
    ]
    return encode(b"D", struct.pack("!H", len(values)) + b"".join(parts))


@given(st.lists(st.tuples(VALUES, KEYS), max_size=6), st.lists(st.integers(0, 400)))
def test_rows_cut_anywhere_lose_their_keys_and_nothing_else(
    rows: list[tuple[list[bytes | None], tuple[bytes | None, bytes]]], cuts: list[int]
) -> None:
    sent = b"".join(row([*values, *key]) for values, key in rows)
    places = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    taking = Returned(Keys(7, "k", 2, is_bare=False))
    got = b"".join(taking.feed(sent[a:b]) for a, b in pairwise(places))
    assert got == b"".join(row(values) for values, _ in rows)
    assert taking.found == [key for _, key in rows]
    assert not taking.is_whole


def test_a_client_that_asked_for_no_rows_gets_none() -> None:
    taking = Returned(Keys(7, "k", 1, is_bare=True))
    assert taking.feed(row([b"1"]) + row([b"2"])) == b""
    assert taking.found == [(b"1",), (b"2",)]


def test_keys_are_kept_up_to_a_limit() -> None:
    taking = Returned(Keys(7, "k", 1, is_bare=True))
    taking.feed(row([b"1"]) * (returned._KEYS_MAX + 5))
    assert taking.is_whole and len(taking.found) == returned._KEYS_MAX


def test_what_is_counted_by_other_means_is_not_kept() -> None:
    taking = Returned(Keys(7, "k", 1, is_bare=False), is_counted=True)
    assert taking.feed(row([b"a", b"1"])) == row([b"a"])
    assert taking.found == []
