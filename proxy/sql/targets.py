"""Which relation a data-changing node changes, and which of its columns may get another value.

A key that changes leaves a row behind on the mirror, so an UPDATE that assigns a key
column needs more care than others. But ORMs often assign it its own value; where that is
provable from the text, the column does not count as assigned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast
from pglast.enums import (
    A_Expr_Kind,
    BoolExprType,
    CmdType,
    DropBehavior,
    OnConflictAction,
    ReturningOptionKind,
)

from proxy.sql.mentions import mentions, range_name
from proxy.sql.statement import Operation, Target

_OPERATIONS = {
    ast.InsertStmt: Operation.INSERT,
    ast.UpdateStmt: Operation.UPDATE,
    ast.DeleteStmt: Operation.DELETE,
    ast.MergeStmt: Operation.MERGE,
}


def of_write(node: Any) -> Target:
    """Return the target of an INSERT, UPDATE, DELETE or MERGE node."""
    relation = node.relation
    clause = node.returningClause
    results = clause.exprs if clause is not None else ()
    has_star = any(_is_star(result.val) for result in results)
    return Target(
        operation=_OPERATIONS[type(node)],
        relation=range_name(relation),
        alias=relation.alias.aliasname if relation.alias is not None else None,
        has_returning=clause is not None,
        returning_count=None if has_star else len(results),
        returning_has_literals=any(isinstance(result.val, (ast.A_Const, ast.ParamRef)) for result in results),
        assigned=frozenset(_assigned(node)),
        is_upsert=_is_upsert(node),
        is_only=not relation.inh,
        old_alias=_old_alias(node),
        has_other_relations=bool(
            getattr(node, "fromClause", None)
            or getattr(node, "usingClause", None)
            or getattr(node, "sourceRelation", None)
        ),
    )


def of_truncate(node: Any) -> Iterator[Target]:
    """Yield the targets of a TRUNCATE."""
    is_cascade = node.behavior == DropBehavior.DROP_CASCADE
    for relation in node.relations:
        yield Target(
            Operation.TRUNCATE, range_name(relation), is_only=not relation.inh, is_cascade=is_cascade
        )


def _is_upsert(node: Any) -> bool:
    clause = getattr(node, "onConflictClause", None)
    return clause is not None and clause.action == OnConflictAction.ONCONFLICT_UPDATE


def _is_star(value: Any) -> bool:
    """Return whether a RETURNING expression is `*`, `t.*` or `(f(x)).*`."""
    parts = list(getattr(value, "fields", None) or getattr(value, "indirection", None) or ())
    return bool(parts) and isinstance(parts[-1], ast.A_Star)


def _old_alias(node: Any) -> str | None:
    """Return what RETURNING can call the row before, in PostgreSQL 18; None when it has no name."""
    clause = node.returningClause
    for option in (clause.options if clause is not None else None) or ():
        if option.option == ReturningOptionKind.RETURNING_OPTION_OLD:
            return str(option.value)
    names = {name for _, name in mentions(node).relations} | set(_aliases(node))
    return None if "old" in names else "old"


def _aliases(node: Any) -> Iterator[str]:
    """Yield the aliases that the statement's own level introduces."""
    stack = [node.relation, getattr(node, "fromClause", None), getattr(node, "usingClause", None)]
    stack.append(getattr(node, "sourceRelation", None))
    while stack:
        part = stack.pop()
        if isinstance(part, tuple):
            stack.extend(part)
        elif isinstance(part, ast.JoinExpr):
            stack.extend((part.larg, part.rarg, part.alias))
        elif isinstance(part, ast.Alias):
            yield part.aliasname
        elif part is not None:
            stack.append(getattr(part, "alias", None))


def _assigned(node: Any) -> Iterator[str]:
    match node:
        case ast.UpdateStmt():
            fixed = _fixed_parameters(node.whereClause)
            for result in node.targetList:
                if not _keeps(result, fixed):
                    yield result.name
        case ast.InsertStmt() if node.onConflictClause is not None:
            clause = node.onConflictClause
            infer = clause.infer.indexElems if clause.infer is not None else None
            judged = {element.name for element in infer or () if element.name is not None}
            for result in clause.targetList or ():
                if not _keeps(result, {}) and not _is_excluded(result, judged):
                    yield result.name
        case ast.MergeStmt():
            for when in node.mergeWhenClauses:
                if when.commandType == CmdType.CMD_UPDATE:
                    yield from (result.name for result in when.targetList if not _keeps(result, {}))


def _keeps(result: Any, fixed: dict[str, int]) -> bool:
    """Return whether `SET a = value` gives the column the value it has.

    Only parameters are compared, never literals: texts that differ in literals share a
    classification.
    """
    if result.indirection:
        return False
    value = result.val
    if isinstance(value, ast.ParamRef):
        return bool(fixed.get(result.name) == value.number)
    return isinstance(value, ast.ColumnRef) and len(value.fields) == 1 and bool(_last(value) == result.name)


def _is_excluded(result: Any, judged: set[str]) -> bool:
    """Return whether `SET a = excluded.a` keeps a, since the conflict is about equality of a."""
    value = result.val
    return (
        isinstance(value, ast.ColumnRef)
        and len(value.fields) == 2
        and isinstance(value.fields[0], ast.String)
        and value.fields[0].sval == "excluded"
        and _last(value) == result.name
        and result.name in judged
    )


def _fixed_parameters(where: Any) -> dict[str, int]:
    """Return the columns that the WHERE clause, by AND, makes equal to a parameter."""
    terms = [where]
    fixed = {}
    while terms:
        term = terms.pop()
        if isinstance(term, ast.BoolExpr) and term.boolop == BoolExprType.AND_EXPR:
            terms.extend(term.args)
        elif (
            isinstance(term, ast.A_Expr)
            and term.kind == A_Expr_Kind.AEXPR_OP
            and [part.sval for part in term.name] == ["="]
            and isinstance(term.lexpr, ast.ColumnRef)
            and isinstance(term.rexpr, ast.ParamRef)
            and len(term.lexpr.fields) == 1
        ):
            fixed[_last(term.lexpr)] = term.rexpr.number
    return fixed


def _last(reference: Any) -> str:
    last = reference.fields[-1]
    return last.sval if isinstance(last, ast.String) else "*"
