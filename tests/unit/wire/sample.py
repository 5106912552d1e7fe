"""Streams cut into pieces, and what a server may send, for the tests of several folders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import strategies as st

from proxy.wire import messages
from proxy.wire.frames import encode

READY = messages.ready(ord("I"))
ROW = encode(b"D", b"\0\1\0\0\0\1x")
NOTICE = encode(b"N", b"SNOTICE\0\0")
NOTIFICATION = encode(b"A", b"\0\0\0\1channel\0\0")
PARAMETER = messages.parameter_status("TimeZone", "UTC")

cuts = st.lists(st.integers(0, 5000), max_size=30)


def pieces(stream: bytes, at: list[int]) -> Iterator[bytes]:
    """Yield the stream cut at these places, which count modulo its length."""
    places = sorted({cut % (len(stream) + 1) for cut in at} | {0, len(stream)})
    for start, end in pairwise(places):
        yield stream[start:end]


def complete(tag: str) -> bytes:
    """Return a CommandComplete."""
    return encode(b"C", tag.encode() + b"\0")


def failure(sqlstate: str, **fields: str) -> bytes:
    """Return an ErrorResponse."""
    return messages.error({"S": "ERROR", "C": sqlstate, "M": "it failed", **fields})


def column(name: bytes, number: int, format_code: int = 0) -> bytes:
    """Return one column of a RowDescription."""
    return name + b"\0" + number.to_bytes(4, "big") + bytes(12) + format_code.to_bytes(2, "big")


def description(*columns: bytes) -> bytes:
    """Return the body of a RowDescription."""
    return len(columns).to_bytes(2, "big") + b"".join(columns)
