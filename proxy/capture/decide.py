"""Which form captures a statement. Pure, and the same for equal arguments: callers keep the answer.

    inline    the statement carries its own key entries (`splice`): cheap and exact
    copied    a COPY FROM between two calls that enter what it writes (`copying`)
    watched   between two counts (`watch`): table entries for whatever grew
    entries   table entries written before it: TRUNCATE and some DDL, which counts do not show
    announced entries in a transaction before it, good when it has ended (`announce`)
    nothing   no mirrored table can change, or only tables in trigger form

Inline and watched go together when the statement's own table is certain but something
else may change too: cascades, triggers, functions.

Every plan that is not inline or copied alone has a reason, for warnings and for `check`: it costs
the mirror a comparison of whole tables, and the operator can usually do better.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from proxy.capture.reach import reach, truncated
from proxy.capture.splice import changes_key
from proxy.catalog.model import Catalog, QualifiedName, Relation, RelationKind, Table
from proxy.sql.statement import NAMING, Kind, Name, Operation, Pin, Statement, Target

TRIGGER_FORM = "trigger"
_MERGE_RETURNS = 170000
_OLD_RETURNS = 180000
_TABLE_WIDE = {Operation.TRUNCATE, Operation.ALTER, Operation.DROP}
_CALLING = {Kind.READ, Kind.COPY_OUT, Kind.DDL, Kind.WRITE, Kind.COPY_IN}
_HARMLESS_RELATIONS = {RelationKind.FOREIGN_TABLE, RelationKind.SEQUENCE}


@dataclass(frozen=True, slots=True)
class Plan:
    """How one statement is captured."""

    inline: Table | None = None
    copied: Table | None = None
    watches: bool = False
    watch_except: tuple[int, ...] = ()  # ids whose changes are entries already
    entries: tuple[int, ...] = ()  # ids that get a table entry first
    # Outside a transaction block it may commit on its way, which `watch` forbids: see `announce`.
    may_commit: bool = False
    ddl: str = ""  # DDL: "mirror", "refuse" or "warn"
    reason: str = ""  # why not inline alone

    @property
    def is_inline_only(self) -> bool:
        """Whether the statement itself says all there is to say."""
        return self.inline is not None and not self.watches and not self.entries

    @property
    def is_split(self) -> bool:
        """Whether its entries are a statement of their own, behind it."""
        return self.inline is not None and self.inline.is_split

    def entries_sql(self) -> tuple[str, ...]:
        """Return the statements to run before it, in its transaction."""
        values = ", ".join(f"({table_id}, 't')" for table_id in self.entries if table_id)
        if not values:
            return ()
        return (f"INSERT INTO crossfade.ledger (tbl, kind) VALUES {values}",)


def decide(
    statement: Statement,
    catalog: Catalog,
    search_path: Sequence[str],
    temporary: Collection[str] = (),
    role: str | None = None,
) -> Plan | None:
    """Return the plan for one statement; None when there is nothing to capture.

    Args:
        search_path: The session's, with "$user" already replaced.
        temporary: Names of temporary relations that this session has created, which hide others.
        role: Whose privileges are in force; None: one that may read everything.
    """
    if not any(table.capture != TRIGGER_FORM for table in catalog.tables.values()):
        return None if not _is_table_wide(statement) else _table_wide(statement, catalog, search_path)
    if statement.kind is Kind.UNKNOWN:
        return _watched("the text cannot be parsed")
    if statement.kind is Kind.EXECUTE or (statement.kind is Kind.WRITE and statement.prepared_name):
        return _watched("EXECUTE runs a statement whose text is elsewhere")
    if statement.kind is Kind.UTILITY and statement.tag in ("DO", "CALL"):
        may_commit = statement.may_commit or _calls_committing(statement, catalog, search_path)
        return replace(_watched(f"{statement.tag} may run anything"), may_commit=may_commit)
    if statement.kind is Kind.UTILITY:
        return None
    if statement.kind not in _CALLING:
        return None
    if _is_table_wide(statement):
        return _table_wide(statement, catalog, search_path)
    calls = _calls(statement, catalog, search_path)
    if not statement.targets:
        if calls and statement.cursor:
            calls += ", and what it changes while the cursor is read is not seen"
        return _watched(calls) if calls else None
    if any(schema is None and name in temporary for schema, name in _targeted(statement)):
        return _watched("a temporary relation bears the name", calls)
    return _changing(statement, catalog, search_path, calls, role)


def _targeted(statement: Statement) -> list[Name]:
    return [target.relation for target in statement.targets]


def changes_names(statement: Statement) -> bool:
    """Return whether names may mean something else once this statement has run."""
    if statement.asked_settings or statement.asked_local or statement.pin is Pin.SETTING:
        return True
    if any(each.name in NAMING or each.name == "all" for each in statement.settings):
        return True
    if statement.kind is Kind.UTILITY:
        return statement.tag in ("DO", "CALL")
    return statement.kind in _RENAMING or statement.is_rollback_to


_RENAMING = {Kind.DDL, Kind.DISCARD, Kind.EXECUTE, Kind.COMMIT, Kind.ROLLBACK, Kind.UNKNOWN}


def decide_uncertain(statement: Statement, catalog: Catalog) -> Plan | None:
    """Return the plan for a statement whose names may mean something else when it runs.

    It follows a statement that `changes_names` in the same request. So what it changes is
    counted; where counts do not show it, every table of the name gets an entry.
    """
    if _is_table_wide(statement):
        names = {target.relation[1] for target in statement.targets}
        is_wide = any(target.is_cascade for target in statement.targets)
        ids = sorted(table.id for table in catalog.tables.values() if is_wide or table.name in names)
        return Plan(entries=tuple(ids), reason=f"{statement.tag} changes whole tables") if ids else None
    calls = statement.functions or (statement.kind is not Kind.DDL and statement.relations)
    if (
        statement.targets
        or statement.kind in (Kind.WRITE, Kind.COPY_IN, Kind.EXECUTE, Kind.UNKNOWN)
        or (statement.kind is Kind.UTILITY and statement.tag in ("DO", "CALL"))
        or (statement.kind in _CALLING and calls)
    ):
        return _watched("an earlier statement of the same request may change what names mean")
    return None


def decide_before(statement: Statement, catalog: Catalog, search_path: Sequence[str]) -> Plan | None:
    """Return the plan for a COPY FROM STDIN that nothing of ours can follow: entries before it."""
    plan = decide(statement, catalog, search_path)
    if plan is None or not plan.watches:
        return plan
    effect = _effect(statement.targets[0], catalog, search_path)
    if effect.table is not None and not effect.besides and not _calls(statement, catalog, search_path):
        ids = [effect.table.id]
    else:
        ids = sorted(table.id for table in catalog.tables.values() if table.capture != TRIGGER_FORM)
    return Plan(entries=tuple(ids), reason=plan.reason)


def decide_execute(prepared: Statement | None, catalog: Catalog, search_path: Sequence[str]) -> Plan | None:
    """Return the plan for the EXECUTE of a statement that the session PREPAREd; None: unknown to us."""
    if prepared is not None and decide(prepared, catalog, search_path) is None:
        return None
    return _watched("EXECUTE runs a statement whose text is elsewhere")


def _changing(
    statement: Statement, catalog: Catalog, search_path: Sequence[str], calls: str, role: str | None
) -> Plan | None:
    """Return the plan for a statement that changes rows of the tables it names."""
    reasons = [calls] if calls else []
    effects = [_effect(target, catalog, search_path) for target in statement.targets]
    reasons += [effect.besides for effect in effects if effect.besides]
    own = [effect.table for effect in effects if effect.table is not None]
    if not own:
        return _watched(*reasons) if reasons else None
    if statement.targets[0].operation is Operation.COPY and not reasons and _is_stamped(own[0]):
        return Plan(copied=own[0])
    obstacle = _obstacle(statement, own[0], catalog.server_version)
    if not obstacle and role in catalog.blind.get(own[0].names, ()):
        obstacle = f"role {role} may not read the key of {own[0].name}"
    if obstacle or (own[0].is_split and reasons):
        return _watched(obstacle, *reasons)
    return Plan(
        inline=own[0],
        watches=bool(reasons),
        watch_except=(own[0].id,) if reasons else (),
        reason="; ".join(reasons),
    )


@dataclass(frozen=True, slots=True)
class _Effect:
    """What one target means: its mirrored table in statement form, and what else may change."""

    table: Table | None = None
    besides: str = ""


def _effect(target: Target, catalog: Catalog, search_path: Sequence[str]) -> _Effect:
    found = catalog.find(target.relation, search_path)
    if found is None:
        if target.relation[0] == "pg_temp":
            return _Effect()
        return _Effect(None, f"relation {target.relation[1]} is not known yet")
    if isinstance(found, Relation):
        if found.kind in _HARMLESS_RELATIONS:
            return _Effect()
        if found.kind not in (RelationKind.TABLE, RelationKind.PARTITION):
            return _Effect(None, f"{found.kind} {found.name} passes changes on")
    root = _root(found, catalog)
    besides = []
    if found.has_user_triggers or (root is not None and root.has_user_triggers):
        besides.append(f"{found.name} has triggers, which may change other rows")
    if found.has_rules:
        besides.append(f"{found.name} has rules")
    names = root.names if root is not None else (found.schema, found.name)
    besides += _cascades(target, names, catalog)
    is_own = root is not None and root.capture != TRIGGER_FORM
    return _Effect(root if is_own else None, "; ".join(besides))


def _cascades(target: Target, names: QualifiedName, catalog: Catalog) -> list[str]:
    deletes = target.operation in (Operation.DELETE, Operation.MERGE)
    reached = reach(catalog, names, deletes=deletes, assigned=target.assigned)
    unseen = sorted(
        name
        for schema, name in reached.tables
        if (table := catalog.tables.get((schema, name))) is not None and table.capture != TRIGGER_FORM
    )
    if unseen:
        return [f"a foreign key passes changes on to {', '.join(unseen)}"]
    return ["a foreign key passes changes on to tables with triggers"] if reached.fires_triggers else []


def _obstacle(statement: Statement, table: Table, server_version: int) -> str:
    """Return why a statement cannot carry its own entries for its table; empty when it can."""
    target = statement.targets[0]
    if statement.has_nested_writes or len(statement.targets) > 1:
        return "a writable CTE"
    if statement.is_explain or target.operation is Operation.COPY:
        return f"{statement.tag} returns no keys"
    if not table.key and (target.operation is not Operation.INSERT or target.is_upsert):
        return f"{table.name} has no key"
    if not table.id:
        return f"{table.name} has no id before `crossfade init` runs again"
    if table.has_rules:
        return f"{table.name} has rules, which forbid a WITH around the statement"
    if table.has_row_security:
        return f"{table.name} has row security, which RETURNING would apply to more rows"
    if table.has_children and not target.is_only:
        return f"{table.name} has inheritance children"
    if target.operation is Operation.MERGE and server_version < _MERGE_RETURNS:
        return "MERGE has no RETURNING before PostgreSQL 17"
    if changes_key(target, table):
        if table.is_split:
            return f"the key of {table.name} may change, and the split form returns one key for each row"
        if server_version < _OLD_RETURNS:
            return f"the key of {table.name} may change, and RETURNING has no old row before PostgreSQL 18"
        if target.has_returning and target.old_alias is None:
            return f"the key of {table.name} may change, and the name old stands for something else"
    return ""


def _is_stamped(table: Table) -> bool:
    """Return whether what a COPY writes bears a stamp that is the row's in this table."""
    return bool(table.key and table.id) and not (
        table.nullable_key or table.has_row_security or table.has_children
    )


