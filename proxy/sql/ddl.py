"""What a DDL statement is about, and its text for the other cluster."""

from __future__ import annotations

from typing import Any, NamedTuple

from pglast import ast
from pglast.enums import ObjectType
from pglast.parser import ParseError, parse_sql, scan
from pglast.stream import RawStream

from proxy.sql.mentions import listed_name, range_name
from proxy.sql.statement import Name

KINDS = (
    "table", "index", "view", "function", "type", "sequence", "schema", "trigger", "grant", "other", "global",
)  # fmt: skip
"""`global` is what belongs to the whole cluster: roles, databases, tablespaces."""

_OF_OBJECT = {
    "table": ("TABLE", "COLUMN", "TABCONSTRAINT", "POLICY", "FOREIGN_TABLE", "DEFAULT"),
    "index": ("INDEX",),
    "view": ("VIEW", "MATVIEW", "RULE"),
    "function": ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE"),
    "type": ("TYPE", "DOMAIN", "ATTRIBUTE", "DOMCONSTRAINT"),
    "sequence": ("SEQUENCE",),
    "schema": ("SCHEMA",),
    "trigger": ("TRIGGER",),
    "global": ("ROLE", "DATABASE", "TABLESPACE"),
}
_OBJECTS = {ObjectType[f"OBJECT_{name}"]: kind for kind, names in _OF_OBJECT.items() for name in names}

_OF_NODE = {
    "table": ("CreateStmt", "SelectStmt", "CreatePolicyStmt", "AlterPolicyStmt"),
    "index": ("IndexStmt",),
    "view": ("ViewStmt", "RuleStmt", "RefreshMatViewStmt"),
    "function": ("CreateFunctionStmt", "AlterFunctionStmt"),
    "type": ("CompositeTypeStmt", "CreateEnumStmt", "CreateRangeStmt", "CreateDomainStmt", "AlterEnumStmt",
             "AlterDomainStmt", "AlterTypeStmt"),
    "sequence": ("CreateSeqStmt", "AlterSeqStmt"),
    "schema": ("CreateSchemaStmt",),
    "trigger": ("CreateTrigStmt",),
    "grant": ("GrantStmt", "AlterDefaultPrivilegesStmt"),
    "global": ("CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt", "GrantRoleStmt",
               "CreatedbStmt", "DropdbStmt", "AlterDatabaseStmt", "AlterDatabaseSetStmt",
               "CreateTableSpaceStmt", "DropTableSpaceStmt", "AlterTableSpaceOptionsStmt"),
}  # fmt: skip
_NODES = {name: kind for kind, names in _OF_NODE.items() for name in names}


def kind_of(node: Any) -> str:
    """Return which of `KINDS` a DDL statement is about."""
    named = _NODES.get(type(node).__name__)
    if named is not None:
        return named
    for attribute in ("renameType", "removeType", "objectType", "objtype"):
        kind = getattr(node, attribute, None)
        if kind is not None:
            return _OBJECTS.get(kind, "other")
    return "other"


def for_mirror(text: str) -> str | None:
    """Return one DDL statement as it is run on the mirror; None: it cannot be.

    There it runs in a transaction, so nothing is CONCURRENTLY; and a table is made without the
    rows of its query, which come like all other rows.
    """
    node = parse_sql(text)[0].stmt
    if isinstance(node, ast.SelectStmt):
        into, node.intoClause = node.intoClause, None
        if into is None:  # it stands in an arm of a UNION
            return None
        node = ast.CreateTableAsStmt(query=node, into=into, objtype=ObjectType.OBJECT_TABLE)
    if isinstance(node, ast.CreateTableAsStmt):
        if isinstance(node.query, ast.ExecuteStmt):
            return None
        if node.objtype == ObjectType.OBJECT_TABLE:
            node.into.skipData = True
            return str(RawStream()(node))
        return text
    commands = [command.def_ for command in getattr(node, "cmds", None) or () if hasattr(command, "def_")]
    concurrent = [each for each in (node, *commands) if getattr(each, "concurrent", False)]
    if isinstance(node, ast.RefreshMatViewStmt) or not concurrent:
        return text
    for each in concurrent:
        each.concurrent = False
    return str(RawStream()(node))


def names_in(text: str) -> frozenset[str]:
    """Return every word of a text that may be a name: more than it is about, and never less.

    Raises:
        ValueError: A name is written in a form that only the server reads.
    """
    found = set()
    try:
        for token in scan(text):
            word = text[token.start : token.end + 1]
            if token.name == "UIDENT":
                raise ValueError(f"{word} is not read here")
            if token.name == "IDENT" and word.startswith('"'):
                found.add(word[1:-1].replace('""', '"'))
            elif token.name == "IDENT" or token.kind != "NO_KEYWORD":
                found.add(word.lower())
    except ParseError as error:
        raise ValueError(str(error)) from error
    return frozenset(found)


class Traces(NamedTuple):
    """What a statement that ran CONCURRENTLY leaves, unless somebody has changed it since.

    `made` is an index that is there, `gone` are indexes that are not; an index whose name PostgreSQL
    chose is None.
    """

    tables: tuple[Name, ...] = ()
    made: Name | None = None
    gone: tuple[Name, ...] = ()


def traces_of(text: str) -> Traces:
    """Return what one statement that ran CONCURRENTLY leaves."""
    node = parse_sql(text)[0].stmt
    if isinstance(node, ast.IndexStmt):
        table = range_name(node.relation)
        return Traces((table,), (table[0], node.idxname) if node.idxname else None)
    if isinstance(node, ast.DropStmt):
        return Traces(gone=tuple(map(listed_name, node.objects)))
    if isinstance(node, ast.AlterTableStmt):  # DETACH PARTITION
        partitions = (command.def_.name for command in node.cmds if hasattr(command.def_, "name"))
        return Traces((range_name(node.relation), *map(range_name, partitions)))
    return Traces()
