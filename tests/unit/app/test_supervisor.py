"""What the supervisor decides between two awaits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.app import primaries
from proxy.app.primaries import Seen
from proxy.app.supervisor import Supervisor
from proxy.config import loads
from proxy.config.dsn import Dsn
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed


async def test_a_reload_during_the_look_for_a_promoted_replica_stays_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = loads(SAMPLE, ENVIRONMENT)
    reloaded = loads(changed("writes_on: old", "writes_on: new"), ENVIRONMENT)
    old = running.databases["app"].old
    looking, looked = asyncio.Event(), asyncio.Event()

    async def look(dsn: Dsn) -> Seen | None:
        looking.set()
        await looked.wait()
        return Seen(7, 2) if dsn == old.replicas[0] else None

    monkeypatch.setattr(primaries, "_look", look)
    supervisor = Supervisor(tmp_path / "crossfade.yaml", SAMPLE, running)
    following = asyncio.create_task(supervisor._follow("app"))
    await looking.wait()
    await supervisor._put_in_force(reloaded, is_order=True)
    looked.set()
    await following
    found = supervisor._config.databases["app"]
    assert found.old.primary == old.replicas[0]
    assert found.rollout.writes_on == "new"
    assert supervisor._orders.open == {"app"}
