"""What a switch and the way back will need is tried out beforehand, and what is missing is named."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.capture.triggers import install_sql
from proxy.config.model import Tables
from proxy.crossing import trial
from proxy.crossing.gates import Trial
from proxy.demo.clusters import Cluster
from proxy.routing.policy import Side
from tests.integration.pairs import Two
from tests.roles import ensure_roles

SCHEMA = "CREATE TABLE users (id serial PRIMARY KEY, name text)"


@pytest.fixture
async def two(old_db: str, new_db: str) -> AsyncIterator[Two]:
    async with Two(old_db, new_db) as two:
        await two.execute(SCHEMA)
        await two.init()
        yield two


async def run(two: Two, *users: str) -> Trial:
    return await trial.run(two.old, two.new, two.catalogs, Side.OLD, users)


async def test_a_row_goes_there_and_back_and_leaves_nothing(two: Two) -> None:
    assert await run(two) == Trial()
    for side in (two.old, two.new):
        assert await side.fetchval("SELECT count(*) FROM crossfade.trial") == 0


async def test_a_row_that_cannot_come_back_is_told(two: Two) -> None:
    await two.old.execute("ALTER TABLE crossfade.trial ADD CHECK (step < 2)")
    (clause,) = (await run(two)).way_back
    assert clause.startswith("a row could not go there and back: ")


async def test_a_target_that_takes_entries_is_no_mirror(two: Two) -> None:
    await two.new.execute("ALTER TABLE crossfade.ledger DISABLE TRIGGER fence")
    assert (await run(two)).way_back == ("new: its ledger takes entries though it is not the authority",)


async def test_sequences_that_are_missing_or_too_small_are_named(two: Two) -> None:
    await two.old.execute("SELECT setval('users_id_seq', 100)")
    await two.new.execute("ALTER SEQUENCE users_id_seq MAXVALUE 100")
    found = (await run(two)).sequences
    assert found == ("public.users_id_seq stands at 100, which new's bounds do not hold",)
    await two.new.execute("DROP SEQUENCE users_id_seq CASCADE")
    assert (await run(two)).sequences == ("new has no sequence public.users_id_seq",)


async def test_rights_that_are_missing_on_the_way_back_are_named(two: Two, pg16: Cluster) -> None:
    ensure_roles(pg16, "trial_engine")
    await two.old.execute("GRANT SELECT, INSERT ON users TO trial_engine; SET ROLE trial_engine")
    found = await run(two)
    assert found.way_back == ("old: the engine's role lacks UPDATE, DELETE on public.users",)
    assert found.sequences == ("the engine's role may not set public.users_id_seq on old",)


async def test_users_who_may_do_less_there_are_named(two: Two, pg16: Cluster, pg18: Cluster) -> None:
    ensure_roles(pg16, "trial_app", "trial_old_only")
    ensure_roles(pg18, "trial_app")
    await two.execute("GRANT SELECT ON users TO trial_app")
    await two.old.execute("GRANT INSERT ON users TO trial_app")
    await two.new.execute("REVOKE INSERT ON crossfade.ledger FROM PUBLIC")
    assert (await run(two, "trial_app", "trial_old_only")).users == (
        "new has no role trial_old_only",
        "trial_app may not write to crossfade.ledger on new: run crossfade init",
        "trial_app may INSERT public.users on old and not on new",
    )


KEYLESS = """
CREATE TABLE log (line text);
CREATE TABLE parted (line text) PARTITION BY HASH (line);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
"""


async def test_a_table_in_trigger_form_needs_its_triggers_there(old_db: str, new_db: str) -> None:
    names = ("log", "parted", "users")
    tables = Tables.model_validate({"capture": dict.fromkeys(names, "trigger")})
    async with Two(old_db, new_db, tables=tables) as two:
        await two.execute(SCHEMA)
        await two.execute(KEYLESS)
        await two.init()
        assert (await run(two)).way_back == tuple(
            f"new: public.{name} lacks its capture triggers: run crossfade init" for name in names
        )
        await two.new.execute(install_sql(two.catalogs[1].tables.values()))
        assert (await run(two)).way_back == ()
