"""What the proxy knows about a database: values only, filled by the readers beside this file.

A `Catalog` is a snapshot. Whoever holds one decides with it without awaiting; a DDL
statement seen by the proxy, or a changed fingerprint, makes the owner read another.

Doubt is resolved towards safety: a function the snapshot does not know counts as
volatile, a name it does not know is reported as None and treated as "may be anything".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from proxy.catalog.traces import RUNS_SQL, SEEN, Traces
from proxy.sql.quote import quote_qualified
from proxy.sql.statement import Name, Statement

QualifiedName = tuple[str, str]
"""Schema and name, both exactly as stored in pg_class."""


# Stable by pg_proc, and yet refused on a replica: the first two because it cannot assign a transaction id.
_REFUSED_ON_REPLICA = {"pg_current_xact_id", "txid_current", "pg_replication_origin_oid"}


_WORDS = ("view", "a policy of")


class Column(NamedTuple):
    """A column, in the order of attnum; dropped columns are not listed."""

    name: str
    type: str  # format_type(atttypid, atttypmod)
    attnum: int
    is_generated: bool = False
    identity: str = ""  # pg_attribute.attidentity: '' none, 'a' always, 'd' by default
    is_not_null: bool = False
    is_portable: bool = False  # its binary form means the same on every cluster: no OIDs in it


class UniqueIndex(NamedTuple):
    """A unique index; `expressions` are SQL texts, for plain columns the quoted name."""

    name: str
    expressions: tuple[str, ...]
    predicate: str | None
    is_key: bool
    is_immediate: bool = True  # a deferrable constraint's index cannot decide ON CONFLICT
    are_nulls_equal: bool = False  # NULLS NOT DISTINCT


class ForeignKey(NamedTuple):
    """A foreign key from `table` to `referenced`.

    The actions are pg_constraint's letters: a no action, r restrict, c cascade,
    n set null, d set default. Keys of partitions are reported once, for the root.
    """

    name: str
    table: QualifiedName
    columns: tuple[str, ...]
    referenced: QualifiedName
    referenced_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    is_deferrable: bool = False


class Table(NamedTuple):
    """A mirrored table. For a partitioned table the root, never a partition."""

    id: int  # crossfade.tables.id, the same on both clusters
    schema: str
    name: str
    oid: int
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # column names, in key order; empty: a keyless table, mirrored as a whole
    key_types: tuple[str, ...]
    capture: str = "statement"  # or "trigger"
    is_split: bool = False  # in statement form, and the write and its entries are two statements
    unique_indexes: tuple[UniqueIndex, ...] = ()
    references: tuple[ForeignKey, ...] = ()
    referenced_by: tuple[ForeignKey, ...] = ()  # from any table, mirrored or not
    has_user_triggers: bool = False  # not internal, not ours, enabled
    has_rules: bool = False  # other than a view's SELECT rule
    has_row_security: bool = False  # RETURNING would then apply the SELECT policies too
    is_partitioned: bool = False
    has_children: bool = False  # plain inheritance, not partitions
    is_volatile: bool = False  # a row security policy, recursively, calls a volatile function
    fingerprint: str = ""  # changes whenever the columns do; comparable on one cluster only

    @property
    def qualified(self) -> str:
        """The quoted name with its schema, ready for SQL."""
        return quote_qualified(self.schema, self.name)

    @property
    def names(self) -> QualifiedName:
        """Schema and name, as the catalog's mappings are keyed."""
        return self.schema, self.name

    @property
    def nullable_key(self) -> tuple[str, ...]:
        """The key's columns that may be NULL: the operator vouches for them (`tables.key`)."""
        return tuple(each.name for each in self.columns if each.name in self.key and not each.is_not_null)


class RelationKind(StrEnum):
    """What a name that is not a mirrored table stands for."""

    TABLE = "table"  # not mirrored; `base_tables` is empty
    PARTITION = "partition"  # `base_tables` holds its root
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    FOREIGN_TABLE = "foreign table"
    SEQUENCE = "sequence"


class Relation(NamedTuple):
    """Any relation that is not a mirrored table."""

    schema: str
    name: str
    kind: RelationKind
    base_tables: frozenset[QualifiedName] = frozenset()  # views: recursively; partitions: the root
    is_volatile: bool = False  # a view whose definition, recursively, calls a volatile function
    has_user_triggers: bool = False
    has_rules: bool = False


