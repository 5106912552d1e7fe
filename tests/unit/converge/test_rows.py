"""The pipe between two connections, with fakes for the two ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from proxy.converge.rows import Into, SourceRefused, pipe

INTO = Into("public", "t", ["id"])


class Source:
    """Sends numbered chunks; fails after `fails_after` of them."""

    def __init__(self, chunks_count: int, fails_after: int | None = None) -> None:
        self.sent = 0
        self._count, self._fails_after = chunks_count, fails_after

    async def copy_from_query(self, query: str, *, output: Any, **_: object) -> None:
        for number in range(self._count):
            if number == self._fails_after:
                raise asyncpg.InvalidTextRepresentationError("no number")
            await output(str(number).encode())
            self.sent += 1


class Target:
    """Takes chunks; refuses at chunk `refuses_at`."""

    def __init__(self, refuses_at: int | None = None) -> None:
        self.taken: list[bytes] = []
        self.ahead_max = 0
        self.source: Source | None = None
        self._refuses_at = refuses_at

    async def copy_to_table(self, name: str, *, source: AsyncIterator[bytes], **_: object) -> str:
        async for chunk in source:
            if len(self.taken) == self._refuses_at:
                raise asyncpg.CheckViolationError("no")
            self.taken.append(chunk)
            if self.source is not None:
                self.ahead_max = max(self.ahead_max, self.source.sent - len(self.taken))
        return f"COPY {len(self.taken)}"


async def run(source: Source, target: Target) -> int:
    return await pipe(source, "q", target, INTO, format="text")  # type: ignore[arg-type]


async def test_all_chunks_arrive_in_order_and_few_are_ever_in_memory() -> None:
    source, target = Source(500), Target()
    target.source = source
    assert await run(source, target) == 500
    assert target.taken == [str(number).encode() for number in range(500)]
    assert target.ahead_max <= 10


async def test_refusal_of_the_target_leaves_the_source_read_to_its_end() -> None:
    source = Source(500)
    with pytest.raises(asyncpg.CheckViolationError):
        await run(source, Target(refuses_at=3))
    assert source.sent == 500


@pytest.mark.parametrize("fails_after", [0, 3, 499])
async def test_failure_of_the_source_is_never_a_short_table(fails_after: int) -> None:
    with pytest.raises(SourceRefused, match="no number") as refused:
        await run(Source(500, fails_after), Target())
    assert isinstance(refused.value.cause, asyncpg.InvalidTextRepresentationError)
