"""What two states mean: every combination has exactly one reading."""

from __future__ import annotations

import itertools

import pytest

from proxy.crossing.machine import Reading, Situation, read
from proxy.ledger.state import State
from proxy.routing.policy import Side

AUTHORITIES = (True, False)
EPOCHS = (4, 5)
NOTES = (None, {"to": "old", "epoch": 5}, {"to": "new", "epoch": 5})
STATES = [State(*parts, None, note) for *parts, note in itertools.product(AUTHORITIES, EPOCHS, NOTES)]


def state(*, reigns: bool = False, epoch: int = 4, to: str | None = None) -> State:
    return State(reigns, epoch, None, {"to": to, "epoch": 5} if to else None)


def test_every_combination_has_a_reading_and_no_authority_is_invented() -> None:
    for old, new in itertools.product(STATES, STATES):
        found = read(old, new)
        if found.situation in (Situation.SETTLED, Situation.FOLLOW):
            here, there = (old, new) if found.authority is Side.OLD else (new, old)
            assert here.is_authority and not there.is_authority
            assert found.epoch == here.epoch
        elif found.situation is Situation.FINISH:
            assert not old.is_authority and not new.is_authority
            assert [found.authority.value] == [each.switching["to"] for each in (old, new) if each.switching]
        else:
            assert found.reason


def test_the_two_directions_mirror_each_other() -> None:
    turned = {"old": "new", "new": "old"}

    def turn(each: State) -> State:
        note = each.switching and {**each.switching, "to": turned[each.switching["to"]]}
        return State(each.is_authority, each.epoch, None, note)

    for old, new in itertools.product(STATES, STATES):
        there, back = read(old, new), read(turn(new), turn(old))
        assert there.situation is back.situation
        if there.situation is not Situation.IMPOSSIBLE:
            assert (there.authority.other, there.epoch) == (back.authority, back.epoch)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (state(reigns=True), state(), Reading(Situation.SETTLED, Side.OLD, 4)),
        (state(to="new"), state(), Reading(Situation.FINISH, Side.NEW, 5, has_moved=True)),
        (
            state(to="new"),
            state(reigns=True, epoch=5),
            Reading(Situation.FOLLOW, Side.NEW, 5, has_moved=True),
        ),
        (state(epoch=5), state(reigns=True, epoch=5), Reading(Situation.SETTLED, Side.NEW, 5)),
        # Taken back: the source reigns again, in an epoch that the target has not heard of.
        (state(reigns=True, epoch=5), state(), Reading(Situation.FOLLOW, Side.OLD, 5)),
    ],
    ids=["before", "fenced", "decided", "after", "taken back"],
)
def test_each_step_of_a_switch(old: State, new: State, expected: Reading) -> None:
    assert read(old, new) == expected


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (state(reigns=True), state(reigns=True), "both clusters say"),
        (state(), state(), "none noted a switch"),
        (state(to="new"), state(to="old"), "both noted a switch"),
    ],
)
def test_a_state_that_nobody_could_have_left_is_refused(old: State, new: State, reason: str) -> None:
    found = read(old, new)
    assert found.situation is Situation.IMPOSSIBLE
    assert reason in found.reason
