"""End clients that take too long: a statement, a pause inside a transaction, or outside of one.

Nothing of this is on the path of a statement but one flag, `was_heard`. Every second each
client is looked at: whoever was heard since the last look, or is in another state than then,
has been quiet only since now. So each timeout is exact to about a second, and costs nothing
where none is set.
"""

from __future__ import annotations

from typing import Protocol

from proxy.config.serving import Timeouts
from proxy.errors import ProxyError, TookTooLong

INTERVAL_S = 1.0
NONE = Timeouts()
_IDLE = 0x49  # transaction status I


class Watched(Protocol):
    """A client that is logged in."""

    was_heard: bool
    mood: tuple[bool, int]  # what it was doing at the last look: nothing, and its transaction status
    quiet_since_s: float

    def doing(self) -> tuple[bool, int]:
        """Return the same as of now."""

    def end(self, problem: ProxyError) -> None:
        """Tell the client why, and end it."""


def look(client: Watched, timeouts: Timeouts, now_s: float) -> None:
    """Look at one client, and end it if it takes too long."""
    mood = client.doing()
    if client.was_heard or mood != client.mood:
        client.was_heard, client.mood, client.quiet_since_s = False, mood, now_s
        return
    problem = overdue(timeouts, mood, now_s - client.quiet_since_s)
    if problem is not None:
        client.end(problem)


def overdue(timeouts: Timeouts, mood: tuple[bool, int], quiet_s: float) -> ProxyError | None:
    """Return why a client must go that has been quiet for so long; None: it may stay."""
    is_idle, status = mood
    if not is_idle:
        limit_s, sqlstate, what = timeouts.query_s, "57014", "query"
    elif status != _IDLE:
        limit_s, sqlstate, what = timeouts.idle_transaction_s, "25P03", "idle_transaction"
    else:
        limit_s, sqlstate, what = timeouts.client_idle_s, "57P05", "client_idle"
    if limit_s is None or quiet_s <= limit_s:
        return None
    return TookTooLong(f"terminating connection due to timeouts.{what} of {limit_s:g} s", sqlstate)
