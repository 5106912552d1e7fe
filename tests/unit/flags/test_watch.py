"""What is lost keeps its last value; the first value that is seen is no order."""

from __future__ import annotations

from typing import Any

from proxy.config import loads
from proxy.config.model import Flags
from proxy.errors import FlagsUnavailable
from proxy.flags.values import Flag
from proxy.flags.watch import FlagWatch
from tests.unit.config.sample import ENVIRONMENT
from tests.unit.flags.test_values import READS, TEXT, WRITES

CONFIG = loads(TEXT, ENVIRONMENT)


class Provider:
    """Answers what the test wants."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def ask(self, flag: Flag) -> Any:
        if flag.key not in self.values:
            raise FlagsUnavailable(f"flag {flag.key} is not there")
        return self.values[flag.key]


def watch(provider: Provider) -> FlagWatch:
    settings = Flags(provider="environment")
    return FlagWatch(settings, open_provider=lambda _: provider.ask)


async def test_a_change_is_told_and_the_first_value_is_told_apart() -> None:
    provider = Provider(reads=5, writes="old")
    flags = watch(provider)
    assert await flags.look(CONFIG) == (True, True)
    assert await flags.look(CONFIG) == (False, False)
    provider.values["writes"] = "new"
    assert await flags.look(CONFIG) == (True, False)
    assert flags.values == {READS: 0.05, WRITES: "new"}


async def test_what_is_lost_or_means_nothing_keeps_its_last_value() -> None:
    provider = Provider(reads=5, writes="new")
    flags = watch(provider)
    await flags.look(CONFIG)
    provider.values = {"reads": 500}
    assert await flags.look(CONFIG) == (False, False)
    assert flags.values == {READS: 0.05, WRITES: "new"}
    assert flags.problems == {
        "reads": "flag reads: 500 is not a percentage between 0 and 100",
        "writes": "flag writes is not there",
    }
    provider.values = {"reads": 5, "writes": "new"}
    assert await flags.look(CONFIG) == (False, False)
    assert flags.problems == {}


async def test_a_provider_that_comes_late_orders_nothing() -> None:
    provider = Provider()
    flags = watch(provider)
    assert await flags.look(CONFIG) == (False, False)
    provider.values = {"reads": 5, "writes": "new"}
    assert await flags.look(CONFIG) == (True, True)


async def test_only_the_flags_of_some_databases_are_asked_for() -> None:
    provider = Provider(reads=5)
    flags = watch(provider)
    await flags.look(CONFIG)
    provider.values = {"reads": 6, "writes": "new"}
    assert await flags.look(CONFIG, only=["other"]) == (False, False)
    assert flags.values == {READS: 0.05}
    assert flags.problems == {"writes": "flag writes is not there"}
