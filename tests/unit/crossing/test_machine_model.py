"""Every state the switch can reach, crashes and stalls at every step included.

The laws that must hold everywhere are in `switch_model.broken_law`: never two authorities,
nothing acknowledged is gone, what differs is in the ledger, the engine works in the right
direction. The search is exhaustive up to two switches (there and back) and three owners.
"""

from __future__ import annotations

import pytest

from tests.unit.crossing.switch_model import BEGINNING, Explored, Guard, Model, explore, recoveries


@pytest.fixture(scope="module")
def explored() -> Explored:
    return explore(Model())


def test_no_law_is_broken_in_any_state(explored: Explored) -> None:
    print(f"{explored.count} states")
    assert explored.broken is None


def test_the_search_sees_switches_there_and_back(explored: Explored) -> None:
    reached = {(side, world.side(side).epoch) for world in explored.parents for side in world.authorities()}
    assert {(side.value, epoch) for side, epoch in reached} == {
        ("old", 1), ("old", 2), ("old", 3), ("new", 2), ("new", 3)
    }  # fmt: skip
    assert any(not world.authorities() for world in explored.parents)
    assert any(all(proxy.write is True for proxy in world.proxies) for world in explored.parents)


def test_the_next_owner_always_brings_it_to_one_authority(explored: Explored) -> None:
    model = Model()
    unsettled = 0
    for world in explored.parents:
        if world.old.epoch == world.new.epoch and not world.commits and world.old.note == world.new.note:
            assert len(world.authorities()) == 1
            continue
        unsettled += 1
        for recovered in recoveries(model, world):
            (authority,) = recovered.authorities()
            assert recovered.old.epoch == recovered.new.epoch
            assert recovered.old.note is None and recovered.new.note is None
            assert recovered.acknowledged() <= recovered.side(authority).rows
    assert unsettled > 1000


@pytest.mark.parametrize("guard", Guard, ids=lambda guard: guard.name.lower())
def test_without_a_guard_a_law_is_broken(guard: Guard) -> None:
    found = explore(Model(without=guard))
    assert found.broken is not None, f"not needed: {guard}"
    law, way = found.broken
    print(f"without: {guard}\nbroken: {law}, after {len(way) - 1} steps")
    assert way[0] == BEGINNING
