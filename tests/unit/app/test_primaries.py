"""Whom a cluster's servers make their leader: never a fork, never a primary of the past."""

from __future__ import annotations

import pytest

from proxy.app.primaries import Primaries, Seen, SeveralPrimaries, leader
from proxy.config import loads
from proxy.routing.policy import Side
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed

BEFORE, PROMOTED, OTHER = Seen(7, 1), Seen(7, 2), Seen(8, 9)


@pytest.mark.parametrize(
    ("seen", "known", "expected"),
    [
        ((BEFORE, None), BEFORE, None),  # all is well
        ((None, None), BEFORE, None),  # it is down: wait for it
        ((None, PROMOTED), BEFORE, 1),
        ((None, PROMOTED, None), BEFORE, 1),
        ((None, PROMOTED, Seen(7, 3)), BEFORE, 2),  # failed over twice
        ((BEFORE, PROMOTED), BEFORE, None),  # a fork, while the primary answers
        ((None, BEFORE), PROMOTED, None),  # it has come back from the past
        ((None, OTHER), BEFORE, None),  # another cluster altogether
        ((BEFORE, None), None, None),
        ((None, PROMOTED), None, 1),
        ((None, None), None, None),
    ],
)
def test_who_is_followed(seen: tuple[Seen | None, ...], known: Seen | None, expected: int | None) -> None:
    assert leader(seen, known) == expected


def test_two_primaries_and_no_past_are_for_a_person_to_judge() -> None:
    with pytest.raises(SeveralPrimaries):
        leader((BEFORE, PROMOTED), None)


def test_a_reload_keeps_the_leader_whether_the_file_knows_it_or_not() -> None:
    running = loads(SAMPLE, ENVIRONMENT)
    promoted = running.databases["app"].old.replicas[0]
    primaries = Primaries()
    assert primaries.apply(running, running) is running
    primaries._leaders["app", Side.OLD] = promoted
    before = loads(SAMPLE, ENVIRONMENT)
    after = loads(changed("127.0.0.1:5501/app", "127.0.0.1:5509/app"), ENVIRONMENT)
    for file in (before, after):
        found = primaries.apply(file, file).databases["app"].old
        assert found.primary == promoted
        assert found.replicas == (file.databases["app"].old.primary,)
