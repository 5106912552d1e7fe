"""The admin side answers over real HTTP on loopback, always within its limit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from proxy.admin.http import Sources, application, listening
from proxy.admin.status_model import Status
from proxy.config import Address
from tests.unit.admin.sample import status


class Fake:
    """A proxy whose answers the test chooses."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def metrics(self) -> bytes:
        return b"crossfade_clients 3\n"

    async def status(self) -> Status:
        await self.answers.wait()
        return status()

    def why(self) -> str | None:
        return self.reason


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
async def client(fake: Fake) -> AsyncIterator[TestClient]:
    sources = Sources(fake.metrics, fake.status, unhealthy=fake.why, not_ready=fake.why)
    async with TestClient(TestServer(application(sources, timeout_s=0.05))) as client:
        yield client


async def test_metrics_are_prometheus_text(client: TestClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert await response.read() == b"crossfade_clients 3\n"


async def test_the_status_is_json(client: TestClient) -> None:
    assert await (await client.get("/api/status")).json() == status()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_a_code_and_a_reason(client: TestClient, fake: Fake, path: str) -> None:
    assert (await client.get(path)).status == 200
    fake.reason = "the proxy drains"
    response = await client.get(path)
    assert (response.status, await response.text()) == (503, "the proxy drains\n")


async def test_a_stuck_status_ends_and_leaves_the_rest_alone(client: TestClient, fake: Fake) -> None:
    fake.answers.clear()
    response = await client.get("/api/status")
    assert response.status == 503
    assert "no answer" in await response.text()
    assert (await client.get("/metrics")).status == 200


async def test_the_dashboard_is_one_page_that_loads_nothing_else(client: TestClient) -> None:
    response = await client.get("/")
    page = await response.text()
    assert response.content_type == "text/html"
    assert not re.search(r"""(src|href)=|https?://|innerHTML""", page)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


async def test_the_dashboard_asks_only_for_keys_that_a_status_has(client: TestClient) -> None:
    page = await (await client.get("/")).text()
    told = status()
    (database,) = told["databases"].values()
    for section in ("rollout", "ledger", "engine", "backfill", "clients", "verification"):
        for key in re.findall(rf"\bd\.{section}\.(\w+)", page):
            assert key in database[section], f"{section}.{key}"  # type: ignore[literal-required]
    assert set(re.findall(r"\bd\.(\w+)", page)) - {"key"} == set(database)


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/nothing", 404), ("POST", "/api/status", 405)])
async def test_nothing_else_is_there_and_nothing_can_be_changed(
    client: TestClient, method: str, path: str, code: int
) -> None:
    assert (await client.request(method, path)).status == code


async def test_port_zero_is_filled_in(fake: Fake) -> None:
    sources = Sources(fake.metrics, fake.status, unhealthy=fake.why, not_ready=fake.why)
    async with (
        listening(application(sources), Address("127.0.0.1", 0)) as address,
        ClientSession() as session,
        session.get(f"http://{address}/healthz") as response,
    ):
        assert response.status == 200
