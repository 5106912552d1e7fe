"""The text of a spliced statement; what PostgreSQL makes of it is tested on real servers."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.capture.splice import splice
from proxy.catalog.model import Table
from proxy.sql.classify import parse
from tests.unit.capture.sample import table

T = table(7, "t")
LEDGER = "INSERT INTO crossfade.ledger (tbl, key) SELECT 7, ARRAY[crossfade_k1] FROM crossfade_w"


def spliced(text: str, of: Table = T, columns_count: int | None = None, version: int = 160000) -> str:
    (statement,) = parse(text)
    return splice(text, statement, of, columns_count, version).text


def test_statement_without_returning() -> None:
    assert spliced("UPDATE t SET x = $1 WHERE y = $2") == (
        "WITH crossfade_w AS (UPDATE t SET x = $1 WHERE y = $2"
        ' RETURNING "t"."id"::pg_catalog.text AS crossfade_k1) ' + LEDGER
    )


def test_statement_with_returning() -> None:
    assert spliced("DELETE FROM t RETURNING *, id", columns_count=3) == (
        "WITH crossfade_w (c1, c2, c3) AS (DELETE FROM t"
        ' RETURNING *, id, "t"."id"::pg_catalog.text AS crossfade_k1), '
        f"crossfade_l AS ({LEDGER}) SELECT c1, c2, c3 FROM crossfade_w"
    )


def test_columns_are_counted_from_the_text_where_there_is_no_star() -> None:
    assert "crossfade_w (c1, c2) AS" in spliced("DELETE FROM t RETURNING id, x")
    with pytest.raises(AssertionError):
        spliced("DELETE FROM t RETURNING *")


def test_key_that_changes_is_named_twice() -> None:
    text = spliced("UPDATE t SET id = 1", version=180000)
    assert "RETURNING WITH (OLD AS crossfade_o) " in text
    changed = "crossfade_o1 IS NOT NULL AND ROW(crossfade_o1) IS DISTINCT FROM ROW(crossfade_k1)"
    assert f"ARRAY[crossfade_o1] FROM crossfade_w WHERE {changed})" in text
    text = spliced("UPDATE t SET id = 1 RETURNING WITH (OLD AS was) id", version=180000)
    assert '"was"."id"::pg_catalog.text' in text


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("INSERT INTO t AS x DEFAULT VALUES", '"x"'),
        ('UPDATE S."T" SET a = 1', '"s"."T"'),
        ("UPDATE t SET a = 1", '"t"'),
        ("UPDATE t SET a = 1 FROM o.t o", '"public"."t"'),
        ("DELETE FROM t_part", '"t_part"'),
    ],
)
def test_row_is_called_as_the_statement_calls_it(text: str, row: str) -> None:
    assert f'RETURNING {row}."id"::' in spliced(text)


def test_dates_are_written_in_iso_form() -> None:
    dated = table(7, "t", ("d", "n"), key_types=("date", "integer"))
    text = spliced("DELETE FROM t", dated)
    assert (
        """(pg_catalog.to_json("t"."d") OPERATOR(pg_catalog.#>>) '{}') AS crossfade_k1, "t"."n"::""" in text
    )


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@given(NAMES, NAMES, st.sampled_from(["", " RETURNING 1"]))
def test_any_name_makes_one_statement_that_parses(name: str, column: str, returning: str) -> None:
    assume(column != "a")  # which the statement assigns: before 18 no key may change
    quoted = '"' + name.replace('"', '""') + '"'
    text = f"UPDATE {quoted} SET a = 'x'{returning}"
    (statement,) = parse(text)
    made = splice(text, statement, table(7, name, (column, "id")), None, 160000)
    assert made.text[made.prefix_chars :].startswith(text)
    (again,) = parse(made.text)
    assert [target.relation for target in again.targets].count(("crossfade", "ledger")) == 1
    assert again.kind == "write"
