"""What a session may do with the socket of its client."""

from __future__ import annotations

from typing import Protocol


class Client(Protocol):
    """The socket of one client; `listener.ClientConnection` is it."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self, reason: str) -> None: ...
    def resume_reading(self, reason: str) -> None: ...
    def close(self) -> None: ...
