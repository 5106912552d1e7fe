"""Clusters for the tests: started once a session, a fresh database for every test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator

import pytest

import tests.seeds  # noqa: F401 - draws this run's seed before any other process of it is started
from proxy.demo.clusters import Cluster, VersionMissing

_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, a skipped test is a failed one: there, nothing may be missing unseen.

    Except PostgreSQL 15, which no wheel has, and a small disk, which only root can mount: these
    tests repeat what others show.
    """
    report = yield
    is_skipped = report.skipped and not hasattr(report, "wasxfail")
    is_excused = not {"pg15", "small_disk"}.isdisjoint(getattr(item, "fixturenames", ()))
    if os.environ.get("CI") and is_skipped and not is_excused:
        report.outcome = "failed"
        report.longrepr = f"skipped, although CI is set: {report.longrepr}"
    return report


def start_or_skip(version: int) -> Cluster:
    """Start a cluster; where the machine lacks that version, skip and say what to install."""
    try:
        return Cluster(version).create().start()
    except VersionMissing as missing:
        if os.environ.get("CI") and version != 15:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def pg15() -> Iterator[Cluster]:
    cluster = start_or_skip(15)
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def pg16() -> Iterator[Cluster]:
    cluster = start_or_skip(16)
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def pg18() -> Iterator[Cluster]:
    cluster = start_or_skip(18)
    yield cluster
    cluster.remove()


def _databases() -> Iterator[Callable[..., str]]:
    made: list[tuple[Cluster, str]] = []

    def make(cluster: Cluster, schema: str = "", options: str = "") -> str:
        name = f"t{os.getpid()}_{next(_numbers)}"
        cluster.psql(f"CREATE DATABASE {name} {options}")
        made.append((cluster, name))
        if schema:
            cluster.psql(schema, name)
        return cluster.url(name)

    yield make
    for cluster, name in made:
        cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def make_database() -> Iterator[Callable[..., str]]:
    """Return a function: cluster, schema SQL, options -> URL of a fresh database, dropped after the test."""
    yield from _databases()


@pytest.fixture(scope="module")
def make_shared_database() -> Iterator[Callable[..., str]]:
    """Return the same for databases that the tests of one file share."""
    yield from _databases()


@pytest.fixture
def old_db(pg16: Cluster, make_database: Callable[..., str]) -> str:
    """URL of a fresh database on PostgreSQL 16."""
    return make_database(pg16)


@pytest.fixture
def new_db(pg18: Cluster, make_database: Callable[..., str]) -> str:
    """URL of a fresh database on PostgreSQL 18."""
    return make_database(pg18)
