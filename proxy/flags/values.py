"""What the value of a flag means, and a configuration with such values in it. Pure.

reads_on_new   37, 37.5 or "37%"
writes_on      "old" or "new"; true is new
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.config import Config, units


class Flag(NamedTuple):
    """A line of the file that a flag stands for."""

    database: str
    name: str  # reads or writes
    key: str  # what the provider calls it


Values = Mapping[Flag, Any]
"""Meanings, as `meaning` returns them."""

_FIELDS = {"reads": "reads_on_new_ratio", "writes": "writes_on"}


def flags_of(config: Config) -> Iterator[Flag]:
    """Yield the flags that a configuration names."""
    for database, section in config.databases.items():
        for name in _FIELDS:
            key = getattr(section.rollout.flags, name)
            if key is not None:
                yield Flag(database, name, key)


def meaning(flag: Flag, value: object) -> float | str:
    """Return what a provider's value means: a ratio, or a cluster.

    Raises:
        ValueError: Nothing; the message says what would.
    """
    if flag.name == "writes":
        found = {True: "new", False: "old"}.get(value, value) if isinstance(value, bool) else value
        if found not in ("old", "new"):
            raise ValueError(f'flag {flag.key}: "{value}" is neither old nor new')
        return str(found)
    if isinstance(value, str):
        try:
            return units.ratio(value if value.rstrip().endswith("%") else f"{value}%")
        except ValueError as error:
            raise ValueError(f"flag {flag.key}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"flag {flag.key}: {value} is not a percentage between 0 and 100")
    return value / 100


def overlaid(config: Config, values: Values) -> Config:
    """Return a configuration in which the values of flags stand for the lines of the file."""
    databases = dict(config.databases)
    for flag in flags_of(config):
        if flag in values:
            database = databases[flag.database]
            changed = {_FIELDS[flag.name]: values[flag]}
            rollout = database.rollout.model_copy(update=changed)
            databases[flag.database] = database.model_copy(update={"rollout": rollout})
    return config.model_copy(update={"databases": databases})
