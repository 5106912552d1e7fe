"""COPY FROM STDIN under way: the client's bytes go to the server, only boundaries are watched.

The server may give up in the middle of one of the client's messages. The rest of that
message must reach it before anything else does, so its ReadyForQuery is acted on only
when the client's message is whole.
"""

from __future__ import annotations

from proxy.wire.frames import CopyRelay


class CopyIn:
    """One COPY FROM STDIN."""

    def __init__(self) -> None:
        self._relay = CopyRelay()
        self._ready: int | None = None

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what goes to the server, and what lies behind the COPY."""
        return self._relay.feed(data)

    def delays(self, ready: int) -> bool:
        """Whether the server's ReadyForQuery must wait; it is then returned by `take_ready`."""
        if self._relay.is_between_messages:
            return False
        self._ready = ready
        return True

    def take_ready(self) -> int | None:
        """Return the ReadyForQuery that was delayed, once the client's message is whole."""
        if self._ready is None or not self._relay.is_between_messages:
            return None
        ready, self._ready = self._ready, None
        return ready
