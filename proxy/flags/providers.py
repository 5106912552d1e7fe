"""Where flags come from; every provider answers one question: the value of a key, now.

LaunchDarkly and flagd are asked through OpenFeature, in threads of their own: their
libraries are not asynchronous. Both are libraries of the extra `flags`; the environment
needs none.

OpenFeature asks by type, so the question is put again with the next type where the first
does not fit; numbers last, as some providers take a boolean for one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from proxy.config.load import KeyPath
from proxy.config.model import Config, Flags
from proxy.errors import FlagsUnavailable
from proxy.flags.values import Flag

if TYPE_CHECKING:
    from openfeature.client import OpenFeatureClient

Ask = Callable[[Flag], Any]
"""Returns a flag's value, or raises FlagsUnavailable: it cannot be had now. It may block."""

_DOMAIN = "crossfade"
_START_WAIT_S = 5.0


_LIBRARIES = {
    "launchdarkly": ("openfeature", "ld_openfeature"),
    "flagd": ("openfeature", "openfeature.contrib.provider.flagd"),
    "environment": (),
}


def problems(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield what is missing for the provider that a configuration names."""
    if config.flags is None:
        return
    provider = config.flags.provider
    if not all(map(_is_installed, _LIBRARIES[provider])):
        message = f"{provider} needs libraries that are not installed: pip install 'crossfade[flags]'"
        yield ("flags", "provider"), message


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False


def opened(settings: Flags) -> Ask:
    """Return the provider that the configuration names; it may block for some seconds.

    Raises:
        FlagsUnavailable: It cannot start.
    """
    if settings.provider == "environment":
        return _environment
    from openfeature import api
    from openfeature.evaluation_context import EvaluationContext

    try:
        provider = _launchdarkly(settings) if settings.provider == "launchdarkly" else _flagd(settings)
    except Exception as error:  # each library has its own
        raise FlagsUnavailable(f"{settings.provider}: {error}") from error
    with contextlib.suppress(Exception):  # it goes on trying; until it is ready it has no values
        api.set_provider_and_wait(provider, _DOMAIN)
    client = api.get_client(_DOMAIN)
    return lambda flag: _value(client, flag, EvaluationContext(flag.database))


def close() -> None:
    """End the threads of whatever `opened` has started."""
    if _is_installed("openfeature"):
        from openfeature import api

        api.shutdown()


def _environment(flag: Flag) -> str:
    value = os.environ.get(flag.key)
    if value is None:
        raise FlagsUnavailable(f"the environment variable {flag.key} is not set")
    return value


def _launchdarkly(settings: Flags) -> Any:
    from ld_openfeature import LaunchDarklyProvider
    from ldclient.config import Config
    from ldclient.integrations import Files

    source = Files.new_data_source([settings.file], auto_update=True) if settings.file is not None else None
    config = Config(
        settings.sdk_key or "none",
        offline=settings.offline,
        update_processor_class=source,
        send_events=False if source is not None else None,
    )
    return LaunchDarklyProvider(config, _START_WAIT_S)


def _flagd(settings: Flags) -> Any:
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType

    if settings.file is not None:
        return FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=settings.file)
    assert settings.address is not None, "the configuration has one of the two"
    host, port = settings.address.host, settings.address.port
    return FlagdProvider(host=host, port=port, resolver_type=ResolverType.IN_PROCESS)


def _value(client: OpenFeatureClient, flag: Flag, context: Any) -> Any:
    from openfeature.exception import ErrorCode

    questions: tuple[Callable[[], Any], ...] = (
        lambda: client.get_string_details(flag.key, "", context),
        lambda: client.get_boolean_details(flag.key, False, context),
        lambda: client.get_float_details(flag.key, 0.0, context),
    )
    for ask in questions:
        answer = ask()
        if answer.error_code is None:
            return answer.value
        if answer.error_code is not ErrorCode.TYPE_MISMATCH:
            break
    raise FlagsUnavailable(f"flag {flag.key}: {answer.error_message or answer.error_code.value}")
