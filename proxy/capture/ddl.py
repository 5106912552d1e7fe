"""DDL between two calls that put it into the ledger, with its place in the order (`ledger.ddl`).

What cannot run in a transaction block (CREATE INDEX CONCURRENTLY) is entered right after it. A
proxy that dies in between leaves an object that only one side has: `check` and the gate
`schema_equal` name it.
"""

from __future__ import annotations

from proxy.sql.ddl import for_mirror
from proxy.sql.quote import quote_name, quote_text
from proxy.sql.statement import Statement


def ddl_before(statement: Statement) -> str:
    """Return the statement to run before."""
    names = set(statement.relations) | {target.relation for target in statement.targets}
    listed = ", ".join(
        quote_text(".".join(quote_name(part) for part in name if part is not None))
        for name in sorted(names, key=str)
    )
    return f"SELECT crossfade.ddl_begin(ARRAY[{listed}]::pg_catalog.text[])"


def ddl_after(text: str) -> str | None:
    """Return the statement to run after it; None: the mirror cannot run it.

    Args:
        text: The statement alone.
    """
    mirrored = for_mirror(text)
    return None if mirrored is None else f"SELECT crossfade.ddl_end({quote_text(mirrored)})"


def ddl_refused(kind: str) -> str:
    """Return what is sent instead of a statement that is refused."""
    return f"SELECT crossfade.ddl_refuse({quote_text(kind)})"
