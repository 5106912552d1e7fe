"""A proxy dies, or stops, at a line of its part in a switch; the other one carries on.

    conductor   the proxy whose engine moves the authority
    other       the proxy that is asked to hold its clients, and to let them go
    successor   the other one, when the conductor has died behind the fence: it takes over

The lines are those that a switch in which nobody dies passes by (`chaos/trapped`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, NamedTuple, Self

import asyncpg

from tests.chaos.fleet import Fleet, signalled
from tests.running import Running

Role = Literal["conductor", "other", "successor"]
_FENCED = "conductor._decide_or_take_back:"  # nobody is the authority there
_PASSED_BY_S = 3.0
_STOPPED_S_MAX = 20.0
_OWNER = "SELECT owner FROM crossfade.heartbeat WHERE name = 'engine'"
_SWITCHES = "SELECT count(*) FROM crossfade.switches"


class Death(NamedTuple):
    """Who, where, and by which signal: SIGSTOP is undone when the other one has gone on."""

    role: Role
    point: str
    how: signal.Signals

    def __str__(self) -> str:
        return f"{self.role} {self.point} {self.how.name}"

    @classmethod
    def of(cls, text: str) -> Death:
        """Return what `str` has shown."""
        role, point, how = text.split()
        return cls(role, point, signal.Signals[how])  # type: ignore[arg-type]


class Reaper:
    """Kills proxies of a fleet that has traps."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._fenced = ""
        self._sides: dict[str, asyncpg.Connection] = {}

    async def __aenter__(self) -> Self:
        for side in ("old", "new"):
            self._sides[side] = await asyncpg.connect(getattr(self._fleet, side))
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._sides.values():
            connection.terminate()

    async def deaths(self) -> list[Death]:
        """Return all that there are, after two switches: one as it should be, and one taken over."""
        conductor = await self._fleet.owner()
        other = self._fleet.other(conductor)
        to = await self._next()
        await self._fleet.ready()
        for proxy in (conductor, other):
            arm(proxy, "record")
        self._fleet.order(to)
        await self._settled(other, to)
        await self._settled(conductor, to)
        passed: dict[Role, list[str]] = {"conductor": seen(conductor), "other": seen(other)}
        self._fenced = next(point for point in passed["conductor"] if point.startswith(_FENCED))

        conductor = await self._fleet.owner()
        other = self._fleet.other(conductor)
        to = await self._next()
        await self._fleet.ready()
        arm(conductor, f"{self._fenced} SIGKILL")
        arm(other, "record")
        self._fleet.order(to)
        await self._settled(other, to)
        known = set(passed["conductor"]) - {p for p in passed["conductor"] if p.startswith("conductor.")}
        passed["successor"] = [point for point in seen(other) if point not in known | set(passed["other"])]
        await self._restart(conductor)
        hows = (signal.SIGKILL, signal.SIGSTOP)
        return [
            Death(role, point, how) for role, points in passed.items() for point in points for how in hows
        ]

    async def kill(self, death: Death) -> str:
        """Let a death happen within a switch, and wait until that is done; return what to tell of it."""
        conductor = await self._fleet.owner()
        other = self._fleet.other(conductor)
        victim = conductor if death.role == "conductor" else other
        survivor = self._fleet.other(victim)
        to = await self._next()
        await self._fleet.ready()
        owner, switches = await self._owner(to), await self._switches()
        arm(victim, f"{death.point} {death.how.name}")
        if death.role == "successor":
            arm(conductor, f"{self._fenced} SIGKILL")
        self._fleet.order(to)
        is_reached = await self._reached(victim, to)
        if death.role == "successor":
            await self._restart(conductor)
        if is_reached and death.how is signal.SIGSTOP:
            # It may have stopped within a client's transaction, which a drain waits for.
            await self._until(
                lambda: self._has_moved(to, owner) if victim is conductor else self._has_ended(switches)
            )
            signalled(victim, signal.SIGCONT)
        await self._settled(survivor, to)
        if is_reached and death.how is signal.SIGKILL:
            await self._restart(victim)
        await self._settled(victim, to)
        reigns = [side for side in self._sides if await self._is_authority(side)]
        assert reigns == [to], f"{death}: {reigns}"
        return f"{death}" if is_reached else f"{death}: passed by"

    async def _next(self) -> str:
        """Return where the authority is not."""
        return "old" if await self._is_authority("new") else "new"

    async def _is_authority(self, side: str) -> bool:
        return bool(await self._sides[side].fetchval("SELECT is_authority FROM crossfade.state"))

    async def _owner(self, side: str) -> str | None:
        owner: str | None = await self._sides[side].fetchval(_OWNER)
        return owner

    async def _switches(self) -> int:
        return sum([int(await connection.fetchval(_SWITCHES)) for connection in self._sides.values()])

    async def _has_moved(self, side: str, owner: str | None) -> bool:
        return await self._owner(side) not in (owner, None)

    async def _has_ended(self, switches: int) -> bool:
        return await self._switches() > switches

    @staticmethod
    async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
        deadline_s = time.monotonic() + _STOPPED_S_MAX
        while not await condition() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)

    async def _reached(self, victim: Running, to: str) -> bool:
        """Return whether the point was reached; some lines a switch passes by now and then."""
        deadline_s: float | None = None
        while not (trap(victim) / "reached").exists():
            if deadline_s is None and await self._is_authority(to):
                deadline_s = time.monotonic() + _PASSED_BY_S
            if deadline_s is not None and time.monotonic() > deadline_s:
                (trap(victim) / "trap").unlink(missing_ok=True)
                break
            await asyncio.sleep(0.02)
        return (trap(victim) / "reached").exists()

    @staticmethod
    async def _settled(proxy: Running, to: str) -> None:
        await proxy.wait_for(lambda told: told["authority"] == to and not told["switching"], timeout_s=120)

    @staticmethod
    async def _restart(proxy: Running) -> None:
        proxy.kill()
        await asyncio.to_thread(proxy.start)


def trap(proxy: Running) -> Path:
    """Return where the trap of a proxy lies."""
    return Path(proxy.environment["CROSSFADE_TRAP"])


def arm(proxy: Running, wanted: str) -> None:
    """Set the trap of a proxy."""
    folder = trap(proxy)
    for name in ("reached", "seen"):
        (folder / name).unlink(missing_ok=True)
    (folder / "partial").write_text(wanted)
    (folder / "partial").replace(folder / "trap")


def seen(proxy: Running) -> list[str]:
    """Return the points that a proxy has passed by, each once, and record no more."""
    (trap(proxy) / "trap").unlink()
    return sorted(set((trap(proxy) / "seen").read_text().split()))
