"""What functions leave in a session, with and without each guard that keeps it from others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.catalog.model import Catalog
from proxy.session import inventory
from proxy.upstream.connection import ServerConnection
from tests.integration.crossings import Crossing
from tests.integration.stand import Stand

_NAMED = "SET app.tenant = 'mine'"
_COMPUTED = "SET app.' || chr(120) || ' = 1"
_SCHEMA = """
CREATE SCHEMA tenant;
CREATE TABLE tenant.users (id int PRIMARY KEY, email text);
CREATE FUNCTION runs(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE $1; END $$;
"""


@pytest.fixture
async def crossing(old_db: str, new_db: str) -> AsyncIterator[Crossing]:
    async with Crossing(old_db, new_db) as crossing:
        await crossing.found()
        await crossing.execute(_SCHEMA)
        yield crossing


async def met(crossing: Crossing, said: str, name: str) -> str | None:
    """Return what a session finds in a setting that a function of the session before has made."""
    async with Stand(crossing) as stand:
        first, second = await stand.connect(), await stand.connect()
        await first.execute(f"SELECT runs('{said}')")
        await first.execute("SELECT 1")  # behind this the proxy knows all
        found: str | None = await second.fetchval(f"SELECT current_setting({name}, true)")
        return found


async def captured(crossing: Crossing, scope: str) -> int:
    """Return how many entries a write leaves whose table a function has chosen just before."""
    async with Stand(crossing) as stand:
        client = await stand.connect(search_path="tenant")
        async with client.transaction():
            await client.execute(f"SELECT public.runs('SET {scope} search_path TO public')")
            await client.execute("INSERT INTO users (id, email) VALUES (100, 'new')")
    count: int = await crossing.old.fetchval("SELECT count(*) FROM crossfade.ledger")
    return count


async def test_setting_of_a_function_meets_nobody_else(crossing: Crossing) -> None:
    assert await met(crossing, _NAMED.replace("'", "''"), "'app.tenant'") in (None, "")
    assert await met(crossing, _COMPUTED, "'app.' || chr(120)") in (None, "")


async def test_without_looking_for_traces_it_does(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Catalog, "leaves_traces", lambda *_: False)
    assert await met(crossing, _NAMED.replace("'", "''"), "'app.tenant'") == "mine"


async def test_without_resetting_all_one_that_nobody_can_name_does(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = property(lambda _: None, lambda *_: None)
    monkeypatch.setattr(ServerConnection, "left_by", nobody, raising=False)
    assert await met(crossing, _COMPUTED, "'app.' || chr(120)") == "1"


@pytest.mark.parametrize("scope", ["LOCAL", "SESSION"])
async def test_write_is_captured_in_the_table_that_a_function_has_chosen(
    crossing: Crossing, scope: str
) -> None:
    assert await captured(crossing, scope) == 1


async def test_without_asking_inside_the_transaction_it_is_lost(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "names_only", lambda changes: ())
    assert await captured(crossing, "LOCAL") == 0
