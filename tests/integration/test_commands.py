"""The subcommands on clusters that are not as a tidy migration would have them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.app import commands
from proxy.config.model import Config
from proxy.demo.clusters import Cluster

SCHEMA = "CREATE TABLE users (id int PRIMARY KEY)"


@pytest.mark.parametrize("old, new, count", [("", "", 0), (SCHEMA, "", 1), (SCHEMA, SCHEMA, 1)])
async def test_init_comes_before_or_after_the_tables(
    pg16: Cluster, pg18: Cluster, make_database: Callable[..., str], old: str, new: str, count: int
) -> None:
    sides = {"old": {"primary": make_database(pg16, old)}, "new": {"primary": make_database(pg18, new)}}
    config = Config.model_validate(
        {"listen": "127.0.0.1:0", "databases": {"app": {**sides, "auth": "trust"}}}
    )
    ready = ["app: old is ready", "app: new is ready"]
    for _ in range(2):  # it is idempotent
        assert await commands.init(config, remove=False) == [f"app: {count} tables are mirrored", *ready]
    assert await commands.init(config, remove=True) == ["app: schema crossfade removed from both clusters"]
