"""What becomes of a pinned session when the authority moves away from its server.

Whatever a server knows of the session, and the session of itself, can be had elsewhere:
settings, prepared statements, the channels it listens to. Such a session gets another server
at once, so that it hears what is said on the new authority, by a request of our own: an empty
one, before which goes the usual preamble. The client sees nothing of it.

Others keep their server for `rollout.grace`, to read there what they have in temporary
tables, say, and are then ended; also when they write, since nobody may write there.
"""

from __future__ import annotations

from proxy.errors import SessionMoved
from proxy.server.link import Link
from proxy.server.request import Request
from proxy.server.requests import QUERY
from proxy.server.state import State
from proxy.session.pins import Pins
from proxy.wire.frames import Frame


def move() -> Request:
    """Return the request whose only use is that the session gets a server of the authority."""
    request = Request((), frame=Frame(QUERY, b"\0"))
    request.is_own = request.is_forced = True
    return request


def is_stranded(state: State, link: Link) -> bool:
    """Return whether pins keep a server that is not the authority's any more."""
    return link.server is not None and bool(state.pins) and state.database.is_elsewhere(link.server)


def can_follow(state: State, link: Link) -> bool:
    """Return whether a session shall leave such a server for one of the authority."""
    return state.pins.can_move and is_stranded(state, link)


def ended(pins: Pins) -> SessionMoved:
    """Return what a session is told that cannot move."""
    return SessionMoved(
        f"the authority moved and this session cannot: {pins}",
        hint="reconnect: new sessions work on the new authority",
    )
