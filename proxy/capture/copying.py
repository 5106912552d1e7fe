"""A COPY FROM between two calls that enter its rows (`ledger.copying`).

Its stream goes to the server unread: what is in it, in whatever format and encoding, with defaults
and WHERE, PostgreSQL knows best. So the rows are found by what it has stamped them with.
"""

from __future__ import annotations

from proxy.catalog.model import Table
from proxy.sql.quote import quote_text


def copy_before(table: Table) -> str:
    """Return the statement to run before; without the other one it says enough, only not narrowly."""
    return f"SELECT crossfade.copy_begin({_arguments(table)})"


def copy_after(table: Table) -> str:
    """Return the statement to run after it."""
    return f"SELECT crossfade.copy_end({_arguments(table)})"


def _arguments(table: Table) -> str:
    return f"{table.id}, ARRAY[{', '.join(map(quote_text, table.key))}]::pg_catalog.text[]"
