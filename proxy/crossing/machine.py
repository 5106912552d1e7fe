"""What the states of the two clusters mean together. Pure.

Each cluster says whether it is the authority, in which epoch, and whether it left a
switch unfinished. A switch changes them in this order, one commit each:

            old                         new                      meaning
    0       authority, epoch n          follower                 settled
    1       resigned, note (to new)     follower                 nobody: finish forward
    2       resigned, note              authority, epoch n+1     the decision is made
    3       follower, epoch n+1         authority, epoch n+1     settled

and the same from new to old. The one commit that decides is 1 -> 2; until then nothing
accepts captured writes, so after a crash at 1 nothing is left to move: the ledger was
empty under its lock when the old side resigned, and nobody wrote since.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from proxy.ledger.state import State
from proxy.routing.policy import Side


class Situation(Enum):
    """What has to be done before the engine may go on."""

    SETTLED = "settled"
    FOLLOW = "follow"  # the decision is made: the other side must be told
    FINISH = "finish"  # nobody is the authority: make it the side the note names
    IMPOSSIBLE = "impossible"  # two authorities, or none and no note: somebody edited the state


class Reading(NamedTuple):
    """The situation, the authority (or who must become it), and its epoch."""

    situation: Situation
    authority: Side
    epoch: int
    reason: str = ""
    has_moved: bool = False  # by a switch that whoever began it has not told the other side of


class Reign(NamedTuple):
    """One stretch between two switches."""

    authority: Side
    epoch: int


def read(old: State, new: State) -> Reading:
    """Return what two states mean, read while nobody else owns the lease."""
    if old.is_authority and new.is_authority:
        return Reading(
            Situation.IMPOSSIBLE, Side.OLD, old.epoch, "both clusters say that they are the authority"
        )
    if old.is_authority or new.is_authority:
        side = Side.OLD if old.is_authority else Side.NEW
        here, there = (old, new) if old.is_authority else (new, old)
        settled = there.epoch == here.epoch and there.switching is None and here.switching is None
        has_moved = there.switching is not None and there.switching["to"] == side
        situation = Situation.SETTLED if settled else Situation.FOLLOW
        return Reading(situation, side, here.epoch, has_moved=has_moved)
    notes = [state.switching for state in (old, new) if state.switching is not None]
    if len(notes) != 1:
        reason = "no cluster is the authority, and " + ("both" if notes else "none") + " noted a switch"
        return Reading(Situation.IMPOSSIBLE, Side.OLD, old.epoch, reason)
    return Reading(Situation.FINISH, Side(notes[0]["to"]), int(notes[0]["epoch"]), has_moved=True)
