"""What a query text is: may it leave the authority, and how are its changes captured.

Judging costs a parse (about 80 us) and a few look-ups; a session asks for every
statement. `sql.cache` returns the same tuple of statements for every text of the same
shape, so a judgement is kept for the tuple and found by its identity. All are thrown
away when the catalog or the learned writes change.

A read is what PostgreSQL would run in a READ ONLY transaction: the shape is SELECT,
and nothing it mentions runs a volatile function (`catalog.hidden`). Should that be wrong all
the same, the server refuses with 25006 (replicas are in recovery, and on the mirror
our connections are read-only), the session sends the statement to the authority, and
`learn_write` remembers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from proxy.capture.decide import Plan, changes_names, decide, decide_before, decide_uncertain
from proxy.catalog.model import Catalog
from proxy.server.kept import ENTRY_BYTES, STATEMENT_BYTES, Kept
from proxy.session.search_path import ESCAPES, UNCERTAIN, hidden, role_in
from proxy.sql.cache import Cache
from proxy.sql.classify import escaped
from proxy.sql.normalise import normalise
from proxy.sql.statement import Kind, Pin, Statement

SearchPath = tuple[str, ...]

_KEPT_BYTES_MAX = 16 * 1024 * 1024
_LEARNED_MAX = 1000

# Statements that change no rows and may run while writes are held.
_HARMLESS = frozenset(
    {Kind.SHOW, Kind.SET, Kind.RESET, Kind.DISCARD, Kind.ROLLBACK, Kind.COMMIT, Kind.PREPARE, Kind.DEALLOCATE}
)
_HARMLESS_TAGS = frozenset({"LISTEN", "UNLISTEN", "CLOSE"})


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgement on one query text.

    `plans` has one entry per statement; None in it means that nothing is to be captured.
    """

    statements: tuple[Statement, ...]
    plans: tuple[Plan | None, ...]
    kind: Kind
    is_read: bool  # may leave the authority
    is_write: bool  # may change something: waits while writes are held
    is_captured: bool  # some plan is not None
    may_commit: bool  # outside a transaction block it may commit on its way
    is_apart: bool  # DDL for the mirror that no transaction may hold
    is_tracked: bool  # its success changes the session: settings, pins, savepoints, transactions
    begins: bool  # contains BEGIN
    changes_names: bool  # what follows in the same request may mean something else
    leaves_traces: bool  # may change the session in ways that the text does not say
    ends_only: bool  # it is one COMMIT or ROLLBACK
    reads_drawn: bool  # it calls lastval() or currval()
    label: str  # of its kind, for metrics


