"""Passwords of users that the configuration does not list, by a query of the database.

PgBouncer's auth_query: the first parameter is the name, the last column the secret in the
form of `pg_authid.rolpassword`. Answers are kept for a while, names that nobody has too, so
that a burst of logins is one query; but a login that fails is the end of what it was checked
by, so that a new password is refused once at most.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from proxy.clock import Clock, now_s

Query = Callable[[str], Awaitable[list[str | None]]]
"""Runs a text, returns its first row; empty: there is none."""

_PARAMETER = re.compile(r"\$1(?!\d)")
_KEPT_S = 60.0
_KEPT_MAX = 10_000


class Lookup:
    """The secrets of one database's users."""

    def __init__(self, *, clock: Clock = now_s) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[float, str | None]] = {}  # oldest first

    async def secret(self, user: str, text: str, query: Query, quote: Callable[[str], str]) -> str | None:
        """Return a user's secret; None: there is no such user, or it has no password."""
        now = self._clock()
        until_s, found = self._kept.get(user, (0.0, None))
        if until_s > now:
            return found
        row = await query(_PARAMETER.sub(lambda _: quote(user), text))
        found = (row[-1] or None) if row else None
        self.forget(user)
        if len(self._kept) >= _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[user] = (now + _KEPT_S, found)
        return found

    def forget(self, user: str) -> None:
        """Ask again next time: the secret may have changed."""
        self._kept.pop(user, None)

    def clear(self) -> None:
        """Ask again for everybody."""
        self._kept.clear()
