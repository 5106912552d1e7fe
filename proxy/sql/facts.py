"""What each kind of statement says, one small function for each class of parse node.

A function gets the node and what the walk found below it, and returns the fields of the
`Statement` that are not at their defaults. A node of no function here is DDL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pglast import ast
from pglast.enums import (
    AlterTableType,
    DiscardMode,
    DropBehavior,
    ObjectType,
    OnCommitAction,
    TransactionStmtKind,
    VariableSetKind,
)

from proxy.sql import ddl, settings
from proxy.sql.mentions import WRITES, Mentions, listed_name, range_name
from proxy.sql.statement import CopyTarget, Kind, Operation, Pin, Setting, Target, Unpin
from proxy.sql.targets import of_truncate, of_write

_CURSOR_OPT_HOLD = 0x0020  # parsenodes.h
_TEMPORARY = "t"  # RELPERSISTENCE_TEMP

Facts = dict[str, Any]
"""Fields of a `Statement` that differ from their defaults."""


def describe(node: Any, found: Mentions) -> Facts:
    """Return what a statement's node says of itself."""
    facts = _describe(node, found)
    if facts["kind"] is Kind.DDL:
        # Its text goes to the mirror.
        facts |= {"ddl": ddl.kind_of(node), "depends_on_literals": True}
    return facts


def _describe(node: Any, found: Mentions) -> Facts:
    own = _DESCRIBE.get(type(node))
    if own is not None:
        return {**own(node, found), **temporary(node)}
    facts: Facts = {"kind": Kind.UTILITY if isinstance(node, _UTILITIES) else Kind.DDL, **temporary(node)}
    if isinstance(node, ast.CreateTableAsStmt) and isinstance(node.query, ast.ExecuteStmt):
        facts["prepared_name"] = node.query.name
    return facts


def _select(node: Any, found: Mentions) -> Facts:
    if _into(node) is not None:
        return {"kind": Kind.DDL, "tag": "SELECT"}
    return {"kind": Kind.WRITE if found.writes else Kind.READ, "tag": "SELECT"}


def _write(node: Any, found: Mentions) -> Facts:
    nested = tuple(of_write(write) for write in found.writes if write is not node)
    target = of_write(node)
    return {"kind": Kind.WRITE, "tag": target.operation.value, "targets": (target, *nested)}


def _explain(node: Any, found: Mentions) -> Facts:
    facts: Facts = {"kind": Kind.READ, "is_explain": True, "depends_on_literals": bool(node.options)}
    if isinstance(node.query, ast.ExecuteStmt):
        facts["prepared_name"] = node.query.name
    if not _is_analyze(node):
        # Planning takes no row lock and writes nothing, but it evaluates what is declared stable.
        facts |= {"locks_rows": False, "pin": None, "unpin": None}
        return facts | {"targets": (), "has_nested_writes": False, "settings": ()}
    if found.writes or isinstance(node.query, _WRITING):
        facts["kind"] = Kind.WRITE
    return facts


_WRITING = (ast.CreateTableAsStmt, ast.ExecuteStmt, ast.RefreshMatViewStmt)


def _is_analyze(node: Any) -> bool:
    """Return whether EXPLAIN also runs the statement (defGetBoolean in define.c)."""
    analyze = False
    for option in node.options or ():
        if option.defname == "analyze":
            value = getattr(option.arg, "sval", None) if option.arg is not None else "on"
            number = getattr(option.arg, "ival", 1)
            analyze = value.lower() not in ("off", "false") if value is not None else number != 0
    return analyze


_TRANSACTIONS: dict[Any, Kind] = {
    TransactionStmtKind.TRANS_STMT_BEGIN: Kind.BEGIN,
    TransactionStmtKind.TRANS_STMT_START: Kind.BEGIN,
    TransactionStmtKind.TRANS_STMT_COMMIT: Kind.COMMIT,
    TransactionStmtKind.TRANS_STMT_ROLLBACK: Kind.ROLLBACK,
    TransactionStmtKind.TRANS_STMT_SAVEPOINT: Kind.SAVEPOINT,
    TransactionStmtKind.TRANS_STMT_RELEASE: Kind.SAVEPOINT,
    TransactionStmtKind.TRANS_STMT_ROLLBACK_TO: Kind.SAVEPOINT,
}


def _transaction(node: Any, found: Mentions) -> Facts:
    kind = _TRANSACTIONS.get(node.kind)
    if kind is None:
        is_finish = node.kind != TransactionStmtKind.TRANS_STMT_PREPARE
        return {"kind": Kind.UTILITY, "is_two_phase": True, "needs_no_transaction": is_finish}
    read_only, isolation = settings.modes(node.options)
    return {
        "kind": kind,
        "read_only": read_only,
        "isolation": isolation,
        "savepoint": node.savepoint_name,
        "is_rollback_to": node.kind == TransactionStmtKind.TRANS_STMT_ROLLBACK_TO,
        "is_chain": bool(node.chain),
    }


