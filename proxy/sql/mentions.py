"""What a parse tree mentions: functions, relations, operators, types, row locks, nested writes.

The walk keeps a stack of its own instead of recursing, because an expression of a
thousand terms is a tree a thousand deep.

A name introduced by WITH hides a relation of the same name, but only where it is in
scope: in `WITH a AS (SELECT * FROM a) SELECT * FROM a` the inner `a` is the relation.
Getting this wrong would hide a view that calls a volatile function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pglast import ast

from proxy.sql.statement import Name

WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_Scope = frozenset[str]


@dataclass(slots=True)
class Mentions:
    """What was found below one node."""

    functions: set[Name] = field(default_factory=set)
    relations: set[Name] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    locks_rows: bool = False
    writes: list[Any] = field(default_factory=list)  # data-modifying nodes, the outermost first
    set_configs: list[Any] = field(default_factory=list)  # calls of set_config


def mentions(root: Any) -> Mentions:
    """Return everything that is mentioned in a parse tree, the root itself included."""
    found = Mentions()
    stack: list[tuple[Any, _Scope]] = [(root, frozenset())]
    while stack:
        node, hidden = stack.pop()
        if isinstance(node, tuple):
            stack.extend((part, hidden) for part in reversed(node) if isinstance(part, (ast.Node, tuple)))
            continue
        skipped = _visit(node, hidden, found)
        scope = hidden
        with_clause = getattr(node, "withClause", None)
        if with_clause is not None:
            scope = _enter(with_clause, hidden, stack)
            skipped = (*skipped, "withClause")
        for name in type(node).__slots__:
            value = getattr(node, name)
            if isinstance(value, (ast.Node, tuple)) and name not in skipped:
                stack.append((value, scope))
    return found


def range_name(node: Any) -> Name:
    """Return the name in a RangeVar. The database part, if any, can only be the current one."""
    return node.schemaname, node.relname


def listed_name(parts: Any) -> Name:
    """Return the name in a list of String nodes: name, schema.name or database.schema.name."""
    words = [part.sval for part in parts if isinstance(part, ast.String)]
    return (words[-2] if len(words) > 1 else None), words[-1]


def _visit(node: Any, hidden: _Scope, found: Mentions) -> tuple[str, ...]:
    """Note what one node says; return its attributes that must not be walked."""
    match node:
        case ast.RangeVar():
            if node.schemaname is not None or node.relname not in hidden:
                found.relations.add(range_name(node))
        case ast.FuncCall():
            name = listed_name(node.funcname)
            found.functions.add(name)
            if name[1] == "set_config" and name[0] in (None, "pg_catalog"):
                found.set_configs.append(node)
            return ("funcname",)
        case ast.A_Expr():
            found.operators.add(node.name[-1].sval)
        case ast.TypeName() if node.names:
            found.types.add(node.names[-1].sval)
        case ast.SubLink() if node.operName:
            found.operators.add(node.operName[-1].sval)
        case ast.SortBy() if node.useOp:
            found.operators.add(node.useOp[-1].sval)
        case ast.LockingClause():
            found.locks_rows = True
            return ("lockedRels",)  # aliases of FROM items, not relations
        case ast.InsertStmt() | ast.UpdateStmt() | ast.DeleteStmt() | ast.MergeStmt():
            # The target is never a CTE, whatever is in scope.
            found.writes.append(node)
            found.relations.add(range_name(node.relation))
            return ("relation",)
    return ()


def _enter(with_clause: Any, hidden: _Scope, stack: list[tuple[Any, _Scope]]) -> _Scope:
    """Push the CTEs, each with the names it can see; return the scope of the statement itself."""
    scope = hidden | {cte.ctename for cte in with_clause.ctes}
    visible = scope if with_clause.recursive else hidden
    for cte in with_clause.ctes:
        stack.append((cte, visible))
        visible |= {cte.ctename}
    return scope
