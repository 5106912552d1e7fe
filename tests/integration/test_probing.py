"""What a cluster refuses is found out by trying."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.catalog.model import Catalog
from proxy.server import probing
from proxy.server.probing import ProbingKeeper, probe
from tests.integration.pairs import Two

SCHEMA = """
CREATE TABLE plain (id int PRIMARY KEY);
CREATE TABLE keyless (id int);
CREATE TABLE refusing (id int PRIMARY KEY);
CREATE RULE also AS ON DELETE TO refusing DO ALSO SELECT 1;
CREATE TABLE refusing_all (id int PRIMARY KEY);
CREATE RULE instead AS ON DELETE TO refusing_all DO INSTEAD NOTHING;
"""


@pytest.fixture
def unaware_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules make PostgreSQL refuse what other clusters refuse anyway; capture knows about rules."""
    is_spliced = probing._is_spliced
    monkeypatch.setattr(probing, "_is_spliced", lambda table: is_spliced(table._replace(has_rules=False)))


def split(catalog: Catalog) -> list[str]:
    return sorted(table.name for table in catalog.tables.values() if table.is_split)


@pytest.mark.usefixtures("unaware_of_rules")
async def test_a_table_that_refuses_the_statement_form_is_split(
    old_db: str, new_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Two(old_db, new_db) as two:
        await two.execute(SCHEMA)
        await two.init()
        assert split(await probe(two.old, two.catalogs[0])) == ["refusing"]
        monkeypatch.setattr(probing, "_TOGETHER_MAX", 1)
        assert split(await probe(two.old, two.catalogs[0])) == ["refusing"]


async def test_a_cluster_that_refuses_nothing_keeps_its_catalog(old_db: str, new_db: str) -> None:
    async with Two(old_db, new_db) as two:
        await two.execute(SCHEMA)
        await two.init()
        keeper = ProbingKeeper()
        found = await keeper.read(two.old, two.tables)
        assert split(found) == []
        assert await keeper.read(two.old, two.tables) is found
        unknown = replace(found, tables={n: table._replace(id=0) for n, table in found.tables.items()})
        assert await probe(two.old, unknown) is unknown


async def test_a_table_that_is_locked_is_not_waited_for(old_db: str, new_db: str) -> None:
    async with Two(old_db, new_db) as two:
        await two.execute(SCHEMA)
        await two.init()
        async with two.old.transaction():
            await two.old.execute("LOCK TABLE plain IN SHARE MODE")
            async with Two(old_db, new_db) as other:
                assert await probe(other.old, two.catalogs[0]) is two.catalogs[0]
