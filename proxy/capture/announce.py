"""Announce what commits on its way: CALL and DO outside a transaction block.

No transaction of ours can enclose them, so their entries cannot commit with the changes.
They commit before, and stay until the statement has ended:

    in a transaction of its own   entries of kind `c` with a token, for every table in statement
                                  form; a session-level advisory lock on the token
    the statement                 may commit as often as it likes
    afterwards                    the lock is given back; if the session dies, PostgreSQL does it

The engine takes such an entry for a table entry once it has seen the entry first, then no
lock on its token, and only then takes its snapshot: that snapshot contains all commits
of the statement. A procedure that calls pg_advisory_unlock_all() breaks this, and needs
the trigger form.
"""

from __future__ import annotations

from proxy.catalog.model import Catalog
from proxy.ledger.entries import LOCK_CLASS


def announcement(catalog: Catalog, token: int) -> str:
    """Return the statements to run before, in one transaction of their own."""
    ids = sorted(table.id for table in catalog.tables.values() if table.capture == "statement" and table.id)
    values = ", ".join(f"({table_id}, 'c', '{{{token}}}')" for table_id in ids)
    return (
        f"INSERT INTO crossfade.ledger (tbl, kind, key) VALUES {values};"
        f" SELECT pg_catalog.pg_advisory_lock_shared({LOCK_CLASS}, {token})"
    )


def retraction(token: int) -> str:
    """Return the statement to run afterwards."""
    return f"SELECT pg_catalog.pg_advisory_unlock_shared({LOCK_CLASS}, {token})"
