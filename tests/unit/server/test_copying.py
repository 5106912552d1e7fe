"""The server may give up a COPY in the middle of a message; nothing else may come between its parts."""

from __future__ import annotations

from proxy.server.copying import CopyIn
from proxy.wire.frames import encode

IDLE = ord("I")
ROW = encode(b"d", b"1\tone\n")


def test_between_messages_the_end_takes_effect_at_once() -> None:
    copy = CopyIn()
    assert not copy.delays(IDLE)
    assert copy.feed(ROW) == (ROW, b"")
    assert not copy.delays(IDLE) and copy.take_ready() is None


def test_in_the_middle_of_a_message_the_end_waits_for_its_rest_and_is_told_once() -> None:
    copy = CopyIn()
    copy.feed(ROW[:7])
    assert copy.delays(IDLE)
    assert copy.take_ready() is None
    copy.feed(ROW[7:-1])
    assert copy.take_ready() is None
    copy.feed(ROW[-1:])
    assert copy.take_ready() == IDLE
    assert copy.take_ready() is None


def test_what_lies_behind_the_copy_is_handed_back() -> None:
    query = encode(b"Q", b"SELECT 1\0")
    assert CopyIn().feed(ROW + encode(b"c") + query) == (ROW + encode(b"c"), query)