def _set(node: Any, found: Mentions) -> Facts:
    is_reset = node.kind in (VariableSetKind.VAR_RESET, VariableSetKind.VAR_RESET_ALL)
    facts: Facts = {"kind": Kind.RESET if is_reset else Kind.SET, "depends_on_literals": True}
    made = settings.of_set(node)
    if made is None:
        return facts | ({} if node.is_local else {"asked_settings": (node.name.lower(),)})
    if node.kind == VariableSetKind.VAR_SET_MULTI and not made:
        facts["read_only"], facts["isolation"] = settings.modes(node.args)
    return facts | {"settings": made}


def _discard(node: Any, found: Mentions) -> Facts:
    ends: dict[Any, Unpin] = {
        DiscardMode.DISCARD_ALL: Unpin.ALL,
        DiscardMode.DISCARD_TEMP: Unpin.TEMP_TABLE,
        DiscardMode.DISCARD_SEQUENCES: Unpin.SEQUENCE,
    }
    resets = (Setting("all", None, False),) if node.target == DiscardMode.DISCARD_ALL else ()
    return {
        "settings": resets,
        "kind": Kind.DISCARD,
        "tag": node.target.name.replace("_", " "),
        "unpin": ends.get(node.target),
        "needs_no_transaction": node.target == DiscardMode.DISCARD_ALL,
    }


def _prepare(node: Any, found: Mentions) -> Facts:
    # What the statement inside would do, it does at EXECUTE.
    return {
        "kind": Kind.PREPARE, "prepared_name": node.name, "pin": None, "settings": (), "unpin": None,
        "reads_drawn": False,
        "functions": frozenset(), "locks_rows": False, "has_nested_writes": False,
    }  # fmt: skip


def _deallocate(node: Any, found: Mentions) -> Facts:
    unpin = Unpin.PREPARE if node.isall else None
    return {"kind": Kind.DEALLOCATE, "prepared_name": node.name, "unpin": unpin}


def _copy(node: Any, found: Mentions) -> Facts:
    is_server_side = node.filename is not None or bool(node.is_program)
    options = {option.defname: getattr(option.arg, "sval", "") for option in node.options or ()}
    relation = range_name(node.relation) if node.relation is not None else None
    columns = tuple(part.sval for part in node.attlist or ())
    facts: Facts = {
        "kind": Kind.COPY_IN if node.is_from else Kind.COPY_OUT,
        "copy": CopyTarget(relation, columns, is_server_side, str(options.get("format", "text")).lower()),
        "depends_on_literals": True,
    }
    if node.is_from and relation is not None:
        facts["targets"] = (Target(Operation.COPY, relation),)
    return facts


def _do(node: Any, found: Mentions) -> Facts:
    code = next((option.arg.sval for option in node.args or () if option.defname == "as"), "")
    may_commit = _ENDING.search(code) is not None
    return {
        "kind": Kind.UTILITY, "is_opaque": True, "may_commit": may_commit, "depends_on_literals": True,
    }  # fmt: skip


_ENDING = re.compile(r"\b(commit|rollback|call)\b", re.IGNORECASE)


def _declare(node: Any, found: Mentions) -> Facts:
    facts: Facts = {"kind": Kind.READ, "cursor": node.portalname}
    return facts | ({"pin": Pin.HOLD_CURSOR} if node.options & _CURSOR_OPT_HOLD else {})


def _close(node: Any, found: Mentions) -> Facts:
    return {"kind": Kind.UTILITY, "cursor": node.portalname, "unpin": Unpin.HOLD_CURSOR}


def _alter_table(node: Any, found: Mentions) -> Facts:
    commands = {command.subtype for command in node.cmds}
    if node.objtype != ObjectType.OBJECT_TABLE or not commands & _REWRITING:
        return {"kind": Kind.DDL}
    return {
        "kind": Kind.DDL,
        "targets": (Target(Operation.ALTER, range_name(node.relation)),),
        "needs_no_transaction": any(getattr(command.def_, "concurrent", False) for command in node.cmds),
    }


_REWRITING = {
    AlterTableType.AT_AddColumn,
    AlterTableType.AT_AlterColumnType,
    AlterTableType.AT_SetExpression,
    AlterTableType.AT_AttachPartition,
    AlterTableType.AT_DetachPartition,
    AlterTableType.AT_AddInherit,
    AlterTableType.AT_DropInherit,
}


def _rename(node: Any, found: Mentions) -> Facts:
    """Describe RENAME and SET SCHEMA: until the end of the transaction nobody finds the rows by the name."""
    kind = node.renameType if isinstance(node, ast.RenameStmt) else node.objectType
    if kind != ObjectType.OBJECT_TABLE or node.relation is None:
        return {"kind": Kind.DDL}
    return {"kind": Kind.DDL, "targets": (Target(Operation.ALTER, range_name(node.relation)),)}


def _drop(node: Any, found: Mentions) -> Facts:
    facts: Facts = {"kind": Kind.DDL, "needs_no_transaction": bool(node.concurrent)}
    if node.removeType in _RELATIONS:
        facts["relations"] = frozenset(map(listed_name, node.objects))
    if node.removeType == ObjectType.OBJECT_TABLE:
        is_cascade = node.behavior == DropBehavior.DROP_CASCADE
        facts["targets"] = tuple(
            Target(Operation.DROP, listed_name(parts), is_cascade=is_cascade) for parts in node.objects
        )
    return facts


