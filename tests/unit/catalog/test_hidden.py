"""Whatever mentions a volatile function, through any number of others, is volatile itself."""

from __future__ import annotations

import pytest

from proxy.catalog.definitions import Definition, Sort
from proxy.catalog.hidden import find_hidden

WRITES = Definition(Sort.FUNCTION, 1, "writes", True, "INSERT INTO t VALUES (1)", frozenset())


def definition(source: str = "", *, sort: Sort = Sort.FUNCTION, name: str = "f", uses: int = 0) -> Definition:
    return Definition(sort, 2, name, False, source, frozenset({uses} if uses else ()))


@pytest.mark.parametrize(
    "source",
    [
        "SELECT writes()", "select WRITES (1)", 'SELECT public."writes"()', "BEGIN PERFORM 1 + writes(); END",
        "BEGIN EXECUTE something; END",
    ],
)  # fmt: skip
def test_function_that_may_call_a_volatile_one_is_found(source: str) -> None:
    assert find_hidden([definition(source), WRITES]).functions == {1, 2}


@pytest.mark.parametrize(
    "source", ["SELECT 1", "SELECT writes FROM t", "SELECT overwrites()", "SELECT now()"]
)
def test_function_that_calls_none_is_left_alone(source: str) -> None:
    assert find_hidden([WRITES, definition(source)]).functions == {1}


def test_without_volatile_functions_dynamic_sql_is_harmless() -> None:
    assert find_hidden([definition("BEGIN EXECUTE something; END")]).functions == set()


def test_what_postgresql_has_parsed_is_known_by_oid() -> None:
    assert find_hidden([definition(uses=1), WRITES]).functions == {1, 2}
    assert find_hidden([definition(uses=3), WRITES]).functions == {1}


def test_chain_through_operators_types_and_views_is_followed_to_its_end() -> None:
    links = [
        definition(sort=Sort.OPERATOR, name="###", uses=1)._replace(oid=10),
        definition("SELECT 1 ### 2", name="by_operator")._replace(oid=11),
        definition(sort=Sort.TYPE, name="Checked", uses=11)._replace(oid=12),
        definition("SELECT x::checked", name="by_type")._replace(oid=13),
        definition(sort=Sort.RELATION, name="shown", uses=13)._replace(oid=14),
        definition("SELECT count(*) FROM shown", name="by_view")._replace(oid=15),
    ]
    found = find_hidden([*reversed(links), WRITES])
    assert found.functions == {1, 11, 13, 15}
    assert (found.operators, found.types, found.relations) == ({"###"}, {"Checked"}, {14})
    assert not found.has_implicit_casts
    assert find_hidden([WRITES]) == find_hidden([WRITES, definition("SELECT 1 ### 2")])


def test_implicit_cast_may_be_anywhere() -> None:
    assert find_hidden([WRITES, definition(sort=Sort.IMPLICIT_CAST, name="pair", uses=1)]).has_implicit_casts
