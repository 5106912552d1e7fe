"""What tells a row from others, as the texts that go into `ledger.key`: usually its key.

A row that was appended to a keyless table is found where it lies: by its address, the file and
the partition that this is an address in, and the transaction that wrote it (an entry of
kind `a`, see `converge.keyless`).

A cast to text follows the client's session: with DateStyle 'SQL, DMY' a date comes out as
text that the engine, whose settings are pinned, reads as another day. The JSON form of
dates and times is ISO whatever the session says.
"""

from __future__ import annotations

from proxy.catalog.model import Table
from proxy.sql.quote import quote_name


def key_texts(row: str, table: Table) -> list[str]:
    """Return one SQL expression of type text for each key column, or for each part of an address.

    Args:
        row: How the row is called where the expressions stand, already quoted.
    """
    if not table.key:
        return address(f"{row}.ctid", f"{row}.tableoid")
    return [
        _text(f"{row}.{quote_name(name)}", type_)
        for name, type_ in zip(table.key, table.key_types, strict=True)
    ]


def address(ctid: str, oid: str) -> list[str]:
    """Return where a row lies, and who writes it now, as SQL expressions of type text."""
    return [
        f"{ctid}::pg_catalog.text",
        f"{oid}::pg_catalog.oid::pg_catalog.text",
        f"pg_catalog.pg_relation_filenode({oid})::pg_catalog.text",
        "pg_catalog.pg_current_xact_id()::pg_catalog.text",
    ]


def _text(column: str, type_: str) -> str:
    if type_.startswith(("date", "timestamp")):
        return f"(pg_catalog.to_json({column}) OPERATOR(pg_catalog.#>>) '{{}}')"
    return f"{column}::pg_catalog.text"
