"""Tables as a catalog describes them."""

from __future__ import annotations

from proxy.catalog.model import Column, Table, UniqueIndex


def table(name: str, *columns: Column, table_id: int = 1, **changes: object) -> Table:
    """A table with the key `id`, unless changed."""
    defaults: dict[str, object] = {
        "id": table_id,
        "schema": "public",
        "name": name,
        "oid": 1,
        "columns": columns or (Column("id", "int", 1, is_portable=True),),
        "key": ("id",),
        "key_types": ("int",),
        "unique_indexes": (UniqueIndex("pkey", ("id",), None, True),),
    }
    return Table(**{**defaults, **changes})  # type: ignore[arg-type]


def column(name: str, kind: str = "text", **changes: object) -> Column:
    return Column(name, kind, 1, **{"is_portable": True, **changes})  # type: ignore[arg-type]


ID = column("id", "int")
