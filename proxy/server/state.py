"""What one session is, whatever server works for it: settings, statements, pins.

It follows the client from server to server. What a completed statement did to it is
noted here, together with what the server that ran the statement now has.
"""

from __future__ import annotations

from proxy.routing.policy import NEVER_S
from proxy.server.database import Database, Sticky
from proxy.server.extended import Extended
from proxy.server.judge import is_tracked
from proxy.server.request import Request
from proxy.session import inventory
from proxy.session.listens import Listens
from proxy.session.pins import QUESTIONS, Pins
from proxy.session.prepares import Prepares, Replay, deallocate, ends_all
from proxy.session.replies import Renamed
from proxy.session.search_path import UNCERTAIN, hiding
from proxy.session.settings import Settings, SettingsTracker, of_text
from proxy.sql.quote import quote_text
from proxy.sql.statement import Kind, Name, Pin, Statement, Unpin
from proxy.upstream.connection import ServerConnection

_NO_NAMES: frozenset[str] = frozenset()  # one for all: each frozenset() would be another


class State:
    """The state of one session."""

    def __init__(self, database: Database, user: str, startup: Settings, sticky: Sticky) -> None:
        self.database = database
        self.user = user
        self.pins = Pins()
        self.extended = Extended()
        self.prepares = Prepares()
        self.listens = Listens()
        self._listening: ServerConnection | None = None  # the server that sends it notifications
        self._replay: Replay | None = None  # of the request under way
        self.tracker = SettingsTracker(startup)
        self._sticky = sticky
        self.fraction = database.fraction(sticky, startup)
        self.last_write_s = NEVER_S
        self.has_written = False  # in the transaction under way
        self.is_audited = False  # the same
        self._is_alone = False  # what writes is one statement outside any transaction
        self._has_changed_schema = False
        self.asked: tuple[str, ...] = ()  # settings whose values only the server knows yet
        self._asked_pins: list[Pin] = []  # pins that the server is being asked about
        self.has_traces = False  # a function may have left something in the session
        self._asks_inside = False  # the same, and it may decide on names in the transaction under way
        self._custom = _NO_NAMES  # what may be names of settings it may have made
        self._inventory: bool | None = None  # asked for: inside a transaction (True), or outside
        self._asked_local: frozenset[str] = _NO_NAMES  # which of them end with the transaction
        self._marks: tuple[str, ...] = ()  # of `session.search_path`
        self._hidden: frozenset[str] = _NO_NAMES  # names that temporary relations bear
        self.search_path = database.search_path(user, startup)

    def wanted(self, *, is_read: bool) -> Settings:
        """Return the settings that a server must have for what comes next."""
        return self.tracker.current.reading if is_read and not self.pins else self.tracker.current

    def preamble(self, server: ServerConnection, wanted: Settings, *, is_write: bool) -> str:
        """Return the SQL that gives an idle server this session's settings, usually none.

        Args:
            is_write: What comes next may draw from sequences, or tell what was drawn.
        """
        held = server.statements.held
        listens = self.listens.script() if self._listening is not server else []
        is_strange = server.left_by is not None and server.left_by is not self
        is_drawn = is_write and self.was_drawn_by_others(server)
        if server.applied is wanted and not (held or listens or is_strange or is_drawn):
            return ""
        self._listening = server
        foreign = self.prepares.foreign(held)
        if is_strange:  # it may have settings that nobody can name
            server.applied, server.left_by = server.applied.unresettable, None
        lines = [*deallocate(foreign), wanted.script_from(server.applied), *listens]
        if is_strange:
            lines.insert(0, "RESET ALL")
        if is_drawn:
            lines.append("DISCARD SEQUENCES")
        script = ";".join(filter(None, lines))
        for name in foreign:
            del held[name]
        server.applied = wanted
        if script:
            server.statements.unnamed = None  # a simple query destroys it
        return script

    def was_drawn_by_others(self, server: ServerConnection) -> bool:
        """Return whether lastval() or currval() might tell there what another session drew."""
        return self.database.judge.has_read_drawn and server.drawn_by not in (None, self)

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits for the end of a transaction: how it ends need not be known."""
        is_settled = not (self.pins.doubtful or self.has_traces)
        return is_settled and self.tracker.is_clean and self.listens.is_clean

    def is_at_home(self, server: ServerConnection, wanted: Settings) -> bool:
        """Return whether an idle server needs no preamble."""
        held = server.statements.held
        if self.listens.channels and self._listening is not server:
            return False
        if server.left_by is not None and server.left_by is not self:
            return False
        return server.applied is wanted and not (held and self.prepares.foreign(held))

    def replay(self, server: ServerConnection, *, is_part: bool) -> Replay:
        """Return what tells what must be prepared on a server for the request to be sent.

        Args:
            is_part: The request goes on where a part of it, sent before, has ended.
        """
        if self._replay is None or not is_part:
            self._replay = Replay(self.prepares, server.statements.held)
        return self._replay

    def begins_write(self, request: Request, server: ServerConnection, *, is_first: bool) -> None:
        """Note a request that may write; the first of its transaction may be in the audit's sample."""
        self.has_written = True
        server.drawn_by = self
        self._is_alone = is_first and sum(len(each.statements) for each in request.judged) == 1
        request.leaves_traces |= self._executes_traces(request)
        if is_first and not self.is_audited:
            self.is_audited = self.database.audits.draw()

    def succeeded(self, statement: Statement, server: ServerConnection) -> None:
        """Note what a completed statement did to the session, and to the server."""
        before = self.tracker.in_force
        applied = self.tracker.statement_succeeded(statement, server.applied)
        self.asked += statement.asked_settings + statement.asked_local
        self._asked_local |= frozenset(statement.asked_local)
        if statement.pin is Pin.SETTING:
            self._marks = (UNCERTAIN,)
            self._look_up()
        if self.tracker.in_force is not before or applied is not server.applied:
            self._settings_changed(server, applied)
        if ends_all(statement):
            self.extended.forget_statements()
            server.statements.clear()
        if statement.unpin is Unpin.ALL:
            self._marks = ()
        if statement.created is not None or statement.unpin is Unpin.ALL:
            self._temporary_changed(statement.created)
        if self.knows(statement):
            self.extended.forget_statement(self._protocol_name(statement))
        self.prepares.note(statement, server.statements.held)
        if self.prepares.is_too_large:
            self.pins.add(Pin.PREPARE)
        if statement.kind is Kind.DDL:
            self._has_changed_schema = True
            self.database.schema_changed(statement)
        self.pins.note(statement)
        if statement.reads_drawn and self._is_alone:
            self.pins.add(Pin.SEQUENCE)
        self.listens.note(statement)

    def undo(self, server: ServerConnection, forgotten: list[bytes], renamed: list[Renamed]) -> None:
        """Take back what a request did to statements and then failed, or never came to."""
        for name in forgotten:
            server.statements.forget(name)
        self.extended.undo(renamed)

    def can_heal(self, request: Request | None, server: ServerConnection | None) -> bool:
        """Return whether a request whose statements a server parsed too long ago can be sent again.

        Only if the client will not misread what comes: it is told the shape of the result in this
        batch, or has parsed the statement after the server did. Otherwise it gets PostgreSQL's
        error, which is what makes drivers prepare anew.
        """
        if server is None or request is None or request.batch is None or request.is_healed:
            return False
        batch = request.batch
        sent = self.database.forms.prepared(self.search_path)
        untold = batch.used - batch.told
        return all(server.statements.is_older(sent(own).prepared, own) for own in untold)

    def expire(self, request: Request, server: ServerConnection) -> None:
        """Note that a server refused the statements of a request as parsed too long ago."""
        request.is_healed = True
        sent = self.database.forms.prepared(self.search_path)
        for own in request.batch.used if request.batch is not None else ():
            server.statements.expire(sent(own).prepared)
        self.database.schema_changed()

    def knows(self, statement: Statement) -> bool:
        """Return whether a statement is a DEALLOCATE of what this client has by a Parse."""
        if statement.kind is not Kind.DEALLOCATE or statement.prepared_name is None:
            return False
        return self.extended.statements.get(self._protocol_name(statement)) is not None

    @staticmethod
    def _protocol_name(statement: Statement) -> bytes:
        return (statement.prepared_name or "").encode(errors="surrogateescape")

    def questions(self, *, is_failed: bool, is_outside: bool) -> list[str]:
        """Return what only the server knows and must be asked before anything else can happen.

        Args:
            is_failed: The transaction has failed: nothing can be asked, and nothing was changed.
            is_outside: There is no transaction.
        """
        if is_failed:
            self.asked = ()
        calls = [f"pg_catalog.current_setting({quote_text(name)}, true)" for name in self.asked]
        self._inventory = None
        if self.has_traces and (is_outside or (self._asks_inside and not is_failed)):
            self._inventory = not is_outside
            custom = self._custom | self.database.judge.catalog.traces.settings
            calls.append(inventory.question(self.tracker.in_force, custom, is_inside=not is_outside))
        self._asks_inside = False
        self._asked_pins = sorted(self.pins.doubtful) if is_outside and not self.has_traces else []
        return calls + [QUESTIONS[pin] for pin in self._asked_pins]

    def learned(self, values: list[str | None], server: ServerConnection, *, has_failed: bool) -> None:
        """Note what was asked for; nothing if the server could not tell."""
        if self._inventory is not None:
            answer = values.pop(len(self.asked)) if values else None
            self._take_inventory(answer, server, has_failed=has_failed)
        for pin, held in zip(self._asked_pins, values[len(self.asked) :] or (), strict=False):
            self.pins.settle(pin, holds=held != "f")
            if pin is Pin.TEMP_TABLE and held == "f":
                self._temporary_changed(None)
        self.pins.settle_all()
        if not self.asked:
            return
        named = zip(self.asked, values, strict=False)
        changes = [
            of_text(name, value, is_local=name in self._asked_local)
            for name, value in named
            if value is not None
        ]
        self.asked, self._asked_local = (), _NO_NAMES
        self._settings_changed(server, self.tracker.was_set(changes, server.applied))

    def _executes_traces(self, request: Request) -> bool:
        """Return whether a request executes a statement by name that may leave something in the session."""
        leaves = self.database.judge.leaves_traces
        for statement in (each for judged in request.judged for each in judged.statements):
            if statement.prepared_name is None or statement.kind in (Kind.PREPARE, Kind.DEALLOCATE):
                continue
            found = self.prepares.by_name.get(statement.prepared_name)
            inner = found.prepared if found is not None else None
            if inner is None or is_tracked(inner) or leaves(inner, self.search_path):
                return True
        return False

    def left_traces(self, request: Request) -> None:
        """Note that a function may have left something in the session."""
        self.has_traces = self._asks_inside = True
        self._custom |= request.settings_named()

    def _take_inventory(self, answer: str | None, server: ServerConnection, *, has_failed: bool) -> None:
        """Note what the session has on its server by now."""
        is_inside, self._inventory = self._inventory, None
        if answer is None:
            self.pins.add(Pin.UNTOLD)
            self.has_traces = False
            return
        found, applied = inventory.read(answer), server.applied
        if is_inside:
            told = inventory.changes(found, self.tracker.in_force, self.user)
            self.tracker.was_set(inventory.names_only(told), applied)
        else:
            self.has_traces = False
            self._custom = _NO_NAMES
            server.left_by = self
            applied = self.tracker.transaction_ended(applied, is_committed=not has_failed)
            applied = self.tracker.was_set(inventory.changes(found, applied, self.user), applied)
            self.tracker.transaction_ended(applied, is_committed=True)
            self.pins.take(found.pins)
            if found.prepared - server.statements.held.keys():
                self.pins.add(Pin.PREPARE)
            server.statements.keep(found.prepared, has_parsed=found.has_parsed)
            if found.channels != self.listens.channels:
                self.listens.replace(found.channels)
                self._listening = server
                self.pins.set_listening(bool(found.channels))
        catalog = self.database.judge.catalog
        self._hidden = frozenset(
            name for name in found.relations if catalog.find((None, name), self.search_path) is not None
        )
        self._settings_changed(server, applied)

    def transaction_ended(self, server: ServerConnection, *, has_failed: bool, now_s: float) -> None:
        """Note that the session is outside any transaction."""
        if not self.tracker.is_clean:
            applied = self.tracker.transaction_ended(server.applied, is_committed=not has_failed)
            self._settings_changed(server, applied)
        self.is_audited = False
        if self.listens.has_changed:
            self.listens.transaction_ended(is_committed=not has_failed)
            self._listening = server
            self.pins.set_listening(bool(self.listens.channels))
        if self.has_written:
            self.has_written = False
            self.last_write_s = now_s
        if self._has_changed_schema:
            # What was learned since the DDL was true in that transaction alone, or is true now.
            self._has_changed_schema = False
            self.database.schema_changed()
        self.extended.transaction_ended()

    def _temporary_changed(self, created: Name | None) -> None:
        """Note a temporary relation, or (None) that there are none left.

        One of several that was dropped stays noted: the only cost is that changes of the table
        it hid are counted.
        """
        if created is None:
            self._hidden = _NO_NAMES
        elif self.database.judge.catalog.find((None, created[1]), self.search_path) is not None:
            self._hidden |= {created[1]}
        self._look_up()

    def _look_up(self) -> None:
        path = self.database.search_path(self.user, self.tracker.in_force)
        self.search_path = hiding(path, self._hidden) + self._marks
        self.extended.bound.clear()

    def _settings_changed(self, server: ServerConnection, applied: Settings) -> None:
        server.applied = applied
        self._look_up()
        self.fraction = self.database.fraction(self._sticky, self.tracker.current)
