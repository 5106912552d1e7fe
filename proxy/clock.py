"""The one place that reads time, so that tests can pass in another.

Monotonic seconds, comparable between the processes of one machine
(CLOCK_MONOTONIC on Linux), never between machines: whatever travels through
PostgreSQL is ordered by snapshots and epochs instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

now_s: Clock = time.monotonic
