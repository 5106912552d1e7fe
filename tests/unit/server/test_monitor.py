"""Who the authority is, and until when a server is fresh, from what the servers said and when."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.model import Database as Configuration
from proxy.routing.policy import NEVER_S, Place, Side
from proxy.server.database import Database
from proxy.server.monitor import Monitor
from tests.unit.capture.sample import catalog

OLD, NEW = Place(Side.OLD, 0), Place(Side.NEW, 0)


LINES = {
    "old": {"primary": "postgresql://u@a/x"}, "new": {"primary": "postgresql://u@c/x"}, "auth": "trust"
}  # fmt: skip


class Primary:
    """What a primary answers."""

    def __init__(
        self, *, reigns: bool, epoch: int, snapshot: str = "1:1:", progress: str | None = None
    ) -> None:
        self.row = {
            "lsn": 1, "snapshot": snapshot, "is_authority": reigns, "epoch": epoch, "progress": progress
        }  # fmt: skip

    async def fetchrow(self, query: str) -> Any:
        return self.row


class Watched:
    """A monitor whose servers answer when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.database = Database(Configuration.model_validate(LINES), Side.OLD, catalog())
        self.database.epoch, self.database.has_state = 1, True
        self.told: list[tuple[Side, int]] = []
        self.monitor = Monitor(self.database, self._follow, clock=lambda: self.now_s)

    def _follow(self, side: Side, epoch: int) -> None:
        self.told.append((side, epoch))
        self.database.move_authority(side, epoch)

    async def look(self, place: Place, primary: Primary, at_s: float) -> None:
        """Let a primary answer to a question that was asked at this time."""
        self.now_s = at_s
        await self.monitor._look_at_primary(primary, place, self.database.servers[place])  # type: ignore[arg-type]

    def fresh_until_s(self, place: Place) -> float:
        return self.database.servers[place].fresh_until_s


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_a_newer_claim_is_followed(watched: Watched) -> None:
    await watched.look(OLD, Primary(reigns=False, epoch=1), 1)
    assert watched.told == []
    await watched.look(NEW, Primary(reigns=True, epoch=2), 2)
    assert watched.told == [(Side.NEW, 2)]


async def test_what_a_primary_said_before_the_switch_counts_no_more(watched: Watched) -> None:
    """Its answer was on the way while the supervisor told of the switch."""
    watched.database.move_authority(Side.NEW, 2)
    await watched.look(OLD, Primary(reigns=True, epoch=1), 1)
    assert watched.told == []
    assert watched.database.authority is Side.NEW


async def test_the_mirror_is_fresh_until_the_position_that_it_has_reached(watched: Watched) -> None:
    await watched.look(OLD, Primary(reigns=True, epoch=1, snapshot="5:5:"), 10)
    await watched.look(OLD, Primary(reigns=True, epoch=1, snapshot="9:9:"), 11)
    await watched.look(NEW, Primary(reigns=False, epoch=1, progress="7:7:"), 12)
    assert watched.fresh_until_s(NEW) == 10
    await watched.look(NEW, Primary(reigns=False, epoch=1, progress="9:9:"), 13)
    assert watched.fresh_until_s(NEW) == 11


async def test_positions_of_another_reign_say_nothing(watched: Watched) -> None:
    """Also when the supervisor told of the switch, and no primary was asked in between."""
    await watched.look(OLD, Primary(reigns=True, epoch=1, snapshot="5:5:"), 10)
    await watched.look(NEW, Primary(reigns=False, epoch=1, progress="5:5:"), 11)
    assert watched.fresh_until_s(NEW) == 10
    watched.database.move_authority(Side.NEW, 2)
    await watched.look(OLD, Primary(reigns=False, epoch=2, progress="900:900:"), 12)
    assert watched.fresh_until_s(OLD) == NEVER_S
    await watched.look(NEW, Primary(reigns=True, epoch=2, snapshot="901:901:"), 13)
    await watched.look(OLD, Primary(reigns=False, epoch=2, progress="901:901:"), 14)
    assert watched.fresh_until_s(OLD) == 13


async def test_a_mirror_without_progress_is_not_fresh(watched: Watched) -> None:
    await watched.look(OLD, Primary(reigns=True, epoch=1), 10)
    await watched.look(NEW, Primary(reigns=False, epoch=1, progress=None), 11)
    assert watched.fresh_until_s(NEW) == NEVER_S


@pytest.mark.parametrize(
    "lines",
    [
        {"old": {"primary": "postgresql://u@a/x", "replicas": ["postgresql://u@b/x"]}},
        {"rollout": {"reads_on_new": "1%"}},
        {"mirror": {"ack": "sync"}},
    ],
    ids=["a replica", "reads on the new cluster", "commits that wait"],
)
async def test_servers_are_asked_more_often_while_something_depends_on_it(
    watched: Watched, lines: dict[str, Any]
) -> None:
    assert not watched.database.needs_freshness
    watched.database.configure(Configuration.model_validate(LINES | lines))
    assert watched.database.needs_freshness


async def test_servers_are_asked_more_often_while_the_authority_is_in_doubt(watched: Watched) -> None:
    watched.database.hold.begin(limit_s=60)
    assert watched.database.needs_freshness
    watched.database.hold.end()
    assert not watched.database.needs_freshness