class OwnedSequence(NamedTuple):
    """A sequence that the switch must advance, and the columns that draw from it."""

    schema: str
    name: str
    owned_by: tuple[QualifiedName, str] | None = None  # table and column

    @property
    def qualified(self) -> str:
        """The quoted name with its schema, ready for SQL."""
        return quote_qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Catalog:
    """One database at one moment.

    `functions` holds every function and procedure, system ones included: schema and name
    to whether ANY overload is volatile, or calls something that is (`hidden`). Overloads are
    not told apart, because argument types are not known without a server. `native_functions`
    are those written in C only: of these a volatile one (nextval, random) may change much, but
    no rows of tables.
    """

    tables: Mapping[QualifiedName, Table] = field(default_factory=dict)
    relations: Mapping[QualifiedName, Relation] = field(default_factory=dict)
    functions: Mapping[QualifiedName, bool] = field(default_factory=dict)
    native_functions: frozenset[QualifiedName] = frozenset()
    volatile_operators: frozenset[str] = frozenset()  # that call a volatile function of the user's
    volatile_types: frozenset[str] = frozenset()  # a cast to which, or a check of which, calls one
    has_volatile_casts: bool = False  # that PostgreSQL makes by itself, anywhere
    server_version: int = 160000  # server_version_num
    sequences: tuple[OwnedSequence, ...] = ()
    committing: frozenset[QualifiedName] = frozenset()  # procedures that may end transactions
    # Roles that may write to a table, or a partition of it, but not read the key there.
    blind: Mapping[QualifiedName, frozenset[str]] = field(default_factory=dict)
    traces: Traces = field(default_factory=Traces)  # what may change the session that runs it

    def find(self, name: Name, search_path: Sequence[str]) -> Table | Relation | None:
        """Return what a relation name stands for; None when this snapshot does not know it."""
        schema, relation = name
        # pg_catalog is searched first unless search_path names it elsewhere; an explicit
        # mention later is a curiosity that only decides between equal names.
        schemas = (schema,) if schema is not None else ("pg_catalog", *search_path)
        for candidate in schemas:
            found = self.tables.get((candidate, relation)) or self.relations.get((candidate, relation))
            if found is not None:
                return found
        return None

    def is_volatile(self, name: Name, search_path: Sequence[str]) -> bool:
        """Return whether calling this function may do more than read."""
        schema, function = name
        if function in _REFUSED_ON_REPLICA or function in RUNS_SQL:
            return True
        if schema is not None:
            return self.functions.get((schema, function), True)
        known = self._overloads(function, search_path)
        return any(known.values()) or not known

    def may_change_rows(self, name: Name, search_path: Sequence[str]) -> bool:
        """Return whether calling this function may write to tables."""
        schema, function = name
        if schema is not None:
            known = {(schema, function): self.functions.get((schema, function), True)}
        else:
            known = self._overloads(function, search_path)
        if function in RUNS_SQL:
            return True
        return not known or any(known[found] and found not in self.native_functions for found in known)

    def hidden_call(self, statement: Statement, search_path: Sequence[str]) -> str:
        """Return what in a statement runs a volatile function without naming it; empty: nothing."""
        for operator in sorted(statement.operators & self.volatile_operators):
            return f"operator {operator} calls a volatile function"
        called = {function for _, function in statement.functions}
        for type_ in sorted((statement.types | called) & self.volatile_types):
            return f"a value of type {type_} calls a volatile function"
        for name in sorted(statement.relations, key=lambda name: name[1]):
            found = self.find(name, search_path)
            if found is not None and found.is_volatile:
                return f"{_WORDS[isinstance(found, Table)]} {name[1]} calls a volatile function"
        return "an implicit cast may call a volatile function" if self.has_volatile_casts else ""

    def leaves_traces(self, statement: Statement, search_path: Sequence[str]) -> bool:
        """Return whether a statement may change the session in ways that its text does not say."""
        return self.traces.are_left_by(statement) or not all(
            name in self.functions if name[0] is not None else self._overloads(name[1], search_path)
            for name in statement.functions
            if name[1] not in SEEN
        )

    def _overloads(self, function: str, search_path: Sequence[str]) -> dict[QualifiedName, bool]:
        """Return the functions of a name by schema, with whether they are volatile.

        An overload in a later schema may fit the arguments better than one found earlier, so
        all of them count.
        """
        schemas = ("pg_catalog", *search_path)
        return {
            (schema, function): self.functions[schema, function]
            for schema in schemas
            if (schema, function) in self.functions
        }
