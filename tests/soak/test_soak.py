"""64 clients share 4 server connections and do random things: nobody sees anything of anybody else.

make soak MINUTES=10      long; SEED=7 makes the same choices again
pytest tests/soak         a few seconds, as in CI
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from proxy.demo.clusters import Cluster
from tests.integration.through import crossing
from tests.soak.client import SCHEMA, Client

CLIENTS_COUNT = 64
DURATION_S = float(os.environ.get("MINUTES", "0.1")) * 60
SEED = int(os.environ.get("SEED", time.time()))


async def test_every_client_sees_its_own_alone(
    pg16: Cluster, pg18: Cluster, make_database: Callable[..., str], tmp_path: Path
) -> None:
    print(f"SEED={SEED}")
    changes = {"pool": {"size": 4, "wait": "60s"}}
    with crossing(tmp_path, (pg16, pg18), make_database, SCHEMA, changes) as through:
        clients = [Client(through.url, number, SEED) for number in range(1, CLIENTS_COUNT + 1)]
        end_s = time.monotonic() + DURATION_S
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(lambda: time.monotonic() >= end_s))
        done = sum((client.done for client in clients), Counter[str]())
        print(f"{sum(done.values())} steps in {DURATION_S:g} s: {dict(done)}")
        await through.assert_equal({"belonging": "owner, serial"})
