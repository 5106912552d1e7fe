"""Ask for the flags again and again; what cannot be had keeps its last value.

The race: a value that differs from the one before is an order to whoever conducts the switch.
So the first value that is ever seen is told apart (`is_first`): it was there before us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import structlog

from proxy.config import Config
from proxy.config.model import Flags
from proxy.errors import FlagsUnavailable
from proxy.flags.providers import Ask, close, opened
from proxy.flags.values import Flag, flags_of, meaning

_log = structlog.get_logger()
_ANSWER_S_MAX = 10.0


class FlagWatch:
    """The flags of a configuration, as last seen.

    Args:
        settings: None: no flags.
    """

    def __init__(self, settings: Flags | None, *, open_provider: Callable[[Flags], Ask] = opened) -> None:
        self.values: dict[Flag, Any] = {}
        self.problems: dict[str, str] = {}  # by key: why the last value is kept
        self._settings = settings
        self._open = open_provider
        self._ask: Ask | None = None

    async def look(self, config: Config, only: Collection[str] | None = None) -> tuple[bool, bool]:
        """Ask for every flag once; return whether any value changed, and whether any was the first.

        A change and a first value at once count as first: an order is only what was surely one.

        Args:
            only: The databases whose flags are asked for; None: all.
        """
        flags = list(flags_of(config))
        asked = [flag for flag in flags if only is None or flag.database in only]
        kept = {flag.key for flag in flags} - {flag.key for flag in asked}
        problems = {key: problem for key, problem in self.problems.items() if key in kept}
        has_changed = is_first = False
        for flag in asked:
            try:
                value = meaning(flag, await self._value(flag))
            except (FlagsUnavailable, ValueError, TimeoutError) as error:
                problems[flag.key] = str(error) or "no answer in time"
                continue
            is_first = is_first or flag not in self.values
            has_changed = has_changed or self.values.get(flag) != value
            self.values[flag] = value
        for key, problem in problems.items():
            if self.problems.get(key) != problem:
                _log.warning("flag keeps its last value", flag=key, reason=problem)
        self.problems = problems
        return has_changed, is_first

    async def run(self, config: Callable[[], Config], changed: Callable[[bool], Awaitable[None]]) -> None:
        """Look until cancelled.

        Args:
            changed: Called after a change; its argument says whether it is an order.
        """
        while self._settings is not None:
            await asyncio.sleep(self._settings.poll_s)
            has_changed, is_first = await self.look(config())
            if has_changed:
                await changed(not is_first)

    def close(self) -> None:
        """End what the provider has started."""
        if self._ask is not None:
            close()

    async def _value(self, flag: Flag) -> Any:
        assert self._settings is not None, "no configuration names flags without a section flags"
        async with asyncio.timeout(_ANSWER_S_MAX):
            if self._ask is None:
                self._ask = await asyncio.to_thread(self._open, self._settings)
            return await asyncio.to_thread(self._ask, flag)
