"""pgbench through the proxy while every write is captured; afterwards both sides are equal."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.clusters import Cluster, binaries
from tests.integration.through import Crossing
from tests.running import Running

KEYS = {
    "pgbench_accounts": "aid", "pgbench_branches": "bid", "pgbench_tellers": "tid",
    "pgbench_history": "tid, bid, aid, delta, mtime",
}  # fmt: skip
SETTINGS = {"pool": {"size": 20}}


@pytest.fixture(scope="module")
def through(pg16: Cluster, pg18: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crossing]:
    """A proxy in front of pgbench's tables; the new side has them empty."""
    name = "pgbench_through"
    for cluster in (pg16, pg18):
        cluster.psql(f"CREATE DATABASE {name}")
        cluster.run(
            "pgbench", "-i", "-s", "1", "-q", "-I", "dtpg" if cluster is pg16 else "dtp", cluster.url(name)
        )
    folder: Path = tmp_path_factory.mktemp("pgbench")
    with Running(folder, pg16.url(name), pg18.url(name), SETTINGS) as running:
        running.command("init")
        running.start()
        yield Crossing(running, (pg16, pg18), (name, name))
    for cluster in (pg16, pg18):
        cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


def run_pgbench(*arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run pgbench, whatever it ends with."""
    return subprocess.run(
        [binaries(16) / "pgbench", *arguments],
        input=text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("clients_count", [8, 64])
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("script", ["select-only", "tpcb-like"])
async def test_load_runs_without_a_failure(
    through: Crossing, pg16: Cluster, script: str, protocol: str, clients_count: int
) -> None:
    # One run of each script also VACUUMs and TRUNCATEs first, as pgbench does unless told not to.
    prepares = ["-n"] if (protocol, clients_count) != ("simple", 8) else []
    transactions = (2400 if script == "select-only" else 640) // clients_count
    printed = await asyncio.to_thread(
        pg16.run, "pgbench", "-b", script, "-M", protocol, "-c", str(clients_count), "-j", "2",
        "-t", str(transactions), *prepares, through.url,
    )  # fmt: skip
    processed = re.search(r"actually processed: (\d+)/(\d+)", printed)
    assert processed is not None and processed[1] == processed[2], printed
    assert "number of failed transactions: 0 " in printed


SCRIPT = r"""
\set aid random(1, 100000)
\startpipeline
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\endpipeline
LISTEN news;
NOTIFY news;
UNLISTEN news;
BEGIN;
DECLARE c CURSOR FOR SELECT aid FROM pgbench_accounts WHERE aid <= :aid ORDER BY aid;
FETCH 10 FROM c;
FETCH 10 FROM c;
COMMIT;
"""


async def test_pipelines_cursors_and_notifications_on_ever_new_connections(
    through: Crossing,
) -> None:
    options = ("-n", "-M", "extended", "-C", "-c", "4", "-t", "20", "-f", "-")
    done = await asyncio.to_thread(run_pgbench, *options, through.url, text=SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "actually processed: 80/80" in done.stdout
    assert "number of failed transactions: 0 " in done.stdout


async def test_error_ends_its_client_alone(through: Crossing) -> None:
    script = "INSERT INTO pgbench_branches (bid) VALUES (100);\n"
    done = await asyncio.to_thread(
        run_pgbench, "-n", "-c", "4", "-t", "1", "-f", "-", through.url, text=script
    )
    assert done.returncode == 2
    assert done.stderr.count("duplicate key value violates unique constraint") == 3
    assert "actually processed: 1/4" in done.stdout


async def test_initial_rows_are_copied_and_an_interrupt_cancels_their_making(
    through: Crossing, pg16: Cluster
) -> None:
    await asyncio.to_thread(pg16.run, "pgbench", "-i", "-q", "-I", "g", through.url)
    assert through.rows(0, "pgbench_accounts", "aid").count("\n") == 100_000
    # It waits for a lock, so that there is no doubt what is cancelled.
    holder, watching = [await asyncpg.connect(through.side_url(0)) for _ in range(2)]
    async with holder.transaction():
        await holder.execute("LOCK TABLE pgbench_accounts")
        making = subprocess.Popen(
            [binaries(16) / "pgbench", "-i", "-I", "G", through.url], stderr=subprocess.PIPE, text=True
        )
        while not await watching.fetch(
            "SELECT FROM pg_stat_activity WHERE query LIKE '%truncate table%' AND wait_event_type = 'Lock'"
        ):
            assert making.poll() is None, making.communicate()
        making.send_signal(signal.SIGINT)
        _, said = await asyncio.to_thread(making.communicate, timeout=30)
    await holder.close()
    await watching.close()
    assert "canceling statement due to user request" in said
    assert making.returncode == 1


async def test_both_sides_are_equal_and_a_change_behind_the_proxy_is_found_and_mended(
    through: Crossing, pg18: Cluster
) -> None:
    running = through.running

    async def verified() -> None:
        """The engine, too, has compared everything; what a comparison finds makes it look again soon."""
        await running.wait_for(
            lambda told: bool(told["verification"]["at"]) and not told["verification"]["differing"]
        )

    await through.assert_equal(KEYS)
    await verified()
    assert running.command("verify").returncode == 0
    balances = through.rows(0, "pgbench_accounts", "aid")

    pg18.psql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 4711", "pgbench_through")
    found = running.command("verify", "--repair", "--json", check=False)
    assert found.returncode == 1, found.stderr
    assert "4711" in json.dumps(json.loads(found.stdout))
    await through.assert_equal(KEYS)
    await verified()

    pg18.psql("DELETE FROM pgbench_accounts WHERE aid = 99", "pgbench_through")
    pg18.psql("UPDATE pgbench_tellers SET tbalance = -1 WHERE tid = 7", "pgbench_through")
    found = running.command("verify", check=False)
    assert found.returncode == 1, found.stderr
    for word in ("pgbench_accounts", "99", "missing", "pgbench_tellers", "7", "tbalance"):
        assert word in found.stdout
    await verified()
    await through.assert_equal(KEYS)
    assert running.command("verify").returncode == 0
    assert through.rows(0, "pgbench_accounts", "aid") == balances
