"""One proxy for all tests of a driver: starting one takes seconds, emptying its tables does not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from proxy.demo.clusters import Cluster
from tests.integration.through import Crossing, crossing

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def crossed(pg16: Cluster, pg18: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crossing]:
    """A proxy in front of two databases, for all tests of a module."""
    name = f"crossed{os.getpid()}_{next(_numbers)}"

    def make_database(cluster: Cluster, schema: str) -> str:
        cluster.psql(f"CREATE DATABASE {name}")
        cluster.psql(schema, name)
        return cluster.url(name)

    with crossing(tmp_path_factory.mktemp("crossed"), (pg16, pg18), make_database) as made:
        yield made
    for cluster in (pg16, pg18):
        cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def through(crossed: Crossing) -> Crossing:
    """The same with empty tables, whose numbers begin at 1."""
    crossed.empty()
    return crossed
