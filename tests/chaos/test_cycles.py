"""Unique values change hands in rings whose rows are in different passes: each pass resolves its part."""

from __future__ import annotations

import random

import pytest

from proxy.converge import closure
from proxy.ledger import reading
from tests.integration.mirrors import Mirror

TABLE = "CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, slot int UNIQUE)"


async def rotated(
    old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch, *, length: int, entries_max: int
) -> list[str]:
    """Rotate two unique values round a ring, with so many entries a pass; return what differs."""
    chance = random.Random(length * 10 + entries_max)
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(TABLE)
        await mirror.execute(f"INSERT INTO users SELECT n, 'u' || n, n FROM generate_series(1, {length}) n")
        monkeypatch.setattr(reading, "ENTRIES_MAX", entries_max)
        ring = chance.sample(range(1, length + 1), length)
        await mirror.write(
            f"UPDATE users SET email = 'x' || id, slot = -id;"
            f"UPDATE users SET email = 'u' || (id % {length} + 1), slot = id % {length} + 1",
            users=ring,
        )
        for _ in range(3 * length + 3):
            await mirror.old.execute("UPDATE crossfade.ledger SET retry_at = now()")
            if (await mirror.converger.converge_entries()).is_complete:
                break
        return await mirror.differences("users")


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("entries_max", [1, 2])
async def test_a_ring_that_is_split_over_passes_converges(
    old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch, length: int, entries_max: int
) -> None:
    assert await rotated(old_db, new_db, monkeypatch, length=length, entries_max=entries_max) == []


async def test_waiting_for_the_others_instead_of_reading_them_never_ends(
    old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(*_: object) -> bool:
        return False

    monkeypatch.setattr(closure, "resolve", wait)
    assert await rotated(old_db, new_db, monkeypatch, length=3, entries_max=1) == ["users"]
