"""`mirror.ack: sync`: a client learns of its commit when the mirror has it, or time is up.

The commit itself has happened and is durable on the authority; only its acknowledgement
waits, at most `mirror.ack_timeout`. The server is given back meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class _Waiting(NamedTuple):
    committed_s: float
    deadline_s: float
    go_on: Callable[[], None]


class Acks:
    """The acknowledgements of one database that wait for the mirror, oldest first."""

    def __init__(self) -> None:
        self.timeout_s: float | None = None  # None: `ack: async`, nothing waits
        self.late_count = 0  # acknowledged by timeout, before the mirror had the write
        self._waiting: deque[_Waiting] = deque()

    def wait(self, committed_s: float, go_on: Callable[[], None]) -> None:
        """Call back when the mirror has everything acknowledged before `committed_s`, or time is up."""
        assert self.timeout_s is not None
        self._waiting.append(_Waiting(committed_s, committed_s + self.timeout_s, go_on))

    def settle(self, *, fresh_until_s: float, now_s: float) -> None:
        """Let those go on that the mirror has caught up with, or that have waited long enough."""
        while self._waiting:
            first = self._waiting[0]
            if first.committed_s >= fresh_until_s and first.deadline_s > now_s:
                return
            self._waiting.popleft()
            self.late_count += first.committed_s >= fresh_until_s
            first.go_on()


class Delayed:
    """The acknowledgement of one session that waits.

    Args:
        go_on: Called when the client has it: its next request may begin.
    """

    def __init__(self, acks: Acks, write: Callable[[bytes], None], go_on: Callable[[], None]) -> None:
        self._acks = acks
        self._write = write
        self._go_on = go_on
        self.output = b""  # kept back; empty: none waits

    @property
    def is_wanted(self) -> bool:
        """Whether acknowledgements wait for the mirror at all."""
        return self._acks.timeout_s is not None

    def add(self, output: bytes) -> None:
        """Keep the end of an answer back."""
        self.output += output

    def wait(self, committed_s: float) -> None:
        """Send it when the mirror has everything committed before `committed_s`, or time is up."""
        self._acks.wait(committed_s, self._send)

    def _send(self) -> None:
        output, self.output = self.output, b""
        self._write(output)
        self._go_on()
