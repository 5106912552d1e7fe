"""With `ack: sync` a commit is told when the mirror has it, or time is up; in order, and once."""

from __future__ import annotations

import pytest

from proxy.server.acks import Acks, Delayed

TIMEOUT_S = 1.0


@pytest.fixture
def acks() -> Acks:
    made = Acks()
    made.timeout_s = TIMEOUT_S
    return made


def test_what_the_mirror_has_is_told_and_the_rest_waits(acks: Acks) -> None:
    told: list[float] = []
    for committed_s in (1.0, 1.1, 1.2):
        acks.wait(committed_s, lambda at=committed_s: told.append(at))
    acks.settle(fresh_until_s=1.1, now_s=1.5)
    assert told == [1.0]  # what was committed at 1.1 may not be in what was there until 1.1
    acks.settle(fresh_until_s=1.15, now_s=1.5)
    assert told == [1.0, 1.1] and acks.late_count == 0
    acks.settle(fresh_until_s=9.0, now_s=1.5)
    acks.settle(fresh_until_s=9.0, now_s=1.5)
    assert told == [1.0, 1.1, 1.2]


def test_nobody_waits_longer_than_the_timeout(acks: Acks) -> None:
    told: list[float] = []
    for committed_s in (1.0, 1.5):
        acks.wait(committed_s, lambda at=committed_s: told.append(at))
    acks.settle(fresh_until_s=0.0, now_s=1.99)
    assert told == []
    acks.settle(fresh_until_s=0.0, now_s=2.0)
    assert told == [1.0] and acks.late_count == 1
    acks.settle(fresh_until_s=0.0, now_s=2.5)
    assert told == [1.0, 1.5] and acks.late_count == 2


def test_who_commits_again_in_the_meantime_waits_again(acks: Acks) -> None:
    told: list[str] = []

    def again() -> None:
        told.append("first")
        acks.wait(5.0, lambda: told.append("second"))

    acks.wait(1.0, again)
    acks.settle(fresh_until_s=2.0, now_s=1.1)
    assert told == ["first"]
    acks.settle(fresh_until_s=6.0, now_s=5.1)
    assert told == ["first", "second"]


def test_the_end_of_an_answer_is_kept_back_whole_and_then_the_session_goes_on(acks: Acks) -> None:
    events: list[bytes | str] = []
    delayed = Delayed(acks, events.append, lambda: events.append("goes on"))
    assert delayed.is_wanted and not delayed.output
    delayed.add(b"COMMIT ")
    delayed.add(b"ready")
    assert delayed.output
    delayed.wait(1.0)
    assert events == []
    acks.settle(fresh_until_s=1.1, now_s=1.1)
    assert events == [b"COMMIT ready", "goes on"] and not delayed.output
    acks.timeout_s = None
    assert not delayed.is_wanted
