"""Cutting a client's messages into requests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.requests import (
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    BATCHED,
    EXECUTE,
    FLUSH,
    FRAMES_MAX,
    FUNCTION_CALL,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    Inbox,
)
from proxy.wire.frames import Frame
from tests.unit.server.sample import Client


def frame(code: int, body: bytes = b"") -> Frame:
    return Frame(code, body)


def take_all(inbox: Inbox) -> list[list[Frame]]:
    requests = []
    while request := inbox.take():
        requests.append(request)
    return requests


ENDING = st.sampled_from([SYNC, FLUSH])
WITHIN = st.sampled_from(sorted(BATCHED - {SYNC, FLUSH}))
batches = st.builds(
    lambda codes, end: [frame(code) for code in [*codes, end]], st.lists(WITHIN, max_size=6), ENDING
)
singles = st.sampled_from([QUERY, FUNCTION_CALL]).map(lambda code: [frame(code, b"x")])


@given(st.lists(batches | singles, max_size=8), st.lists(st.integers(0, 40), max_size=8))
def test_every_request_is_whole_and_in_order_however_it_arrives(
    sent: list[list[Frame]], cuts: list[int]
) -> None:
    stream = [each for request in sent for each in request]
    inbox, taken = Inbox(Client()), []
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for start, end in pairwise(places):
        inbox.add(stream[start:end])
        taken += take_all(inbox)
    assert taken == sent
    assert not inbox


def test_the_beginning_of_a_batch_counts() -> None:
    """What arrives next belongs behind it, so the session must not take it for a new request."""
    inbox = Inbox(Client())
    assert not inbox
    inbox.add([frame(PARSE)])
    assert inbox
    assert inbox.take() == []
    assert inbox
    inbox.add([frame(SYNC)])
    assert inbox.take() == [frame(PARSE), frame(SYNC)]
    assert not inbox


@pytest.mark.parametrize("code", [QUERY, FUNCTION_CALL])
def test_a_query_in_the_middle_of_a_batch_waits_for_the_answer_to_its_beginning(code: int) -> None:
    inbox = Inbox(Client())
    inbox.add([frame(PARSE), frame(code, b"x"), frame(SYNC)])
    assert inbox.take() == [frame(PARSE), frame(FLUSH)]
    assert inbox.take(is_unknown=True) == []
    assert inbox.take() == [frame(code, b"x")]
    assert inbox.take() == [frame(SYNC)]


def test_a_client_may_leave_in_the_middle_of_a_batch() -> None:
    inbox = Inbox(Client())
    inbox.add([frame(PARSE), frame(TERMINATE)])
    assert inbox.take() == [frame(TERMINATE)]


def test_a_batch_of_too_many_messages_is_cut() -> None:
    inbox = Inbox(Client())
    inbox.add([frame(EXECUTE)] * (BATCH_FRAMES_MAX + 1))
    inbox.add([frame(SYNC)])
    assert [len(request) for request in take_all(inbox)] == [BATCH_FRAMES_MAX + 1, 2]


def test_a_batch_of_too_many_bytes_is_cut() -> None:
    inbox = Inbox(Client())
    half = frame(EXECUTE, bytes(BATCH_BYTES_MAX // 2))
    inbox.add([half, half, half, frame(SYNC)])
    assert take_all(inbox) == [[half, half, frame(FLUSH)], [half, frame(SYNC)]]


def test_who_sends_faster_than_is_served_is_not_read_from_until_half_is_done() -> None:
    client = Client()
    inbox = Inbox(client)
    inbox.add([frame(QUERY, b"x")] * FRAMES_MAX)
    assert not client.paused
    for _ in range(2):  # what was on its way already arrives all the same
        inbox.add([frame(QUERY, b"x")])
        assert client.paused
    for _ in range(FRAMES_MAX // 2 + 2):
        assert client.paused
        inbox.take()
    inbox.take()
    assert not client.paused


def test_having_it_all_back_lets_the_client_send_again() -> None:
    client = Client()
    inbox = Inbox(client)
    inbox.add([frame(QUERY, b"x")] * (FRAMES_MAX + 1))
    assert len(inbox.take_all()) == FRAMES_MAX + 1
    assert not client.paused


def test_what_turned_out_to_be_no_requests_can_be_had_back() -> None:
    inbox = Inbox(Client())
    sent = [frame(PARSE), frame(SYNC), frame(QUERY, b"x")]
    inbox.add(sent)
    assert inbox.take_all() == sent
    assert not inbox