def _is_table_wide(statement: Statement) -> bool:
    return bool(statement.targets) and statement.targets[0].operation in _TABLE_WIDE


def _table_wide(statement: Statement, catalog: Catalog, search_path: Sequence[str]) -> Plan | None:
    """Return the plan for TRUNCATE, and for DDL that changes what rows there are."""
    ids: set[int] = set()
    for target in statement.targets:
        found = catalog.find(target.relation, search_path)
        root = _root(found, catalog) if found is not None else None
        if root is None or found is None:
            continue
        is_truncate = target.operation is Operation.TRUNCATE
        if target.operation is Operation.DROP and found is root:
            continue  # what is gone cannot be compared
        names = truncated(catalog, root.names) if is_truncate and target.is_cascade else {root.names}
        for name in names:
            table = catalog.tables.get(name)
            # In trigger form TRUNCATE has its trigger, but DDL fires none.
            if table is not None and not (is_truncate and table.capture == TRIGGER_FORM):
                ids.add(table.id)
    return Plan(entries=tuple(sorted(ids)), reason=f"{statement.tag} changes whole tables") if ids else None


def _root(found: Table | Relation | None, catalog: Catalog) -> Table | None:
    """Return the mirrored table that a name's rows belong to."""
    if isinstance(found, Relation) and found.kind is RelationKind.PARTITION:
        return next((catalog.tables[name] for name in found.base_tables if name in catalog.tables), None)
    return found if isinstance(found, Table) else None


def _calls(statement: Statement, catalog: Catalog, search_path: Sequence[str]) -> str:
    """Return which call may change rows unseen; empty when none does."""
    for name in sorted(statement.functions, key=lambda name: name[1]):
        if catalog.may_change_rows(name, search_path):
            return f"function {name[1]} may change rows"
    return catalog.hidden_call(statement, search_path)


def _calls_committing(statement: Statement, catalog: Catalog, search_path: Sequence[str]) -> bool:
    schemas = ("pg_catalog", *search_path)
    return statement.tag == "CALL" and any(
        (each, name) in catalog.committing
        for schema, name in statement.functions
        for each in ((schema,) if schema is not None else schemas)
    )


def _watched(*reasons: str) -> Plan:
    return Plan(watches=True, reason="; ".join(filter(None, reasons)))
