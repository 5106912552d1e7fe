"""What a switch does to sessions that have something on their server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.routing.policy import Side
from tests.integration.crossings import Crossing
from tests.integration.stand import Stand

WRITE = "UPDATE users SET hits = hits + 1 WHERE id = 1"
VERSION = "SELECT current_setting('server_version_num')::int / 10000"
LISTENING = "SELECT array_agg(c ORDER BY c) FROM pg_listening_channels() c"


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.begin()
        yield crossing


class Listener:
    """A client that listens, and what it has heard."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.heard: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    async def listen(self, *channels: str) -> None:
        for channel in channels:
            await self.connection.add_listener(channel, self._hear)

    async def hear(self, count: int) -> list[tuple[str, str]]:
        """Return what was heard once it is this much."""
        async with asyncio.timeout(20):
            while len(self.heard) < count:
                self._news.clear()
                await self._news.wait()
        return self.heard

    def _hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.heard.append((channel, str(payload)))
        self._news.set()


async def test_who_listens_hears_what_is_said_on_the_new_authority(crossing: Crossing) -> None:
    """Idle over the switch, and the next one back: it moves by itself."""
    async with Stand(crossing) as stand:
        listener, speaker = Listener(await stand.connect()), await stand.connect()
        await listener.listen("news", "Other news")
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        for number, to in enumerate((Side.NEW, Side.OLD, Side.NEW), start=1):
            assert (await crossing.switch(to)).is_done
            while ("news", str(number)) not in listener.heard:
                await crossing.side(to).execute(f"NOTIFY news, '{number}'")
                await asyncio.sleep(0.01)
            listener.heard.clear()
            await speaker.execute(f"SELECT pg_notify('Other news', '{number}')")
            while ("Other news", str(number)) not in await listener.hear(1):
                await asyncio.sleep(0.01)
        assert await listener.connection.fetchval(LISTENING) == ["Other news", "news"]
        assert await listener.connection.fetchval(VERSION) == 18
        await listener.connection.execute("UNLISTEN *")
        assert (await stand.report())["pinned"] == []


async def test_who_listens_writes_on_the_new_authority(crossing: Crossing) -> None:
    async with Stand(crossing) as stand:
        listener = Listener(await stand.connect())
        await listener.listen("news")
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        assert await listener.connection.execute(WRITE + "; NOTIFY news, 'written'") == "NOTIFY"
        assert await listener.hear(1) == [("news", "written")]


async def test_who_listens_at_a_proxy_that_missed_the_switch_is_run_again(crossing: Crossing) -> None:
    async with Stand(crossing, is_deaf=True) as stand:
        listener = Listener(await stand.connect())
        await listener.listen("news")
        assert (await crossing.switch(Side.NEW)).is_done
        assert await listener.connection.execute(WRITE) == "UPDATE 1"
        await listener.connection.execute("NOTIFY news, 'told'")
        assert await listener.hear(1) == [("news", "told")]
        assert await crossing.new.fetchval("SELECT hits FROM users WHERE id = 1") == 1


async def test_a_transaction_of_who_listens_is_over_before_it_moves(crossing: Crossing) -> None:
    async with Stand(crossing) as stand:
        listener = Listener(await stand.connect())
        await listener.listen("news")
        await listener.connection.execute("BEGIN READ ONLY")
        assert await listener.connection.fetchval(VERSION) == 16
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        assert await listener.connection.fetchval(VERSION) == 16
        await listener.connection.execute("COMMIT")
        assert await listener.connection.fetchval(VERSION + " FROM users WHERE id = 1 FOR UPDATE") == 18
        assert await listener.connection.fetchval(LISTENING) == ["news"]


PINNED = {
    "temporary object": "CREATE TEMP TABLE basket AS SELECT 7 AS item",
    "session-level advisory lock": "SELECT pg_advisory_lock(7)",
    "cursor WITH HOLD": "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 7; COMMIT",
}


@pytest.mark.parametrize("reason", PINNED)
async def test_who_cannot_move_has_a_grace_and_is_then_told_why(crossing: Crossing, reason: str) -> None:
    async with Stand(crossing, grace=0.4) as stand:
        client = await stand.connect()
        await client.execute(PINNED[reason])
        gone = asyncio.Event()
        client.add_termination_listener(lambda _: gone.set())
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        assert await client.fetchval(VERSION) == 16  # it may still read what it has
        async with asyncio.timeout(20):
            await gone.wait()
        assert (await stand.report())["pinned"] == []


async def test_who_is_ended_reads_the_reason(crossing: Crossing) -> None:
    async with Stand(crossing, grace=0.2) as stand:
        client = await stand.connect()
        await client.execute(PINNED["temporary object"])
        crossing.proxies = stand.proxies  # type: ignore[assignment]
        assert (await crossing.switch(Side.NEW)).is_done
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="temporary object") as raised:
            await client.execute("SELECT pg_sleep(30)")
        assert isinstance(raised.value.__cause__, asyncpg.AdminShutdownError)  # 57P01
