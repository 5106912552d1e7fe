"""A reload that changes where servers are: nothing of the old ones is used for the new ones."""

from __future__ import annotations

from proxy.catalog.model import Catalog
from proxy.config import loads
from proxy.errors import ProxyError
from proxy.routing.policy import Place, Side
from proxy.server.database import Database
from proxy.upstream.connection import ServerConnection
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed
from tests.unit.upstream.sample import FakeServer

REPLICA = Place(Side.OLD, 1)
PRIMARY = Place(Side.OLD, 0)


class Waiting:
    """A session that waits for a connection."""

    def __init__(self) -> None:
        self.refusals: list[ProxyError] = []

    def server_granted(self, server: ServerConnection) -> None:
        raise AssertionError("there is no server")

    def server_refused(self, problem: ProxyError) -> None:
        self.refusals.append(problem)


def configured() -> Database:
    return Database(loads(SAMPLE, ENVIRONMENT).databases["app"], Side.OLD, Catalog())


def reload(database: Database, old: str, new: str) -> None:
    database.configure(loads(changed(old, new), ENVIRONMENT).databases["app"])


async def test_a_replica_at_another_address_is_another_server() -> None:
    database = configured()
    pool, freshness = database.pool(REPLICA, "app"), database.servers[REPLICA]
    freshness.is_up = True
    primary, waiting = database.pool(PRIMARY, "app"), Waiting()
    pool._retry_at_s = float("inf")  # no connection is opened in this test
    pool.wait(waiting)
    reload(database, "127.0.0.1:5503", "127.0.0.1:5504")
    assert pool.is_closed
    assert len(waiting.refusals) == 1
    assert database.pool(REPLICA, "app") is not pool
    assert not database.servers[REPLICA].is_up
    assert database.pool(PRIMARY, "app") is primary


async def test_a_replica_that_is_gone_is_not_asked_any_more() -> None:
    database = configured()
    pool = database.pool(REPLICA, "app")
    reload(database, ', replicas: ["postgresql://crossfade@127.0.0.1:5503/app"]', "")
    assert pool.is_closed
    assert REPLICA not in database.servers


async def test_pool_limits_change_in_the_pools_there_are() -> None:
    database = configured()
    pool = database.pool(PRIMARY, "app")
    reload(database, "pool: {size: 20, wait: 10s}", "pool: {size: 3, wait: 1500ms}")
    assert (pool.size_max, pool.wait_s) == (3, 1.5)


async def test_a_user_has_sizes_of_its_own() -> None:
    database = configured()
    reload(database, "password_env: APP_PASSWORD}", "password_env: APP_PASSWORD, pool_size: 2}")
    assert database.pool(PRIMARY, "app").size_max == 2
    assert database.pool(PRIMARY, "other").size_max == 20


async def test_pools_of_one_server_share_its_connections() -> None:
    database = configured()
    reload(database, "pool: {size: 20, wait: 10s}", "pool: {size: 20, max_connections: 2}")
    one, other = database.pool(PRIMARY, "app"), database.pool(PRIMARY, "other")
    elsewhere = database.pool(REPLICA, "app")
    for pool, number in ((one, 1), (other, 2), (elsewhere, 3)):
        server = FakeServer(float(number))
        pool._idle.append(server)  # type: ignore[arg-type]
    assert database._spare(PRIMARY, is_needed=False) == 0
    assert (one.count, other.count) == (1, 1)
    assert database._spare(PRIMARY, is_needed=True) == 1
    assert (one.count, other.count, elsewhere.count) == (0, 1, 1)


async def test_there_is_room_where_nothing_limits_it() -> None:
    assert configured()._spare(PRIMARY, is_needed=True) > 1_000_000
