"""A small catalog for the tests of capture."""

from __future__ import annotations

from proxy.catalog.model import Catalog, ForeignKey, QualifiedName, Relation, RelationKind, Table


def table(number: int, name: str, key: tuple[str, ...] = ("id",), **more: object) -> Table:
    """Return a mirrored table of schema public."""
    made = Table(number, "public", name, 1000 + number, (), key, ("integer",) * len(key))
    return made._replace(**more)


def foreign_key(child: str, parent: str, on_delete: str = "a", on_update: str = "a") -> ForeignKey:
    """Return a foreign key from child.up to parent.id."""
    return ForeignKey("fk", ("public", child), ("up",), ("public", parent), ("id",), on_delete, on_update)


def catalog(*tables: Table, version: int = 160000, keys: tuple[ForeignKey, ...] = ()) -> Catalog:
    """Return a catalog of these tables, and of relations and functions that are always there."""
    names: dict[QualifiedName, Table] = {
        each.names: each._replace(
            references=tuple(key for key in keys if key.table == each.names),
            referenced_by=tuple(key for key in keys if key.referenced == each.names),
        )
        for each in tables
    }
    relations = [
        Relation("public", "aside", RelationKind.TABLE),
        Relation("public", "aside_noisy", RelationKind.TABLE, has_user_triggers=True),
        Relation("public", "a_part", RelationKind.PARTITION, frozenset({("public", "a")})),
        Relation("public", "shown", RelationKind.VIEW, frozenset({("public", "a")})),
        Relation("public", "drawing", RelationKind.VIEW, frozenset({("public", "a")}), is_volatile=True),
        Relation("public", "far", RelationKind.FOREIGN_TABLE),
    ]
    functions = {
        ("pg_catalog", "now"): False,
        ("pg_catalog", "random"): True,
        ("pg_catalog", "nextval"): True,
        ("pg_catalog", "query_to_xml"): True,
        ("public", "reads"): False,
        ("public", "writes"): True,
        ("public", "uuid_generate_v4"): True,
    }
    native = {name for name in functions if name[0] == "pg_catalog"} | {("public", "uuid_generate_v4")}
    return Catalog(
        tables=names,
        relations={(each.schema, each.name): each for each in relations},
        functions=functions,
        native_functions=frozenset(native),
        server_version=version,
    )
