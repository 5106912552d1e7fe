"""Cut the messages of a client into requests, the units that are routed.

A request is a simple Query, a FunctionCall, or a batch of the extended protocol: the
messages up to and including Sync or Flush. A batch that grows beyond a bound is cut
and sent with a Flush of ours: what follows goes to the same server until its Sync.

A Query or FunctionCall may come before the Sync of a batch; PostgreSQL then runs it in the same
transaction and answers it alone, or ignores it behind an error. So it is cut there, too, and the
query waits until it is known how what came before went.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from proxy.server.client import Client
from proxy.wire.frames import Frame

QUERY, PARSE, BIND, DESCRIBE, EXECUTE, CLOSE = 0x51, 0x50, 0x42, 0x44, 0x45, 0x43
SYNC, FLUSH, FUNCTION_CALL, TERMINATE = 0x53, 0x48, 0x46, 0x58
COPY_DATA, COPY_DONE, COPY_FAIL = 0x64, 0x63, 0x66

BATCHED = frozenset({PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, SYNC, FLUSH})
ALONE = frozenset({QUERY, FUNCTION_CALL})
COPYING = frozenset({COPY_DATA, COPY_DONE, COPY_FAIL})

BATCH_FRAMES_MAX = 2000
BATCH_BYTES_MAX = 1 << 20
FRAMES_MAX = 4000
_FULL = "too many messages wait"
_FLUSHED = (Frame(FLUSH, b""),)


class Inbox:
    """The messages of a client that wait for their turn.

    When too many wait, the client is not read from until half of them are gone.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: deque[Frame] | None = None  # most requests are sent on as they arrive
        self._batch: list[Frame] = []
        self._batch_bytes = 0
        self._is_paused = False

    def __bool__(self) -> bool:
        # The beginning of a batch counts: what arrives next belongs behind it.
        return bool(self._waiting or self._batch)

    def add(self, frames: Iterable[Frame]) -> None:
        """Take messages that have arrived."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.extend(frames)
        if len(self._waiting) > FRAMES_MAX and not self._is_paused:
            self._is_paused = True
            self._client.pause_reading(_FULL)

    def take(self, *, is_unknown: bool = False) -> list[Frame]:
        """Return the messages of the next request, empty if none is complete.

        Args:
            is_unknown: How the part that was sent before went: it is too early for a query.
        """
        frames = self._take(is_unknown=is_unknown)
        self._resume()
        return frames

    def take_all(self) -> list[Frame]:
        """Return everything that waits: it turned out not to be requests."""
        frames = list(self._waiting or ())
        self._waiting = None
        self._resume()
        return frames

    def _resume(self) -> None:
        if self._is_paused and len(self._waiting or ()) < FRAMES_MAX // 2:
            self._is_paused = False
            self._client.resume_reading(_FULL)

    def _take(self, *, is_unknown: bool) -> list[Frame]:
        while self._waiting and self._waiting[0].code in BATCHED:
            frame = self._waiting.popleft()
            self._batch.append(frame)
            self._batch_bytes += len(frame.body)
            is_full = len(self._batch) >= BATCH_FRAMES_MAX or self._batch_bytes >= BATCH_BYTES_MAX
            if frame.code in (SYNC, FLUSH):
                return self._cut()
            if is_full:
                return self._cut(_FLUSHED)
        if self._waiting and self._waiting[0].code in ALONE:
            if self._batch:
                return self._cut(_FLUSHED)
            if is_unknown:
                return []
        return [self._waiting.popleft()] if self._waiting else []

    def _cut(self, end: Sequence[Frame] = ()) -> list[Frame]:
        frames, self._batch, self._batch_bytes = self._batch, [], 0
        return [*frames, *end]
