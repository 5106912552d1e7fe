"""Choose the server for a read; everything else goes to the authority.

Rule 1: a read may leave the authority only for a server that is *fresh* for this
session. Freshness is a time, `fresh_until_s`: everything committed and acknowledged
before it is visible there. The monitor derives it without trusting clocks of other
machines: it notes its own clock, then reads the authority's position; when a server
has reached that position, everything acknowledged before the noted time is there.
For replicas the position is the WAL insert position, for the mirror it is a snapshot
of the source that a complete converge pass has reached (`ledger.snapshot.dominates`).

Rule 2: whether a session reads on the new cluster depends on its sticky key alone,
and monotonically: whoever is on the new side at 5 % is there at 10 %.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

NEVER_S = float("-inf")


class Side(StrEnum):
    """The two clusters. Names of places; they never swap."""

    OLD = "old"
    NEW = "new"

    # Sides are keys of dictionaries on the hot path; Enum's own hash is a Python function.
    __hash__ = str.__hash__

    @property
    def other(self) -> Side:
        """The other one."""
        return Side.NEW if self is Side.OLD else Side.OLD


class Place(NamedTuple):
    """One server: number 0 is its cluster's primary, the others its replicas."""

    side: Side
    number: int

    @property
    def role(self) -> str:
        """The word metrics and console use."""
        return "replica" if self.number else "primary"


@dataclass(slots=True)
class Freshness:
    """What the monitor knows of one server."""

    is_up: bool = False
    fresh_until_s: float = NEVER_S
    lag_s: float | None = None


class ReadRule(NamedTuple):
    """How reads are spread; the `rollout` section of the configuration."""

    reads_on_new_ratio: float = 0.0
    max_staleness_s: float | None = None


def sticky_fraction(key: str) -> float:
    """Return a number in [0, 1) that depends on the key alone and spreads evenly."""
    return zlib.crc32(key.encode()) / 2**32


def is_on_new(fraction: float, rule: ReadRule) -> bool:
    """Return whether a session with this sticky fraction reads on the new cluster."""
    return fraction < rule.reads_on_new_ratio


def choose_read(
    authority: Side,
    servers: dict[Place, Freshness],
    rule: ReadRule,
    *,
    fraction: float,
    last_write_s: float,
    now_s: float,
    turn: int,
) -> Place:
    """Return the server for a read outside a transaction.

    Args:
        last_write_s: When this session's last write was acknowledged; NEVER_S if none was.
        turn: A counter that spreads sessions over equally good replicas.
    """
    wanted = Side.NEW if is_on_new(fraction, rule) else Side.OLD
    fallback = Place(authority, 0)
    oldest_s = last_write_s
    if rule.max_staleness_s is not None:
        oldest_s = max(oldest_s, now_s - rule.max_staleness_s)
    side = wanted if rule.reads_on_new_ratio > 0 else authority
    candidates = [place for place in servers if place.side is side and place != fallback]
    # On the mirror's side its primary counts too, but replicas are there to take reads.
    replicas = [place for place in candidates if place.number] or candidates
    for ahead in range(len(replicas)):
        place = replicas[(turn + ahead) % len(replicas)]
        server = servers[place]
        if server.is_up and NEVER_S < server.fresh_until_s >= oldest_s:
            return place
    return fallback


def fallback_reason(
    authority: Side, servers: dict[Place, Freshness], rule: ReadRule, *, fraction: float, last_write_s: float
) -> str | None:
    """Return why a read stays on the authority's primary that might have gone elsewhere.

    Returns:
        `down`, `own_write` (the session's last write has not arrived), `stale` (older than
        `max_staleness`), or None: the primary is where it belongs.
    """
    wanted = Side.NEW if is_on_new(fraction, rule) else Side.OLD
    side = wanted if rule.reads_on_new_ratio > 0 else authority
    others = [server for place, server in servers.items() if place.side is side and place != (authority, 0)]
    if not others:
        return None
    known = [server for server in others if server.is_up and server.fresh_until_s > NEVER_S]
    if not known:
        return "down"
    return "stale" if any(server.fresh_until_s >= last_write_s for server in known) else "own_write"
