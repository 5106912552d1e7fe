"""DDL between two calls that put it into the ledger, with its place in the order (`ledger.ddl`).

What cannot run in a transaction block (CREATE INDEX CONCURRENTLY) is entered right after it, if what
it left is still there. A proxy that dies in between leaves an index that only one side has; a
difference in columns or unique keys `check` and the gate `schema_equal` would name.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.sql.ddl import for_mirror, traces_of
from proxy.sql.quote import quote_name, quote_text
from proxy.sql.statement import Name, Statement


def ddl_before(statement: Statement) -> str:
    """Return the statement to run before."""
    names = set(statement.relations) | {target.relation for target in statement.targets}
    return f"SELECT crossfade.ddl_begin({_listed(sorted(names, key=str))})"


def ddl_after(text: str) -> str | None:
    """Return the statement to run after it; None: the mirror cannot run it.

    Args:
        text: The statement alone.
    """
    mirrored = for_mirror(text)
    return None if mirrored is None else f"SELECT crossfade.ddl_end({quote_text(mirrored)})"


def ddl_apart(text: str) -> str | None:
    """Return the statement to run after one that ran by itself; None: the mirror cannot run it."""
    mirrored = for_mirror(text)
    if mirrored is None:
        return None
    left = traces_of(text)
    made = "NULL" if left.made is None else _quoted(left.made)
    return (
        f"SELECT crossfade.ddl_apart({quote_text(mirrored)}, {_listed(left.tables)}, {made},"
        f" {_listed(left.gone)})"
    )


def _quoted(name: Name) -> str:
    return quote_text(".".join(quote_name(part) for part in name if part is not None))


def _listed(names: Iterable[Name]) -> str:
    return f"ARRAY[{', '.join(map(_quoted, names))}]::pg_catalog.text[]"


def ddl_refused(kind: str) -> str:
    """Return what is sent instead of a statement that is refused."""
    return f"SELECT crossfade.ddl_refuse({quote_text(kind)})"
