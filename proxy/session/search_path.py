"""The schemas in which an unqualified name is looked up, from the text of the setting.

Behind them may stand marks, which no schema is taken for: the role whose privileges are in
force, the names that temporary relations of the session bear, and that a backslash escapes
in its texts. The whole is what a session's judgements depend on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# One element of the list: "quoted", 'quoted', or bare (folded to lower case).
_ELEMENT = re.compile(r"""\s*(?:"((?:[^"]|"")*)"|'((?:[^']|'')*)'|([^,\s"']+))\s*(?:,|$)""")

_HIDDEN = "\0"  # which no name can hold
ESCAPES = "\0\\"
"""A mark: with standard_conforming_strings off, a text with a backslash cannot be judged."""
UNCERTAIN = "\0?"
"""A mark: a setting that cannot be named has changed, and it may be this one."""

_ROLE = "\0="


def acting(role: str) -> str:
    """Return the mark of the role whose privileges are in force."""
    return _ROLE + role


def role_in(path: Sequence[str]) -> str | None:
    """Return the role whose privileges are in force; None where the path has no mark of it."""
    return next((entry[len(_ROLE) :] for entry in path if entry.startswith(_ROLE)), None)


def hiding(path: tuple[str, ...], names: frozenset[str]) -> tuple[str, ...]:
    """Return the path with the names that temporary relations bear."""
    return path + tuple(_HIDDEN + name for name in sorted(names))


def hidden(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that temporary relations bear."""
    return tuple(entry[1:] for entry in path if entry.startswith(_HIDDEN) and not entry.startswith(_ROLE))


def current_user(settings: Mapping[str, str], user: str) -> str:
    """Return the role that `$user` stands for: that of SET ROLE or SET SESSION AUTHORIZATION, if any."""
    for name in ("role", "session_authorization"):
        found = resolved(settings[name], "") if name in settings else ()
        if found and found[0] != "none":
            return found[0]
    return user


def marks(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Return the mark of a session whose texts read differently."""
    value = settings.get("standard_conforming_strings", "on").strip("'").lower()
    return () if value in ("on", "true", "yes", "1") else (ESCAPES,)


def resolved(setting: str, user: str) -> tuple[str, ...]:
    """Return the schemas of a search_path, `$user` replaced by the user's name."""
    path = []
    for double, single, bare in _ELEMENT.findall(setting):
        name = double.replace('""', '"') or single.replace("''", "'") or bare.lower()
        if name:
            path.append(user if name == "$user" else name)
    return tuple(path)


def listed(setting: str) -> str:
    """Return the SQL value list of a setting that came as one string: each element quoted.

    `SET search_path TO 'a, b'` would mean one schema of that name.
    """
    names = [double or single or bare.lower() for double, single, bare in _ELEMENT.findall(setting)]
    return ", ".join('"' + name + '"' for name in names) or "''"