_RELATIONS = {
    ObjectType.OBJECT_INDEX, ObjectType.OBJECT_VIEW, ObjectType.OBJECT_MATVIEW, ObjectType.OBJECT_SEQUENCE,
}  # fmt: skip


def _into(node: Any) -> Any:
    """Return the INTO clause, which in a UNION stands with the leftmost SELECT."""
    while isinstance(node, ast.SelectStmt) and node.larg is not None:
        node = node.larg
    return getattr(node, "intoClause", None) or getattr(node, "into", None)


def temporary(node: Any) -> Facts:
    """Return the pin of a statement that makes a temporary object."""
    into = _into(node)
    if into is not None:
        relation, on_commit = into.rel, into.onCommit
    elif isinstance(node, ast.CreateStmt):
        relation, on_commit = node.relation, node.oncommit
    elif isinstance(node, ast.ViewStmt):
        relation, on_commit = node.view, None
    elif isinstance(node, ast.CreateSeqStmt):
        relation, on_commit = node.sequence, None
    else:
        path = getattr(node, "funcname", None) or getattr(node, "typeName", None)
        is_temporary = isinstance(node, _MAKERS) and isinstance(path, tuple) and path[0].sval == "pg_temp"
        return {"pin": Pin.TEMP_TABLE} if is_temporary else {}
    if relation.relpersistence != _TEMPORARY and relation.schemaname != "pg_temp":
        return {}
    created: Facts = {"created": (None, relation.relname)}
    # With ON COMMIT DROP it is gone before the server can be lent to another session.
    return created if on_commit == OnCommitAction.ONCOMMIT_DROP else created | {"pin": Pin.TEMP_TABLE}


_MAKERS = (ast.CreateFunctionStmt, ast.CompositeTypeStmt, ast.CreateEnumStmt, ast.CreateDomainStmt)


_DESCRIBE: dict[Any, Callable[[Any, Mentions], Facts]] = {
    ast.SelectStmt: _select,
    **dict.fromkeys(WRITES, _write),
    ast.TruncateStmt: lambda node, _: {"kind": Kind.WRITE, "targets": tuple(of_truncate(node))},
    ast.ExplainStmt: _explain,
    ast.TransactionStmt: _transaction,
    ast.VariableSetStmt: _set,
    ast.VariableShowStmt: lambda node, _: {"kind": Kind.SHOW},
    ast.DiscardStmt: _discard,
    ast.PrepareStmt: _prepare,
    ast.ExecuteStmt: lambda node, _: {"kind": Kind.EXECUTE, "prepared_name": node.name},
    ast.DeallocateStmt: _deallocate,
    ast.CopyStmt: _copy,
    ast.DeclareCursorStmt: _declare,
    ast.FetchStmt: lambda node, _: {"kind": Kind.READ, "cursor": node.portalname},
    ast.ClosePortalStmt: _close,
    ast.DoStmt: _do,
    ast.ListenStmt: lambda node, _: {
        "kind": Kind.UTILITY,
        "pin": Pin.LISTEN,
        "channel": node.conditionname,
    },
    ast.UnlistenStmt: lambda node, _: {
        "kind": Kind.UTILITY,
        "channel": node.conditionname,
        "unpin": None if node.conditionname else Unpin.LISTEN,
    },
    ast.LoadStmt: lambda node, _: {"kind": Kind.UTILITY, "pin": Pin.LOAD},
    ast.AlterTableStmt: _alter_table,
    **dict.fromkeys((ast.RenameStmt, ast.AlterObjectSchemaStmt), _rename),
    ast.DropStmt: _drop,
    # Its script runs.
    **dict.fromkeys(
        (ast.CreateExtensionStmt, ast.AlterExtensionStmt),
        lambda node, _: {"kind": Kind.DDL, "is_opaque": True},
    ),
    ast.IndexStmt: lambda node, _: {"kind": Kind.DDL, "needs_no_transaction": bool(node.concurrent)},
    **dict.fromkeys(
        (ast.VacuumStmt, ast.AlterSystemStmt),
        lambda node, _: {
            "kind": Kind.UTILITY,
            "needs_no_transaction": bool(getattr(node, "is_vacuumcmd", True)),
        },
    ),
    **dict.fromkeys((ast.ReindexStmt,), lambda node, _: {"kind": Kind.UTILITY, "needs_no_transaction": True}),
    **dict.fromkeys(
        (ast.CreatedbStmt, ast.DropdbStmt, ast.CreateTableSpaceStmt, ast.DropTableSpaceStmt),
        lambda node, _: {"kind": Kind.DDL, "needs_no_transaction": True},
    ),
}
_UTILITIES = (
    ast.NotifyStmt, ast.LockStmt, ast.CallStmt, ast.ClusterStmt,
    ast.CheckPointStmt, ast.ConstraintsSetStmt,
)  # fmt: skip
