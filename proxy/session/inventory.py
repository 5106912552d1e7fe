"""What a session has on its server, as PostgreSQL tells it.

Functions, triggers and DO set, create and lock without a word of it in any statement. When one that
may have done so has run, the server is asked: inside a transaction only for what decides on the
meaning of names, and when the transaction has ended for all there is. What was not known becomes the
session's own, as if it had said it itself: settings follow it to other servers, what cannot move
pins it.

PostgreSQL lists no custom settings (app.tenant): they can be asked for by name only. Known are the names
that stand in functions and in requests (`named_in`). For any others the server is kept apart: before
another session has it, all is reset (`State.preamble`). So nothing stays behind.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection
from typing import NamedTuple

from proxy.session.pins import QUESTIONS
from proxy.session.settings import Settings, of_text
from proxy.sql.quote import quote_text
from proxy.sql.statement import NAMING, Pin, Setting

_ROLE, _USER = "role", "session_authorization"  # not in pg_settings
_OF_TRANSACTION = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})

_NAMES = {
    "role": "current_setting('role')",
    "user": "session_user",
    "relations": "ARRAY(SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = pg_my_temp_schema())",
}
_REST: dict[str, str] = {
    "prepared": "ARRAY(SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql)",
    "has_parsed": "EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql)",
    "channels": "ARRAY(SELECT pg_listening_channels())",
    **{pin.value: sql for pin, sql in QUESTIONS.items()},
}


_SETTINGS = """(
    WITH listed AS MATERIALIZED (SELECT lower(name) AS name, source, context FROM pg_catalog.pg_settings)
    SELECT jsonb_object_agg(name, value) FROM (
        SELECT name, CASE source WHEN 'session' THEN current_setting(name) END FROM listed
         WHERE context IN ('user', 'superuser') AND (source = 'session' OR name = ANY ({known}))
        UNION ALL
        SELECT name, current_setting(name, true) FROM unnest({custom}) name
         WHERE name LIKE '%.%' AND name NOT IN (SELECT name FROM listed)
    ) setting (name, value))"""
_custom = re.compile(rb"[A-Za-z_][\w$]*(?:\.[\w$]+)+")
_NAMES_MAX = 100


class Inventory(NamedTuple):
    """What a server has told; inside a transaction what is named first, and no more."""

    settings: dict[str, str | None]  # made by SET; None: it was, as far as we know, and is no more
    role: str
    user: str
    relations: frozenset[str]  # temporary ones
    pins: frozenset[Pin] = frozenset()
    prepared: frozenset[str] = frozenset()  # by PREPARE
    has_parsed: bool = True  # any named statement of the protocol
    channels: frozenset[str] = frozenset()


def named_in(data: bytes) -> set[str]:
    """Return what may be names of custom settings in a message of a client."""
    names = (found.decode().lower() for found in itertools.islice(_custom.findall(data), _NAMES_MAX))
    return set(names)


def question(applied: Settings, custom: Collection[str], *, is_inside: bool) -> str:
    """Return the SQL expression to ask a server for.

    Args:
        applied: The settings that it was given, as far as we know.
        custom: Names of custom settings that it may have.
        is_inside: There is a transaction.
    """
    settings = _SETTINGS.format(known=_array(applied.values), custom=_array({*applied.values, *custom}))
    parts = {**_NAMES, "settings": settings, **({} if is_inside else _REST)}
    return f"jsonb_build_object({', '.join(f'{quote_text(name)}, {sql}' for name, sql in parts.items())})"


def read(answer: str) -> Inventory:
    """Return what a server has told."""
    told = json.loads(answer)
    settings = {
        name: value for name, value in (told["settings"] or {}).items() if name not in _OF_TRANSACTION
    }
    return Inventory(
        settings, told["role"], told["user"], frozenset(told["relations"]),
        frozenset(pin for pin in QUESTIONS if told.get(pin.value)),
        frozenset(told.get("prepared", ())), told.get("has_parsed", True),
        frozenset(told.get("channels", ())),
    )  # fmt: skip


def names_only(changes: tuple[Setting, ...]) -> tuple[Setting, ...]:
    """Return those on which it depends what names mean, for a transaction that is under way.

    Whether they outlast it is known when it has ended.
    """
    return tuple(change._replace(is_local=True) for change in changes if change.name in NAMING)


def changes(found: Inventory, applied: Settings, login: str) -> tuple[Setting, ...]:
    """Return in which settings a server differs from what we gave it.

    Args:
        login: The role that its session began as.
    """
    told = {
        _USER: None if found.user == login else found.user,
        _ROLE: None if found.role == "none" else found.role,
        **found.settings,
    }
    named = (
        Setting(name, None, False) if value is None else of_text(name, value) for name, value in told.items()
    )
    return tuple(each for each in named if not _is_known(each.value_sql, applied.values.get(each.name)))


def _array(names: Collection[str]) -> str:
    return f"ARRAY[{', '.join(map(quote_text, sorted(names)))}]::text[]"


def _is_known(value_sql: str | None, applied_sql: str | None) -> bool:
    """Return whether a server was given this value, perhaps without the quotes."""
    if value_sql is None or applied_sql is None:
        return value_sql is applied_sql or value_sql == "''"  # which a custom one is after RESET
    return value_sql.strip("'\"") == applied_sql.strip("'\"")
