"""What the proxy knows about one SQL statement: values only, made by `classify.parse`.

A `Statement` says what its text says and nothing more. Whether a function it calls
is volatile, or whether a relation is mirrored, is in the catalog, which changes;
this value depends on the text alone, so it can be cached for ever.

Names are folded as PostgreSQL folds them (unquoted: lower case) and carry no quotes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Name = tuple[str | None, str]
"""Schema (None: found through search_path) and the name of a relation or function."""


class Kind(StrEnum):
    """What a statement is to the proxy; a label in metrics, so the values are stable."""

    READ = "read"  # before looking at functions: see `Statement.functions`
    WRITE = "write"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"  # SAVEPOINT, RELEASE, ROLLBACK TO: inside a transaction only
    SET = "set"
    RESET = "reset"
    SHOW = "show"
    DISCARD = "discard"
    PREPARE = "prepare"
    EXECUTE = "execute"
    DEALLOCATE = "deallocate"
    COPY_IN = "copy_in"
    COPY_OUT = "copy_out"
    DDL = "ddl"
    UTILITY = "utility"  # LISTEN, LOCK, VACUUM, DO, CALL, PREPARE TRANSACTION, ...
    UNKNOWN = "unknown"  # the parser refused the text: the authority shall judge


class Operation(StrEnum):
    """How a statement changes a relation."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    MERGE = "MERGE"
    COPY = "COPY"
    TRUNCATE = "TRUNCATE"
    ALTER = "ALTER"  # rewrites, attaches or detaches rows
    DROP = "DROP"


class Pin(StrEnum):
    """Why a session cannot leave its server, as operators read it in SHOW CLIENTS."""

    TEMP_TABLE = "temporary object"
    LISTEN = "LISTEN"
    ADVISORY_LOCK = "session-level advisory lock"
    HOLD_CURSOR = "cursor WITH HOLD"
    LOAD = "LOAD"
    PREPARE = "SQL-level PREPARE"
    SETTING = "setting with a computed value"
    UNTOLD = "what a function may have left cannot be asked for"
    BACKSLASH = "backslash while standard_conforming_strings is off"
    SEQUENCE = "lastval() or currval() outside a transaction"


class Unpin(StrEnum):
    """Which pins a statement ends, or may end."""

    LISTEN = "UNLISTEN *"
    ADVISORY_LOCK = "pg_advisory_unlock"
    HOLD_CURSOR = "CLOSE"
    PREPARE = "DEALLOCATE ALL"
    TEMP_TABLE = "DISCARD TEMP"
    SEQUENCE = "DISCARD SEQUENCES"
    ALL = "DISCARD ALL"


NAMING = frozenset({"search_path", "role", "session_authorization", "standard_conforming_strings"})
"""Settings on which it depends what a text and its names mean."""


class Setting(NamedTuple):
    """One SET, RESET or set_config of a session setting.

    `value_sql` is what follows `SET name TO`, ready to be sent again; None means DEFAULT,
    which is also what RESET does. RESET ALL has the name "all".
    """

    name: str  # lower case
    value_sql: str | None
    is_local: bool
    values: tuple[str, ...] = ()  # the same, unquoted: search_path has one for each schema


class Target(NamedTuple):
    """A relation that a statement changes."""

    operation: Operation
    relation: Name
    alias: str | None = None
    has_returning: bool = False
    returning_count: int | None = None  # columns of RETURNING; None when it holds a star
    returning_has_literals: bool = False
    # Columns that SET or ON CONFLICT DO UPDATE SET may give another value. Left out are those
    # provably kept: SET a = a, SET a = excluded.a ON CONFLICT (a), SET a = $1 WHERE a = $1.
    assigned: frozenset[str] = frozenset()
    is_upsert: bool = False  # ON CONFLICT DO UPDATE: it may change rows that are there
    is_only: bool = False
    is_cascade: bool = False  # TRUNCATE or DROP ... CASCADE
    # RETURNING WITH (OLD AS o), PostgreSQL 18: what the row before is called here; None where
    # something else in the statement already bears the name.
    old_alias: str | None = "old"
    has_other_relations: bool = False  # FROM, USING: a bare * in RETURNING covers these too


class CopyTarget(NamedTuple):
    """The other end of a COPY: a relation with its columns, or a query (relation None)."""

    relation: Name | None
    columns: tuple[str, ...]
    is_server_side: bool  # a file or program of the server: no stream to the client
    format: str = "text"


@dataclass(frozen=True)
class Statement:
    """One statement of a query string.

    `text[start:end]`, in characters, is the statement without blanks, comments and semicolons
    around it, so text may be appended at `end`.

    It has no slots: copying one `__dict__` takes a fifth of copying thirty slots (`placed`).
    """

    kind: Kind
    start: int
    end: int
    tag: str = ""  # the first word or words of its command tag: "UPDATE", "DISCARD ALL"
    targets: tuple[Target, ...] = ()  # the top-level target first
    has_nested_writes: bool = False  # a data-modifying CTE
    functions: frozenset[Name] = frozenset()
    reads_drawn: bool = False  # lastval(), currval(): what this session drew from sequences
    relations: frozenset[Name] = frozenset()  # everything mentioned, subqueries too, CTE names not
    operators: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()  # without schemas
    locks_rows: bool = False
    read_only: bool | None = None  # transaction mode of BEGIN and SET TRANSACTION
    isolation: str | None = None  # "serializable", "repeatable read", ...
    settings: tuple[Setting, ...] = ()
    asked_settings: tuple[str, ...] = ()  # set_config() with a computed value: the server knows it
    asked_local: tuple[str, ...] = ()  # the same, for the transaction; only what decides on names
    pin: Pin | None = None
    unpin: Unpin | None = None
    # PREPARE, DEALLOCATE (None: ALL), EXECUTE, and what EXECUTEs: EXPLAIN, CREATE TABLE AS.
    channel: str | None = None  # LISTEN and UNLISTEN; None in UNLISTEN *
    prepared_name: str | None = None
    prepared: Statement | None = None  # PREPARE: the statement inside, placed in the same text
    source: str = ""  # PREPARE: its own text, once that has run: to be run again elsewhere
    savepoint: str | None = None
    is_rollback_to: bool = False
    is_chain: bool = False
    is_two_phase: bool = False  # PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
    copy: CopyTarget | None = None
    created: Name | None = None  # a temporary relation that may now hide another
    cursor: str | None = None  # DECLARE, FETCH, MOVE, CLOSE
    is_explain: bool = False
    ddl: str = ""  # which kind of `ddl.KINDS`
    is_opaque: bool = False  # DO, CREATE EXTENSION: what runs is in no catalog
    may_commit: bool = False  # DO whose text holds a word that may end a transaction
    needs_no_transaction: bool = False  # VACUUM, CREATE DATABASE: refused in a transaction block
    refusal: str = ""  # UNKNOWN: what the parser said
    depends_on_literals: bool = False  # must not be shared by texts that differ in literals
    # READ, or COPY (read) TO the client, without locks, settings, pins or cursors. What is left
    # to ask is the volatility of `functions` and of the views among `relations`.
    is_plain_read_shape: bool = False

    def placed(self, end: int) -> Statement:
        """Return the same statement for a text that differs in literals, and so ends elsewhere."""
        copy = object.__new__(Statement)
        copy.__dict__.update(self.__dict__)
        copy.__dict__["end"] = end
        return copy
