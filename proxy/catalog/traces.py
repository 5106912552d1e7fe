"""What may leave something in the session that runs it: settings, temporary tables, locks, ...

What a statement itself says is known (`sql.classify`). What it sets in motion is found here, as
everything volatile is in `hidden`:

    opaque   a function that sets, creates, locks, listens or prepares, or may: its text holds one of
             the words for it, it runs dynamic SQL, or nobody can read it (PL/Python, unknown C)
    traces   whatever mentions one of these, writing to a table with such a trigger included

When such a statement has run, the server is asked what the session has now (`session.inventory`).
So an innocent function that is taken for an opaque one costs a round trip, and nothing else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from proxy.catalog.definitions import Definition, Sort, spread
from proxy.sql.statement import Kind, Statement

SEEN = frozenset({
    "set_config", "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared", "pg_advisory_unlock", "pg_advisory_unlock_shared",
    "pg_advisory_unlock_all",
})  # fmt: skip
"""Functions whose calls are understood where they stand in a statement."""

RUNS_SQL = frozenset({
    "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite",
    "table_to_xml", "table_to_xml_and_xmlschema", "cursor_to_xml", "schema_to_xml",
    "schema_to_xml_and_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
    "crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstab_hash", "connectby", "xpath_table",
})  # fmt: skip
"""In C, and yet they run SQL that they are given, or read any view: those of PostgreSQL itself, and of
the extensions tablefunc and xml2."""

NATIVE = SEEN | RUNS_SQL | {"set_limit"}
"""Functions in C that may leave something, or run what does."""

# Their volatile functions in C leave nothing.
_HARMLESS_EXTENSIONS = frozenset({
    "uuid-ossp", "pgcrypto", "tablefunc", "pg_trgm", "pg_stat_statements", "autoinc", "insert_username",
    "lo", "moddatetime", "refint", "tcn", "postgis", "plpgsql",
})  # fmt: skip
_READABLE = frozenset({"", "sql", "plpgsql"})

# SET is a statement of its own unless it is the SET of an UPDATE. FOR UPDATE LOOP SET ... is none.
_update_set = re.compile(
    r'\bupdate\s+(?:(?:only\s+)?(?!loop\b)[\w$."]+\s*\*?\s+(?:as\s+)?(?:(?!loop\b)[\w$"]+\s+)?)?set\b'
)
_leaving = re.compile(
    r"\b(?:set|reset|discard|create|temp|temporary|pg_temp|listen|unlisten|prepare|deallocate|execute|hold|load)\b"
)

# 'app.tenant', as set_config() and current_setting() take it; SET app.tenant
_custom = re.compile(
    r"'([a-z_][\w$]*(?:\.[\w$]+)+)'|\bset\s+(?:session\s+|local\s+)?([a-z_][\w$]*(?:\.[\w$]+)+)"
)
_SETTINGS_MAX = 1000


class Traces(NamedTuple):
    """What leads to an opaque function, by names without schemas."""

    functions: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()  # when they are read
    written: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    has_implicit_casts: bool = False
    has_event_triggers: bool = False
    settings: frozenset[str] = frozenset()  # names of custom ones that stand in functions

    def are_left_by(self, statement: Statement) -> bool:
        """Return whether a statement may leave something that its text does not say."""
        functions = {name for _, name in statement.functions}
        is_ddl = statement.kind is Kind.DDL
        return (
            statement.kind is Kind.UNKNOWN
            or statement.is_opaque
            or (is_ddl and self.has_event_triggers)
            or self.has_implicit_casts
            or not self.functions.isdisjoint(functions - SEEN)
            or not self.types.isdisjoint(statement.types | functions)
            or not self.operators.isdisjoint(statement.operators)
            or not self.relations.isdisjoint(name for _, name in statement.relations)
            or (is_ddl and not self.written.isdisjoint(name for _, name in statement.relations))
            or not self.written.isdisjoint(target.relation[1] for target in statement.targets)
        )


def find_traces(definitions: Iterable[Definition]) -> Traces:
    """Return what may run an opaque function, directly or not."""
    definitions = list(definitions)
    names: dict[Sort, set[str]] = {sort: set() for sort in Sort}
    for definition in spread(definitions, is_opaque):
        names[definition.sort].add(definition.name)
    casts = names[Sort.IMPLICIT_CAST]
    return Traces(
        frozenset(names[Sort.FUNCTION]),
        frozenset(names[Sort.RELATION]),
        frozenset(names[Sort.WRITTEN]),
        frozenset(names[Sort.OPERATOR]),
        frozenset(names[Sort.TYPE] | casts),
        bool(casts),
        bool(names[Sort.EVENT]),
        frozenset(itertools.islice(_settings(definitions), _SETTINGS_MAX)),
    )


def _settings(definitions: Iterable[Definition]) -> Iterator[str]:
    for definition in definitions:
        for quoted, bare in _custom.findall(definition.source.lower()):
            yield quoted or bare


def is_opaque(definition: Definition) -> bool:
    """Return whether a function may leave something by itself."""
    if definition.sort is not Sort.FUNCTION:
        return False
    if definition.language in ("c", "internal"):
        is_doubtful = definition.is_declared_volatile and definition.extension not in _HARMLESS_EXTENSIONS
        return definition.name in NATIVE or (definition.language == "c" and is_doubtful)
    if definition.language not in _READABLE:
        return True
    return _leaving.search(_update_set.sub(" ", definition.source.lower())) is not None