class Judge:
    """Judge texts for one database, remembering what was judged.

    Args:
        catalog: What the authority looks like; replaced by `use` when that changes.
        captures: Whether changes are captured at all (`mirror.enabled`).
    """

    def __init__(self, catalog: Catalog, *, captures: bool) -> None:
        self._catalog = catalog
        self.captures = captures
        self.ddl_of: Callable[[str], str] = lambda kind: "mirror"
        # Where there are no tables yet only the database knows: its first one is made by DDL.
        self.is_installed: Callable[[], bool] = lambda: False
        self._cache = Cache()
        self.has_read_drawn = False  # some client called lastval() or currval(): they must never tell lies
        self._learned: set[str] = set()
        self._kept: Kept[tuple[int, SearchPath], Judged] = Kept(_KEPT_BYTES_MAX)

    def use(self, catalog: Catalog, *, captures: bool) -> None:
        """Judge by another catalog from now on."""
        self._catalog = catalog
        self.captures = captures
        self._kept.clear()

    @property
    def catalog(self) -> Catalog:
        """The catalog judged by."""
        return self._catalog

    def judge(self, text: str, search_path: SearchPath) -> Judged:
        """Return the judgement on a text under a search path."""
        if "\\" in text and ESCAPES in search_path:
            return self._judge(text, (escaped(text),), search_path)
        statements = self._cache.statements(text)
        key = (id(statements), search_path)
        found = self._kept.get(key)
        if found is not None and found.statements is statements:
            return found
        judged = self._judge(text, statements, search_path)
        # It holds the tuple, so that its identity cannot be reused meanwhile.
        self._kept.keep(key, judged, ENTRY_BYTES + STATEMENT_BYTES * len(statements))
        return judged

    def learn_write(self, text: str) -> None:
        """Remember that PostgreSQL refused this text in a read-only transaction."""
        if len(self._learned) >= _LEARNED_MAX:
            self._learned.clear()
        self._learned.add(normalise(text) or text)
        self._kept.clear()

    def _with_ddl(self, statement: Statement, plan: Plan | None) -> Plan | None:
        """Return the plan of a statement that may be DDL, which then is more than its rows."""
        is_temporary = statement.pin is Pin.TEMP_TABLE or statement.created is not None
        is_installed = self.is_installed() or any(table.id for table in self._catalog.tables.values())
        if not statement.ddl or is_temporary or not is_installed:
            return plan
        return replace(plan or Plan(), ddl=self.ddl_of(statement.ddl))

    def _judge(self, text: str, statements: tuple[Statement, ...], search_path: SearchPath) -> Judged:
        is_read = bool(statements) and UNCERTAIN not in search_path
        is_read = is_read and all(self._is_read(each, search_path) for each in statements)
        is_learned = is_read and bool(self._learned) and (normalise(text) or text) in self._learned
        plans: tuple[Plan | None, ...] = (None,) * len(statements)
        if is_learned:
            # Something in it is not what the catalog says, so no table is certain.
            is_read = False
            plans = tuple(self.uncertain_plan(each) for each in statements)
        elif self.captures and not is_read:
            judged = zip(statements, self._plans(statements, search_path), strict=True)
            plans = tuple(self._with_ddl(*each) for each in judged)
        kinds = {each.kind for each in statements}
        reads_drawn = any(each.reads_drawn for each in statements)
        self.has_read_drawn |= reads_drawn
        return Judged(
            statements=statements,
            plans=plans,
            kind=statements[0].kind if statements else Kind.UTILITY,
            is_read=is_read,
            is_write=not is_read and not all(map(_is_harmless, statements)),
            is_captured=any(plan is not None for plan in plans),
            may_commit=len(plans) == 1 and plans[0] is not None and plans[0].may_commit,
            is_apart=len(plans) == 1
            and plans[0] is not None
            and plans[0].ddl == "mirror"
            and statements[0].needs_no_transaction,
            is_tracked=any(map(is_tracked, statements)),
            begins=Kind.BEGIN in kinds,
            changes_names=any(map(changes_names, statements)),
            leaves_traces=any(self.leaves_traces(each, search_path) for each in statements),
            reads_drawn=reads_drawn,
            ends_only=len(statements) == 1 and kinds <= {Kind.COMMIT, Kind.ROLLBACK},
            label=statements[0].kind.value if statements else "other",
        )

    def leaves_traces(self, statement: Statement, search_path: SearchPath) -> bool:
        """Return whether a statement may change the session in ways that its text does not say."""
        return self._catalog.leaves_traces(statement, search_path)

    def uncertain_plan(self, statement: Statement) -> Plan | None:
        """Return the plan for a statement that follows one that changes what names mean."""
        if not self.captures:
            return None
        return self._with_ddl(statement, decide_uncertain(statement, self._catalog))

    def plan_before(self, statement: Statement, search_path: SearchPath) -> Plan | None:
        """Return the plan for a COPY that nothing can follow before its data have come."""
        return decide_before(statement, self._catalog, search_path) if self.captures else None

    def _plans(self, statements: Sequence[Statement], search_path: SearchPath) -> Iterator[Plan | None]:
        is_certain = UNCERTAIN not in search_path
        for statement in statements:
            if is_certain:
                yield decide(statement, self._catalog, search_path, hidden(search_path), role_in(search_path))
            else:
                yield decide_uncertain(statement, self._catalog)
            is_certain = is_certain and not changes_names(statement)

    def _is_read(self, statement: Statement, search_path: SearchPath) -> bool:
        if not statement.is_plain_read_shape:
            return False
        catalog = self._catalog
        if any(catalog.is_volatile(name, search_path) for name in statement.functions):
            return False
        return not catalog.hidden_call(statement, search_path)


def _is_harmless(statement: Statement) -> bool:
    if statement.kind is Kind.BEGIN:
        return statement.read_only is True
    if statement.is_plain_read_shape:
        return False  # a volatile function
    is_release = statement.unpin is not None and not statement.targets
    return (
        statement.kind in _HARMLESS
        or statement.tag.split()[0:1] in [[tag] for tag in _HARMLESS_TAGS]
        or is_release
    )


def is_tracked(statement: Statement) -> bool:
    """Return whether a session must know that this statement has succeeded."""
    return bool(
        statement.settings
        or statement.asked_settings
        or statement.asked_local
        or statement.pin
        or statement.unpin
        or statement.channel
        or statement.savepoint
        or statement.reads_drawn
        or statement.prepared_name is not None
        or statement.kind in (Kind.COMMIT, Kind.ROLLBACK, Kind.DISCARD, Kind.DEALLOCATE, Kind.DDL)
    )
