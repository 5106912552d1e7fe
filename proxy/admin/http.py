"""The admin side over HTTP: metrics, health, JSON, and one page for people.

    /metrics      Prometheus text
    /healthz      200 while the process serves, 503 with the reason otherwise
    /readyz       200 while new clients should come here, 503 with the reason otherwise
    /api/status   the whole status as JSON (`status_model`)
    /             the dashboard, which polls /api/status

Rule 1: nothing here changes anything, so nothing here needs a log-in; yet it tells
names and addresses, so it belongs on an address that only operators reach.
Rule 2: every answer has a time limit: a stuck database must not pile up scrapes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.admin.status_model import Status
from proxy.config import Address

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
}


class Sources(NamedTuple):
    """Where the answers come from. A reason is one clause; None means all is well."""

    metrics: Callable[[], Awaitable[bytes]]
    status: Callable[[], Awaitable[Status]]
    unhealthy: Callable[[], str | None]
    not_ready: Callable[[], str | None]


def application(sources: Sources, *, timeout_s: float = 5.0) -> web.Application:
    """Return the application; `listening` serves it.

    Args:
        timeout_s: Longest that one answer may take.
    """

    async def metrics(_: web.Request) -> web.Response:
        text = await sources.metrics()
        return web.Response(body=text, headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def status(_: web.Request) -> web.Response:
        return web.json_response(await sources.status(), dumps=_dumps)

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(sources.unhealthy())

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(sources.not_ready())

    async def dashboard(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    @web.middleware
    async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(timeout_s):
                response = await handler(request)
        except TimeoutError:
            response = web.Response(status=503, text=f"no answer within {timeout_s} s\n")
        response.headers.update(_HEADERS)
        return response

    page = resources.files("proxy.admin").joinpath("dashboard.html").read_text("utf-8")
    app = web.Application(middlewares=[bounded], client_max_size=1024)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/api/status", status)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/", dashboard)
    return app


@asynccontextmanager
async def listening(app: web.Application, address: Address) -> AsyncIterator[Address]:
    """Serve an application; yield the address, its port filled in where it was 0."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port)
        await site.start()
        yield Address(address.host, int(runner.addresses[0][1]))
    finally:
        await runner.cleanup()


def _verdict(reason: str | None) -> web.Response:
    return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=reason + "\n")


def _dumps(value: object) -> str:
    # What PostgreSQL returned (a datetime, a Decimal) is shown, never a reason to show nothing.
    return json.dumps(value, default=str)
