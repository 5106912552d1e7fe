"""Find the session that a CancelRequest means.

A cancel comes over a connection of its own and carries the key that the proxy gave
at login; the key of the server that runs the statement at this moment is another.
The secret comes from the operating system's generator: four bytes, or thirty-two for
clients that speak protocol 3.2.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from proxy.wire import startup


class Cancellable(Protocol):
    """A session that may be running a statement."""

    def cancel(self) -> None:
        """Cancel what runs now, if anything does."""


class CancelKeys:
    """The cancel keys of all sessions of this process.

    Args:
        worker: Number of this process among those that share the port; it is part of
            the process id that clients are shown, so that another worker can tell whose it is.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._next = 0
        self._sessions: dict[bytes, Cancellable] = {}

    def issue(self, session: Cancellable, secret_bytes: int = startup.SECRET_BYTES) -> bytes:
        """Return a new key: the body of BackendKeyData."""
        self._next += 1
        process_id = (self._worker << 24) | (self._next & 0xFFFFFF)
        key = startup.cancel_key(process_id, secrets.token_bytes(secret_bytes))
        self._sessions[key] = session
        return key

    def withdraw(self, key: bytes) -> None:
        """Forget a key; its session has ended."""
        self._sessions.pop(key, None)

    def cancel(self, key: bytes) -> bool:
        """Cancel what the session of that key runs; False when no session here has it."""
        session = self._sessions.get(key)
        if session is not None:
            session.cancel()
        return session is not None
