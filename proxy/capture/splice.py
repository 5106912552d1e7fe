"""A statement and its ledger entries as one statement, by text.

    UPDATE t SET x = $1 WHERE y = $2
    ->  WITH crossfade_w AS (UPDATE t SET x = $1 WHERE y = $2 RETURNING "t"."id"::text AS crossfade_k1)
        INSERT INTO crossfade.ledger (tbl, key) SELECT 7, ARRAY[crossfade_k1] FROM crossfade_w

    DELETE FROM t WHERE y = 1 RETURNING *
    ->  WITH crossfade_w (c1, c2) AS (DELETE FROM t WHERE y = 1 RETURNING *, "t"."id"::text AS crossfade_k1),
             crossfade_l AS (INSERT INTO crossfade.ledger (tbl, key)
                             SELECT 7, ARRAY[crossfade_k1] FROM crossfade_w)
        SELECT c1, c2 FROM crossfade_w

RETURNING is the last clause of every data-changing statement, so nothing of the original
has to be understood to append to it. The client's columns are named by us, because they may
bear one name twice. The keys are found by their names and not by their places: when the
table has got another column since it was described, a star returns more than was counted.

The outer statement counts as many rows as the original. Where a key may change
(PostgreSQL 18 knows both rows), entries for the old keys come from a CTE of their own,
so that this stays true.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.capture.keys import key_texts
from proxy.catalog.model import Table
from proxy.sql.quote import quote_name, quote_qualified
from proxy.sql.statement import Statement, Target

_OLD = "crossfade_o"


class Spliced(NamedTuple):
    """The text to send. `prefix_chars` stand before the original text in it."""

    text: str
    prefix_chars: int


def splice(
    text: str, statement: Statement, table: Table, columns_count: int | None, server_version: int
) -> Spliced:
    """Return the statement with its entries.

    Args:
        text: The statement alone, `whole_text[statement.start : statement.end]`.
        table: What `decide` said captures it inline; for a partition, its root.
        columns_count: How many columns the original returns, as PostgreSQL describes it. None
            will do without RETURNING, or when the list holds no star.
        server_version: server_version_num.
    """
    target = statement.targets[0]
    olds_follow = changes_key(target, table)
    assert not olds_follow or server_version >= 180000, "decide() lets no key change through before 18"
    if not target.has_returning:
        columns_count = 0
    elif columns_count is None:
        columns_count = target.returning_count
        assert columns_count is not None, "a star in RETURNING: describe the original first"

    keys = key_texts(_row(target, table), table)
    clause = ", " if target.has_returning else " RETURNING "
    if olds_follow:
        old = target.old_alias if target.has_returning else _OLD
        assert old is not None, "decide() lets no hidden old row through"
        keys += key_texts(quote_name(old), table)
        clause = ", " if target.has_returning else f" RETURNING WITH (OLD AS {_OLD}) "

    columns = ", ".join(f"c{number}" for number in range(1, columns_count + 1))
    old_names = [f"crossfade_o{number}" for number in range(1, len(table.key) + 1)] if olds_follow else []
    new_names = [f"crossfade_k{number}" for number in range(1, len(keys) - len(old_names) + 1)]
    named = (f"{key} AS {name}" for key, name in zip(keys, new_names + old_names, strict=True))
    prefix = f"WITH crossfade_w ({columns}) AS (" if columns else "WITH crossfade_w AS ("
    changed = f"{prefix}{text}{clause}{', '.join(named)})"
    if olds_follow:
        changed += f", crossfade_o AS ({_entries(table, old_names)}{_where_changed(old_names, new_names)})"
    if not target.has_returning:
        return Spliced(f"{changed} {_entries(table, new_names)}", len(prefix))
    changed += f", crossfade_l AS ({_entries(table, new_names)})"
    return Spliced(f"{changed} SELECT {columns} FROM crossfade_w", len(prefix))


def returning_keys(text: str, statement: Statement, table: Table) -> str:
    """Return the statement that returns its rows' keys behind the client's columns (the split form)."""
    target = statement.targets[0]
    clause = ", " if target.has_returning else " RETURNING "
    return f"{text}{clause}{', '.join(key_texts(_row(target, table), table))}"


def changes_key(target: Target, table: Table) -> bool:
    """Return whether the statement may give a row another key."""
    return not target.assigned.isdisjoint(table.key)


def _entries(table: Table, names: list[str]) -> str:
    key = ", ".join(names)
    if not table.key:
        entry = f"(tbl, kind, key) SELECT {table.id}, 'a', ARRAY[{key}]"
    else:
        entry = f"(tbl, key) SELECT {table.id}, ARRAY[{key}]"
    return f"INSERT INTO crossfade.ledger {entry} FROM crossfade_w"


def _where_changed(old_names: list[str], new_names: list[str]) -> str:
    # A row that ON CONFLICT or MERGE inserted has no old key.
    old, new = ", ".join(old_names), ", ".join(new_names)
    return f" WHERE {old_names[0]} IS NOT NULL AND ROW({old}) IS DISTINCT FROM ROW({new})"


def _row(target: Target, table: Table) -> str:
    """Return how the target's row is called inside the statement."""
    if target.alias is not None:
        return quote_name(target.alias)
    schema, name = target.relation
    if schema is not None:
        return quote_qualified(schema, name)
    # Beside other relations of the same name the schema tells them apart. (A partition is not
    # `table`, which is its root; its own name will do.)
    return table.qualified if target.has_other_relations and name == table.name else quote_name(name)
