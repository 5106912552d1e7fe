"""Flags of real providers: LaunchDarkly with file data and offline, flagd with a file, the environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.config.model import Flags
from proxy.errors import FlagsUnavailable
from proxy.flags import providers
from proxy.flags.values import Flag, meaning
from tests.running import Running

READS, WRITES = Flag("app", "reads", "app-reads"), Flag("app", "writes", "app-writes")
SCHEMA = "CREATE TABLE users (id int PRIMARY KEY)"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    providers.close()


def flagd(file: Path, reads: object, writes: object) -> None:
    """Write a flag file of flagd, in one step."""
    flags = {
        key: {"state": "ENABLED", "variants": {"it": value}, "defaultVariant": "it"}
        for key, value in (("app-reads", reads), ("app-writes", writes))
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"flags": flags}))
    partial.replace(file)


def launchdarkly(file: Path, reads: object, writes: object) -> None:
    """Write a data file of LaunchDarkly's SDK."""
    file.write_text(json.dumps({"flagValues": {"app-reads": reads, "app-writes": writes}}))


def until(ask: providers.Ask, flag: Flag, wanted: object) -> None:
    """Ask until the provider has noticed the change of its file; pytest's timeout bounds it."""
    while meaning(flag, ask(flag)) != wanted:
        pass


@pytest.mark.parametrize(("provider", "write"), [("flagd", flagd), ("launchdarkly", launchdarkly)])
def test_a_file_of_flags(
    provider: Any, write: Callable[[Path, object, object], None], tmp_path: Path
) -> None:
    file = tmp_path / "flags.json"
    write(file, "37%", "old")
    ask = providers.opened(Flags(provider=provider, file=str(file)))
    until(ask, READS, 0.37)
    until(ask, WRITES, "old")
    write(file, 50, True)
    until(ask, READS, 0.5)
    until(ask, WRITES, "new")
    with pytest.raises(FlagsUnavailable, match="flag nobody-knows"):
        ask(Flag("app", "reads", "nobody-knows"))


def test_launchdarkly_offline_has_no_values() -> None:
    ask = providers.opened(Flags(provider="launchdarkly", offline=True))
    with pytest.raises(FlagsUnavailable):
        ask(READS)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = providers.opened(Flags(provider="environment"))
    with pytest.raises(FlagsUnavailable, match="app-reads is not set"):
        ask(READS)
    monkeypatch.setenv("app-reads", "5%")
    assert ask(READS) == "5%"


async def test_a_flag_orders_reads_and_the_switch_and_its_loss_changes_nothing(
    old_db: str, new_db: str, tmp_path: Path
) -> None:
    for url in (old_db, new_db):
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
    file = tmp_path / "flags.json"
    flagd(file, "37%", "new")
    changes = {"rollout": {"flags": {"reads": "app-reads", "writes": "app-writes"}}}
    top = {"flags": {"provider": "flagd", "file": str(file), "poll": "100ms"}}
    with Running(tmp_path, old_db, new_db, changes, **top) as running:
        running.command("init")
        running.start()
        told = await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
        # What the flag said when the process started is no order.
        assert (told["rollout"]["reads_on_new_ratio"], told["authority"]) == (0.37, "old")
        assert "since before this process started" in told["rollout"]["refused"]
        refused = running.command("set", "reads_on_new=1%", check=False)
        assert (refused.returncode, "comes from the flag app-reads" in refused.stderr) == (2, True)
        flagd(file, 50, "old")
        await running.wait_for(
            lambda told: (told["rollout"]["reads_on_new_ratio"], told["rollout"]["refused"]) == (0.5, None)
        )
        flagd(file, 50, "new")
        await running.wait_for(lambda told: told["authority"] == "new")
        # Without the file the last values stay, also over a reload.
        file.unlink()
        await asyncio.to_thread(running.command, "set", "max_pause=4s")
        told = await running.wait_for(lambda told: told["rollout"]["max_pause_s"] == 4)
        assert (told["authority"], told["rollout"]["writes_on"]) == ("new", "new")
        assert told["rollout"]["reads_on_new_ratio"] == 0.5
