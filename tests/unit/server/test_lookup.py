"""Passwords by query: asked once for a while, and again when one did not fit."""

from __future__ import annotations

from proxy.server import lookup
from proxy.server.lookup import Lookup
from proxy.sql.quote import quote_text
from tests.unit.upstream.sample import Clock

TEXT = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND 10 <> $10"


class Asked:
    """A database whose only role is app."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.clock = Clock()
        self.lookup = Lookup(clock=self.clock)

    async def query(self, text: str) -> list[str | None]:
        self.texts.append(text)
        return ["app", "secret"] if "'app'" in text else ["idle", None] if "'idle'" in text else []

    async def secret(self, user: str) -> str | None:
        return await self.lookup.secret(user, TEXT, self.query, quote_text)


async def test_the_last_column_of_the_first_row_is_the_secret() -> None:
    asked = Asked()
    assert [await asked.secret(user) for user in ("app", "idle", "nobody")] == ["secret", None, None]
    assert asked.texts[0] == TEXT.replace("$1 ", "'app' ")


async def test_a_name_is_a_literal_whatever_is_in_it() -> None:
    asked = Asked()
    assert await asked.secret("x' OR rolname = 'app\\") is None
    assert asked.texts == [TEXT.replace("$1 ", " E'x'' OR rolname = ''app\\\\' ")]


async def test_an_answer_is_kept_for_a_minute_also_that_there_is_nobody() -> None:
    asked = Asked()
    for _ in range(3):
        await asked.secret("app")
        await asked.secret("nobody")
    assert len(asked.texts) == 2
    asked.clock.now_s += 61
    await asked.secret("app")
    assert len(asked.texts) == 3


async def test_a_secret_that_did_not_fit_is_asked_for_again() -> None:
    asked = Asked()
    await asked.secret("app")
    asked.lookup.forget("app")
    await asked.secret("app")
    assert len(asked.texts) == 2


async def test_names_that_strangers_try_are_not_kept_without_bound(monkeypatch) -> None:
    monkeypatch.setattr(lookup, "_KEPT_MAX", 3)
    asked = Asked()
    for number in range(10):
        await asked.secret(f"stranger {number}")
    assert len(asked.lookup._kept) == 3
