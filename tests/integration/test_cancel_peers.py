"""Two proxies on two hosts behind one balancer: a cancel may come to the one that knows nothing of it."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Iterator

import asyncpg
import pytest

from tests.integration.protocol import Raw, query
from tests.running import DATABASE, Running

CANCEL = 1234 << 16 | 5678
SLEEP = query("SELECT pg_sleep(60)")


@pytest.fixture
def two(
    old_db: str, new_db: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("here", "there")]
    with Running(folders[0], old_db, new_db) as here, Running(folders[1], old_db, new_db, workers=2) as there:
        here.command("init")
        yield here.start(), there.start()


def cancel(port: int, key: bytes) -> None:
    """Send a CancelRequest, and wait until it was taken."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
        other.sendall(struct.pack("!II", 8 + len(key), CANCEL) + key)
        assert other.recv(1) == b""


async def know_each_other(url: str) -> None:
    """Wait until both proxies listen to what is asked of all."""
    connection = await asyncpg.connect(url)
    listening = "SELECT count(*) FROM crossfade.proxy WHERE until > clock_timestamp()"
    while await connection.fetchval(listening) < 2:
        await asyncio.sleep(0.1)
    await connection.close()


async def test_a_cancel_finds_its_session_on_another_host(two: tuple[Running, Running], old_db: str) -> None:
    await know_each_other(old_db)
    for mine, others in (two, reversed(two)):
        with Raw(mine.port, DATABASE) as client, Raw(others.port, DATABASE) as bystander:
            for each in (bystander, client):
                each.socket.sendall(SLEEP.encode())
            client._owed_readies = 1
            cancel(others.port, client.cancel_key)
            answer = await asyncio.to_thread(client.answer)
            assert "'C': '57014'" in answer[-2] and answer[-1] == "Z b'I'", answer
            # The next statement is not hit, nor anybody else's; and a key made up does nothing.
            cancel(others.port, client.cancel_key[:4] + secrets.token_bytes(4))
            assert client.ask([query("SELECT pg_sleep(0.5)")])[-1] == "Z b'I'"
            bystander.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                bystander.receive()
