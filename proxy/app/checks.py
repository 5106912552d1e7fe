"""What a configuration needs from outside it: certificates that can be read, libraries that are there."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config import Config
from proxy.config.load import KeyPath
from proxy.flags import providers
from proxy.tls import contexts


def problems(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is missing, and the key that asks for it."""
    yield from contexts.problems(config)
    yield from providers.problems(config)
