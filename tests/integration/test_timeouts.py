"""Limits of time and number, with real clients and a real server."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from pathlib import Path

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
