"""Ask a running proxy for its status, as the subcommands do."""

from __future__ import annotations

import aiohttp

from proxy.admin.status_model import Status
from proxy.config.dsn import Address

_TIMEOUT_S = 5.0


async def ask(address: Address) -> Status | None:
    """Return the status of the proxy whose admin side listens there; None if none answers."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}/api/status") as answer,
        ):
            told: Status = await answer.json()
            return told
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
