"""One proxy for all tests of a file: starting one takes seconds, emptying its tables does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from proxy.demo.clusters import Cluster
from tests.integration.through import Cross, Crossing, crossing


@pytest.fixture(scope="module")
def cross(
    pg16: Cluster,
    pg18: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    make_shared_database: Callable[..., str],
) -> Iterator[Cross]:
    """Return a function that puts a proxy in front of two databases, until the file's tests are done.

    It takes what `through.crossing` takes from the schema on.
    """
    with ExitStack() as stack:

        def begin(*arguments: Any, **named: Any) -> Crossing:
            folder = tmp_path_factory.mktemp("crossing")
            made = crossing(folder, (pg16, pg18), make_shared_database, *arguments, **named)
            return stack.enter_context(made)

        yield begin


@pytest.fixture(scope="module")
def crossed(cross: Cross) -> Crossing:
    """A proxy in front of two databases."""
    return cross()


@pytest.fixture
def through(crossed: Crossing) -> Crossing:
    """The same with empty tables, whose numbers begin at 1."""
    crossed.empty()
    return crossed
