"""What was found once and is kept to be looked up: bounded in bytes, not in entries.

One generated text can be larger than a thousand ordinary ones. When all is full it starts
anew: what is used is found again within a few requests, and nothing need be noted at a hit.
"""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

STATEMENT_BYTES = 1500  # what a Statement takes, measured on a dozen typical ones
ENTRY_BYTES = 500  # what anything kept takes beside its texts: tuples, a place in the dictionary


class Kept(dict[K, V]):
    """A dictionary that is emptied when what was put into it would take too many bytes."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._bytes_max = bytes_max
        self.size_bytes = 0

    def keep(self, key: K, value: V, size_bytes: int) -> None:
        """Add an entry; one that is larger than everything may be is not kept."""
        if self.size_bytes + size_bytes > self._bytes_max:
            self.clear()
        if size_bytes <= self._bytes_max:
            self.size_bytes += size_bytes
            self[key] = value

    def clear(self) -> None:
        """Drop everything."""
        super().clear()
        self.size_bytes = 0
