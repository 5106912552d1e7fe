"""Limits of time and number, with real clients and a real server."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from proxy.demo.clusters import Cluster
from tests.running import Running


@pytest.fixture
def limited(pg16: Cluster, old_db: str, new_db: str, tmp_path: Path) -> Iterator[Running]:
    changes = {
        "mirror": {"enabled": False},
        "timeouts": {"query": "1s", "idle_transaction": "1s", "client_idle": "4s"},
        "pool": {"size": 1, "reserve": 1, "reserve_timeout": "200ms", "min": 1},
    }
    with Running(tmp_path, old_db, new_db, changes) as running:
        yield running.start()


def test_whoever_takes_too_long_is_told_and_leaves_nothing_behind(limited: Running, pg16: Cluster) -> None:
    with (
        psycopg.connect(limited.url(), autocommit=True) as client,
        pytest.raises(psycopg.OperationalError, match=r"timeouts\.query"),
    ):
        client.execute("SELECT pg_sleep(600)")
    with psycopg.connect(limited.url()) as client:
        client.execute("SELECT txid_current()")
        assert select.select([client.fileno()], [], [], 60)[0]
        with pytest.raises(
            psycopg.errors.IdleInTransactionSessionTimeout, match=r"timeouts\.idle_transaction"
        ):
            client.execute("SELECT 1")
    left = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'"
    while pg16.psql(left).strip() != "0":
        time.sleep(0.1)


def test_a_client_that_waited_gets_a_connection_of_the_reserve(limited: Running) -> None:
    with psycopg.connect(limited.url()) as first, psycopg.connect(limited.url()) as second:
        first.execute("SELECT 1")
        assert second.execute("SELECT 2").fetchone() == (2,)


def test_nobody_has_waited_while_the_proxy_did_not_run(old_db: str, new_db: str, tmp_path: Path) -> None:
    """A virtual machine that pauses ends no statement that its clients still wait for."""
    changes = {"mirror": {"enabled": False}, "pool": {"size": 1, "wait": "2s"}}
    with Running(tmp_path, old_db, new_db, changes) as running, ThreadPoolExecutor() as beside:
        running.start()
        assert running.process is not None
        (worker,) = [
            child for child in psutil.Process(running.process.pid).children() if "worker" in child.cmdline()
        ]
        with psycopg.connect(running.url()) as first, psycopg.connect(running.url()) as second:
            first.execute("SELECT txid_current()")
            waiting = beside.submit(second.execute, "SELECT 2")
            while not running.status()["clients"]["waiting"]:
                time.sleep(0.01)
            worker.suspend()
            ending = beside.submit(first.commit)
            time.sleep(4)  # twice as long as anybody may wait
            worker.resume()
            assert waiting.result().fetchone() == (2,)
            ending.result()
