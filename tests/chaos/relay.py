"""A network between a client and a PostgreSQL server that can be made bad.

    delay_s         every chunk comes late, by up to so much
    lose_answer     of the next query with a certain text: the server has done it, the client never learns
    lose_query      the same query never reaches the server
    meet            something is done in the moment in which such a query passes, before or behind it
    cut             connections end, as by a firewall that sends RST
    half_close      no more comes from one end, whose socket stays open: FIN one way, silence the other
    stall, resume   nothing passes in either direction, nothing is closed

The relay reads frames of the server only as far as it must: type and length.
(PostgreSQL manual, "Message Formats".)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Self

_CHUNK_BYTES = 65536
_COMMAND_COMPLETE, _READY_FOR_QUERY = ord("C"), ord("Z")


class Relay:
    """Relays a loopback port to the server's."""

    def __init__(self, server_port: int, *, seed: int = 0) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._server_port = server_port
        self._chance = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._lose_answer: bytes | None = None
        self._lose_query: bytes | None = None
        self._meeting: tuple[bytes, bool, Callable[[], None]] | None = None
        self.lost_count = 0
        self._pairs: set[_Pair] = set()

    def lose_answer(self, text: str) -> None:
        """Do away with the last CommandComplete of the next query with this text, then cut."""
        self._lose_answer = text.encode()

    def lose_query(self, text: str) -> None:
        """Cut the connection on which the next query with this text comes, instead of sending it."""
        self._lose_query = text.encode()

    async def meet(self, text: str, happen: Callable[[], None], *, is_before: bool, wait_s: float) -> bool:
        """Do something when the next query with this text comes; return whether it came in time."""
        met = asyncio.Event()
        self._meeting = (text.encode(), is_before, lambda: (happen(), met.set())[1])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(met.wait(), wait_s)
        self._meeting = None
        return met.is_set()

    def meets(self, chunk: bytes, *, is_before: bool) -> None:
        """Do what was to be done at this query."""
        if self._meeting is not None and self._meeting[1] is is_before and self._meeting[0] in chunk:
            happen, self._meeting = self._meeting[2], None
            happen()

    def cut(self) -> None:
        """End every connection at once."""
        for pair in tuple(self._pairs):
            pair.abort()

    def half_close(self) -> None:
        """Let the clients believe that the servers have nothing more to say, while those wait."""
        for pair in tuple(self._pairs):
            pair.half_close()

    def go_wrong(self, text: str) -> None:
        """Do one of these at random; a query to lose is one with this text."""
        match self._chance.randrange(4):
            case 0:
                self.cut()
            case 1:
                self.half_close()
            case 2:
                self.lose_answer(text)
            case _:
                self.lose_query(text)

    def stall(self) -> None:
        """Let nothing pass, and close nothing."""
        self._open.clear()

    def resume(self) -> None:
        """Let everything pass again, what was held back first."""
        self._open.set()

    def heal(self) -> None:
        """Be a good network from now on; what was open is cut."""
        self.delay_s = 0.0
        self._lose_answer = self._lose_query = None
        self.resume()
        self.cut()

    async def pass_on(self) -> None:
        """Wait as long as the network takes."""
        if self.delay_s:
            await asyncio.sleep(self._chance.random() * self.delay_s)
        await self._open.wait()

    def takes_query(self, chunk: bytes) -> bool:
        """Return whether the query is lost on its way."""
        if self._lose_query is None or self._lose_query not in chunk:
            return False
        self._lose_query = None
        self.lost_count += 1
        return True

    def takes_answer(self, chunk: bytes) -> bool:
        """Return whether the answer to this query is to be lost."""
        if self._lose_answer is None or self._lose_answer not in chunk:
            return False
        self._lose_answer = None
        return True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.resume()
        while self._pairs:
            self.cut()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(self, (reader, writer), server)
        self._pairs.add(pair)
        try:
            await pair.run()
        finally:
            self._pairs.discard(pair)
            pair.abort()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One connection: the client's half and the server's."""

    def __init__(self, relay: Relay, client: _Stream, server: _Stream) -> None:
        self._relay = relay
        self._client, self._server = client, server
        self._is_losing = False  # the answer that comes now
        self._is_half_closed = False

    async def run(self) -> None:
        """Relay until one end closes."""
        halves = {asyncio.create_task(self._there()), asyncio.create_task(self._back())}
        await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in (self._client, self._server):
            writer.close()
        await asyncio.wait(halves)

    def abort(self) -> None:
        """Reset both halves."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    def half_close(self) -> None:
        """Send the client a FIN, and go on taking what it sends."""
        self._is_half_closed = True
        with contextlib.suppress(OSError, RuntimeError):
            self._client[1].write_eof()

    async def _there(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._client[0].read(_CHUNK_BYTES):
                await self._relay.pass_on()
                if self._relay.takes_query(chunk):
                    self.abort()
                    return
                self._is_losing = self._is_losing or self._relay.takes_answer(chunk)
                self._relay.meets(chunk, is_before=True)
                self._server[1].write(chunk)
                self._relay.meets(chunk, is_before=False)
                await self._server[1].drain()

    async def _back(self) -> None:
        frames = _Frames()
        with contextlib.suppress(OSError):
            while chunk := await self._server[0].read(_CHUNK_BYTES):
                await self._relay.pass_on()
                if self._is_half_closed:
                    continue
                if self._is_losing:
                    chunk, is_lost = frames.without_last_command(chunk)
                    if is_lost:
                        self._relay.lost_count += 1
                        self._client[1].write(chunk)
                        await self._client[1].drain()
                        self.abort()
                        return
                self._client[1].write(chunk)
                await self._client[1].drain()


class _Frames:
    """The server's answer, of which the last CommandComplete is kept back."""

    def __init__(self) -> None:
        self._rest = b""
        self._kept = b""

    def without_last_command(self, chunk: bytes) -> tuple[bytes, bool]:
        """Return what may be passed on, and whether the answer has ended."""
        self._rest += chunk
        passed = b""
        while len(self._rest) >= 5:
            end = 1 + int.from_bytes(self._rest[1:5], "big")
            if len(self._rest) < end:
                break
            frame, self._rest = self._rest[:end], self._rest[end:]
            if frame[0] == _READY_FOR_QUERY:
                return passed, True
            if frame[0] == _COMMAND_COMPLETE:
                passed, self._kept = passed + self._kept, frame
            else:
                passed += self._kept + frame
                self._kept = b""
        return passed, False
