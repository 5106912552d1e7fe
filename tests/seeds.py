"""Seeds of the tests that draw at random: one is new in every run, and SEED=n replays one.

All processes of a run, whoever starts them, draw the same new seed: it travels in the
environment. So the names of the tests, which show their seeds, are the same in all.
"""

from __future__ import annotations

import os
import random

NEW = int(os.environ.setdefault("CROSSFADE_NEW_SEED", str(random.randrange(10**6))))


def seeds(*fixed: int) -> list[int]:
    """Return the seeds to run: those that are fixed and a new one, or only the one to replay."""
    return [int(os.environ["SEED"])] if "SEED" in os.environ else [*fixed, NEW]
