"""What the supervisor decides between two awaits."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from proxy.app import calls, primaries
from proxy.app.primaries import Seen
from proxy.app.supervisor import Supervisor
from proxy.config import loads
from proxy.config.dsn import Dsn
from proxy.errors import FlagsUnavailable
from proxy.flags.values import Flag
from proxy.flags.watch import FlagWatch
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


async def test_a_reload_with_a_new_database_takes_no_first_value_of_a_flag_for_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    answers: dict[str, str] = {}

    def ask(flag: Flag) -> str:
        if flag.key not in answers:
            raise FlagsUnavailable("the provider is down")
        return answers[flag.key]

    async def look(dsn: Dsn) -> Seen | None:
        return None

    monkeypatch.setattr(primaries, "_look", look)
    databases = changed("writes_on: old\n", "writes_on: old\n      flags: {writes: app-writes}\n")
    (_, section) = databases.split("databases:\n")
    other = (
        section.replace("  app:", "  other:")
        .replace('/app"', '/other"')
        .replace("app-writes", "other-writes")
    )
    provider = "flags: {provider: environment}\n"
    file = tmp_path / "crossfade.yaml"
    running = loads(databases + provider, os.environ)
    supervisor = Supervisor(file, databases + provider, running)
    supervisor._flags = FlagWatch(running.flags, open_provider=lambda _: ask)
    await supervisor._flags.look(running)  # at the start: the line of the file stands
    answers.update({"app-writes": "new", "other-writes": "new"})
    file.write_text(databases + other + provider)
    await supervisor._reload()
    assert supervisor._problems == []
    writes_on = {name: each.rollout.writes_on for name, each in supervisor._config.databases.items()}
    assert writes_on == {"app": "old", "other": "new"}
    assert supervisor._orders.open == frozenset()
    assert await supervisor._flags.look(supervisor._config) == (
        True,
        True,
    )  # the next look tells that it is first


async def test_an_order_is_open_until_the_engine_tells_that_it_obeyed(tmp_path: Path) -> None:
    running = loads(SAMPLE, ENVIRONMENT)
    ordered = loads(changed("writes_on: old", "writes_on: new"), ENVIRONMENT)
    supervisor = Supervisor(tmp_path / "crossfade.yaml", SAMPLE, running)
    await supervisor._put_in_force(ordered, is_order=True)
    await supervisor._handle(supervisor._engine, calls.Obeyed("app", "old"))  # of the order before
    assert supervisor._orders.open == {"app"}
    await supervisor._handle(supervisor._engine, calls.Obeyed("app", "new"))
    assert supervisor._orders.open == frozenset()
