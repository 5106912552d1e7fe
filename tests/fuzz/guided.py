"""Bytes that reach new code are kept and changed further: a search that knows what it has covered.

    make fuzz [SECONDS=60]      needs `pip install atheris`

What breaks something is written to a file `crash-...`, which as an argument is tried again.
"""

from __future__ import annotations

import asyncio
import sys

import atheris

with atheris.instrument_imports(include=["proxy.wire", "proxy.server", "proxy.session", "proxy.upstream"]):
    from tests.fuzz.targets import ANSWERS, LOGIN, PIECES, REQUESTS, client_says, server_says

_PIECES_MAX = 8


def try_one(data: bytes) -> None:
    """Say what the bytes stand for: usual messages by number, anything else as it is."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 2)
    usual = (LOGIN, *REQUESTS, *PIECES) if kind < 2 else ANSWERS
    pieces = []
    for _ in range(provider.ConsumeIntInRange(1, _PIECES_MAX)):
        number = provider.ConsumeIntInRange(0, len(usual))
        size = provider.ConsumeIntInRange(1, 60)
        pieces.append(usual[number] if number < len(usual) else provider.ConsumeBytes(size))
    if kind < 2:
        asyncio.run(client_says(pieces, is_logged_in=bool(kind)))
    else:
        asyncio.run(server_says(REQUESTS[provider.ConsumeIntInRange(0, len(REQUESTS) - 1)], pieces))


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
