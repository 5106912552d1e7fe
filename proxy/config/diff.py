"""What a new configuration changes, and which of it only a restart can change.

Compared key by key, as the file writes them, so that the operator reads back the
lines that were edited. Most changes are live: they take effect for the next
transaction. The rest is listed in `RESTART`, with the reason; a reload applies
what is live and names the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from pydantic import BaseModel

from proxy.config import units
from proxy.config.model import Config
from proxy.config.values import NOT_IN_FILE

RESTART: Mapping[str, str] = {
    "listen": "clients are listened for since the start",
    "unix_socket_dir": "clients are listened for since the start",
    "admin": "the admin side listens since the start",
    "admin.*": "the admin side listens since the start",
    "flags": "the provider is asked since the start",
    "flags.*": "the provider is asked since the start",
    "workers": "the workers run since the start",
    "databases.*.old.primary": "the authority's and the mirror's addresses are what the ledger is bound to",
    "databases.*.new.primary": "the authority's and the mirror's addresses are what the ledger is bound to",
}

_SECRET = ("password", "sdk_key", "verifier")


class _Value(NamedTuple):
    """What is compared, and what of it is shown: URLs and passwords hide a part."""

    compared: object
    shown: str


class Change(NamedTuple):
    """One key that differs: its two values as text, None where it is absent."""

    key: str
    old: str | None
    new: str | None
    reason: str = ""  # why it needs a restart; empty where it is live

    def __str__(self) -> str:
        return f"{self.key}: {self.old or 'absent'} -> {self.new or 'absent'}"


class Diff(NamedTuple):
    """All changes, by when they take effect."""

    live: tuple[Change, ...]
    needs_restart: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.live or self.needs_restart)


def diff(old: Config, new: Config) -> Diff:
    """Return what differs between two configurations, in the order of the file."""
    return _diff(dict(_flatten(old, "")), dict(_flatten(new, "")))


def changes_between(old: Mapping[str, str], new: Mapping[str, str]) -> Diff:
    """Return what differs between two configurations as `shown` gave them."""
    before, after = ({key: _Value(text, text) for key, text in each.items()} for each in (old, new))
    return _diff(before, after)


def shown(config: Config) -> dict[str, str]:
    """Return every value by its key, as the file would write it; passwords are hidden."""
    return {key: value.shown for key, value in _flatten(config, "")}


def until_restart(running: Config, wanted: Config) -> Config:
    """Return what a reload takes into force: `wanted`, but for what only a restart can change."""
    databases = dict(wanted.databases)
    for name in running.databases.keys() & wanted.databases.keys():
        database, before = wanted.databases[name], running.databases[name]
        old = database.old.model_copy(update={"primary": before.old.primary})
        new = database.new.model_copy(update={"primary": before.new.primary})
        databases[name] = database.model_copy(update={"old": old, "new": new})
    kept = {
        name: getattr(running, name) for name in ("listen", "unix_socket_dir", "admin", "workers", "flags")
    }
    return wanted.model_copy(update={**kept, "databases": databases})


def _diff(before: Mapping[str, _Value], after: Mapping[str, _Value]) -> Diff:
    live: list[Change] = []
    needs_restart: list[Change] = []
    come_or_go = set(map(_database, before)) ^ set(map(_database, after))
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) == after.get(key):
            continue
        reason = "" if _database(key) in come_or_go else _reason(key)
        change = Change(key, _shown(before.get(key)), _shown(after.get(key)), reason)
        (needs_restart if reason else live).append(change)
    return Diff(tuple(live), tuple(needs_restart))


def _database(key: str) -> str | None:
    return key.split(".")[1] if key.startswith("databases.") else None


def _reason(key: str) -> str:
    return next((reason for pattern, reason in RESTART.items() if fnmatchcase(key, pattern)), "")


def _shown(value: _Value | None) -> str | None:
    return None if value is None else value.shown


def _flatten(section: BaseModel, prefix: str) -> Iterator[tuple[str, _Value]]:
    """Yield every key that has a value, and the value as the file would write it."""
    for name, field in type(section).model_fields.items():
        alias = str(field.validation_alias or name)
        if alias != NOT_IN_FILE:
            yield from _entries(getattr(section, name), prefix + alias, name)


def _entries(value: object, key: str, name: str) -> Iterator[tuple[str, _Value]]:
    if value is None:
        return
    if isinstance(value, BaseModel):
        yield from _flatten(value, f"{key}.")
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from _entries(item, f"{key}.{inner}", "")
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for item in value:
            # Users are told apart by name: one more in front does not change the others.
            yield from _flatten(item, f"{key}[{getattr(item, 'name', '')}].")
    elif isinstance(value, tuple) and not hasattr(value, "_fields"):
        yield key, _Value(value, "[" + ", ".join(map(str, value)) + "]")
    else:
        yield key, _Value(value, "(secret)" if name in _SECRET else _text(value, name))


def _text(value: object, name: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and name.endswith("_ratio"):
        return units.show_ratio(value)
    if isinstance(value, int | float) and name.endswith("_s"):
        return units.show_seconds(value)
    return str(value)
