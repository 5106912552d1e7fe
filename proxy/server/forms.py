"""The form in which each text is sent to servers, kept once found.

Splicing a statement with RETURNING needs its *shape*, the RowDescription PostgreSQL
gives for the original: the session asks for it once (`missing`, `learn`), all sessions
use it. Where it cannot ask, because the transaction has failed or something is under way, the
statement is watched instead of spliced. Shapes and forms are forgotten together with the catalog.

A simple query that our grammar does not understand is asked about too: as a rule PostgreSQL
refuses it, and then its error must be the one for the text as written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from proxy.capture.decide import Plan
from proxy.server.extended import Batch, FormOf, Sent
from proxy.server.judge import Judge, Judged, SearchPath, is_tracked
from proxy.server.kept import ENTRY_BYTES, STATEMENT_BYTES, Kept
from proxy.server.request import Request
from proxy.server.requests import QUERY
from proxy.server.translate import Form, Shape, form_of, needs_shape
from proxy.session.statements import NO_TYPES, Prepared, columns_of, next_serial
from proxy.sql.normalise import normalise
from proxy.sql.statement import Kind, Statement
from proxy.wire import messages
from proxy.wire.frames import Frame

_KEPT_BYTES_MAX = 8 * 1024 * 1024  # of each kind
_SENT_BYTES_MAX = 16 * 1024  # texts that are longer are looked at anew each time
_KEY_LENGTH_MAX = 4096
_SHORTCUT_LENGTH_MAX = 4096
TRAILING = " \t\r\n;"  # what may follow a statement and is not part of it


class Shortcut(NamedTuple):
    """How to send a simple query of a known shape: put two texts around it.

    `tag` is None for a plain statement, which is sent as it came.
    """

    judged: Judged
    tag: str | None = None
    prefix: bytes = b""
    suffix: bytes = b""


class Missing(NamedTuple):
    """A statement whose shape is not known, and how to ask for it."""

    key: str
    question: Prepared
    start: int  # where it begins in the client's text


class Forms:
    """Forms of simple and of prepared statements for one database."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.generation = 0  # of everything kept here
        self.changed = 0  # serial number of the last change of the schema
        self._shapes: Kept[tuple[str, SearchPath], Shape] = Kept(_KEPT_BYTES_MAX)
        self._sent: Kept[tuple[Prepared, SearchPath], Sent] = Kept(_KEPT_BYTES_MAX)
        # Statements that some server has parsed: preparing them again needs no server. A
        # driver that waits for its Parse while its other sessions hold all the servers
        # (pgbench does) would otherwise wait for itself.
        self._parsed: Kept[tuple[Prepared, SearchPath], None] = Kept(_KEPT_BYTES_MAX)
        self._shortcuts: dict[SearchPath, dict[str, Shortcut]] = {}  # by text without literals
        self._shortcuts_bytes = 0  # of all search paths

    def change_schema(self) -> None:
        """Drop everything, also what servers have parsed: the catalog has changed."""
        self.changed = next_serial()
        self.forget()

    def forget(self) -> None:
        """Drop everything."""
        self.generation += 1
        self._shapes.clear()
        self._sent.clear()
        self._parsed.clear()
        self._shortcuts.clear()
        self._shortcuts_bytes = 0

    def shortcut(self, text: str, search_path: SearchPath) -> Shortcut | None:
        """Return how to send a text whose shape was seen before; None: take the usual way."""
        known = self._shortcuts.get(search_path)
        return known.get(normalise(text) or text) if known is not None else None

    def alone(self, frame: Frame, search_path: SearchPath, part: Request | None) -> Request:
        """Return the request of a message that is one by itself: Query or FunctionCall.

        Args:
            part: What came before it without a Sync.
        """
        if frame.code == QUERY:
            request = self.request(frame, search_path)
        else:
            request = Request.of_function_call(frame, captures=self._judge.captures)
        if part is not None:
            request.follow(part)
        return request

    def request(self, frame: Frame, search_path: SearchPath) -> Request:
        """Return the request of a simple Query, and remember its shape for the fast lane."""
        text = messages.read_query(frame.body).decode(errors="surrogateescape")
        judged = self._judge.judge(text, search_path)
        self.note(text, judged, search_path)
        return Request((judged,), frame=frame, text=text)

    def batch(self, batch: Batch, search_path: SearchPath, part: Request | None) -> Request:
        """Return the request of a batch.

        Args:
            part: The one it goes on from, if that ended in a Flush, or was cut.
        """
        request = Request([self.judged(each, search_path) for each in batch.used], batch=batch)
        if part is not None:
            request.follow(part)
        return request

    def again(self, request: Request, search_path: SearchPath) -> Request:
        """Return the request, judged anew, that was no read after all."""
        if request.batch is not None:
            judged = self.batch(request.batch, search_path, None)
        else:
            assert request.frame is not None
            judged = self.request(request.frame, search_path)
        judged.started_s, judged.is_forced = request.started_s, True
        return judged

    def note(self, text: str, judged: Judged, search_path: SearchPath) -> None:
        """Remember the shortcut for texts of this shape, if there is one."""
        if len(text) > _SHORTCUT_LENGTH_MAX or len(judged.statements) != 1:
            return
        statement, plan = judged.statements[0], judged.plans[0]
        is_followed = judged.leaves_traces or (judged.is_tracked and not judged.ends_only)
        if statement.depends_on_literals or is_followed:
            return
        shortcut = Shortcut(judged)
        if plan is not None:
            is_whole = statement.start == 0 and statement.end == len(text.rstrip(TRAILING))
            if not is_whole or not plan.is_inline_only or plan.is_split or statement.targets[0].has_returning:
                return
            form = form_of(text, statement, plan, None, self._judge.catalog.server_version)
            prefix, _, suffix = form.text.partition(text[: statement.end])
            shortcut = Shortcut(judged, form.tag, prefix.encode(), suffix.encode())
        if self._shortcuts_bytes > _KEPT_BYTES_MAX:
            self._shortcuts.clear()
            self._shortcuts_bytes = 0
        key = normalise(text) or text
        self._shortcuts_bytes += ENTRY_BYTES + len(key) + len(shortcut.prefix) + len(shortcut.suffix)
        self._shortcuts.setdefault(search_path, {})[key] = shortcut

    def note_parsed(self, used: Iterable[Prepared], search_path: SearchPath) -> None:
        """Note that a server has accepted these statements."""
        for prepared in used:
            if prepared.size_bytes <= _SENT_BYTES_MAX:
                self._parsed.keep((prepared, search_path), None, ENTRY_BYTES + prepared.size_bytes)

    def are_parsed(self, used: Iterable[Prepared], search_path: SearchPath) -> bool:
        """Return whether servers have accepted all of these statements."""
        return all((prepared, search_path) in self._parsed for prepared in used)

    def judged(self, prepared: Prepared, search_path: SearchPath) -> Judged:
        """Return the judgement on a prepared statement."""
        return self._judge.judge(_text(prepared), search_path)

    def is_sent(self, prepared: Prepared, search_path: SearchPath) -> bool:
        """Return whether the form of a prepared statement is known."""
        return (prepared, search_path) in self._sent

    def missing(self, request: Request, search_path: SearchPath) -> Missing | None:
        """Return a statement of a request that must be described before it can be sent."""
        if request.batch is None:
            texts = [(request.text, NO_TYPES, judged) for judged in request.judged]
        else:
            texts = [
                (_text(each), each.parameter_oids, self.judged(each, search_path))
                for each in request.batch.used
            ]
        for text, oids, judged in texts:
            if not judged.is_captured:
                continue
            for statement, plan in zip(judged.statements, judged.plans, strict=True):
                is_unread = request.batch is None and statement.kind is Kind.UNKNOWN
                if needs_shape(statement, plan) or is_unread:
                    own = text[statement.start : statement.end]
                    key = _shape_key(own, statement, oids)
                    if (key, search_path) not in self._shapes:
                        return Missing(
                            key, Prepared(own.encode(errors="surrogateescape"), oids), statement.start
                        )
        return None

    def learn(self, described: Missing, search_path: SearchPath, shape: Shape) -> None:
        """Remember what PostgreSQL said about a statement."""
        size_bytes = ENTRY_BYTES + len(described.key) + len(shape.row_description)
        self._shapes.keep((described.key, search_path), shape, size_bytes)

    def of(self, text: str, judged: Judged, search_path: SearchPath, *, is_part: bool = False) -> list[Form]:
        """Return the forms of the statements of a simple query; only one that is alone can be split.

        Args:
            is_part: It stands in a batch of the extended protocol.
        """
        is_alone = len(judged.statements) == 1 and not is_part
        return [
            self._form(
                text,
                statement,
                plan if is_alone or plan is None or not plan.is_split else _COUNTED,
                search_path,
                NO_TYPES,
            )
            for statement, plan in zip(judged.statements, judged.plans, strict=True)
        ]

    def prepared(self, search_path: SearchPath, *, is_certain: bool = True) -> FormOf:
        """Return the function that gives a prepared statement's form under a search path.

        Args:
            is_certain: Whether names mean, when the statement runs, what they mean now.
        """

        def form_of_prepared(prepared: Prepared) -> Sent:
            if not is_certain:
                return self._prepare(prepared, search_path, is_certain=False)
            found = self._sent.get((prepared, search_path))
            return found if found is not None else self._prepare(prepared, search_path, is_certain=True)

        return form_of_prepared

    def _prepare(self, prepared: Prepared, search_path: SearchPath, *, is_certain: bool) -> Sent:
        text = _text(prepared)
        judged = self.judged(prepared, search_path)
        tracked = next(filter(is_tracked, judged.statements), None)
        plan = judged.plans[0] if len(judged.plans) == 1 else None  # PostgreSQL refuses several at once
        if not is_certain and len(judged.plans) == 1:
            plan = self._judge.uncertain_plan(judged.statements[0])
        if plan is None:
            plain = Prepared(prepared.query, prepared.parameter_oids, search_path)
            is_short = tracked is None and not judged.leaves_traces
            sent = Sent(judged, Form(text), plain, tracked is None, tracked, is_short)
        else:
            statement = judged.statements[0]
            if statement.kind is Kind.COPY_IN:
                plan = self._judge.plan_before(statement, search_path)
            form = self._form(text, statement, plan, search_path, prepared.parameter_oids)
            if statement.kind is Kind.COPY_IN:
                form = form._replace(after=())  # what follows it must wait for its data
            is_other = (
                form.tag is not None
                or form.keys is not None
                or (judged.plans[0] is not None and judged.plans[0].ddl == "refuse")
            )
            query = form.text.encode(errors="surrogateescape") if is_other else prepared.query
            spliced = Prepared(query, prepared.parameter_oids, search_path)
            needs_work = form.before or form.after or form.shape is not None or tracked is not None
            needs_work = needs_work or judged.leaves_traces
            columns = columns_of(form.shape) if form.shape else None
            sent = Sent(judged, form, spliced, False, tracked, not needs_work, columns)
            is_certain = is_certain and (form.shape is not None or not needs_shape(statement, plan))
        if is_certain and prepared.size_bytes <= _SENT_BYTES_MAX:
            size_bytes = ENTRY_BYTES + STATEMENT_BYTES + 2 * (prepared.size_bytes + len(sent.form.text))
            self._sent.keep((prepared, search_path), sent, size_bytes)
        return sent

    def _form(
        self, text: str, statement: Statement, plan: Plan | None, search_path: SearchPath, oids: bytes
    ) -> Form:
        """Return one statement's form; where its shape is not known it is watched."""
        shape = None
        if needs_shape(statement, plan):
            key = _shape_key(text[statement.start : statement.end], statement, oids)
            shape = self._shapes.get((key, search_path))
            if shape is None:
                plan = Plan(watches=True, reason="what it returns cannot be asked for now")
        return form_of(text, statement, plan, shape, self._judge.catalog.server_version)


_COUNTED = Plan(watches=True, reason="the split form is for one statement at a time")


def _text(prepared: Prepared) -> str:
    return prepared.query.decode(errors="surrogateescape")


def _shape_key(own: str, statement: Statement, parameter_oids: bytes) -> str:
    """Return what statements of one shape share.

    A literal in RETURNING decides the type of its column, so such texts share nothing.
    """
    has_literals = any(target.returning_has_literals for target in statement.targets)
    key = own if has_literals or statement.kind is Kind.UNKNOWN else normalise(own) or own
    if len(key) > _KEY_LENGTH_MAX:
        key = hashlib.blake2b(key.encode(errors="surrogateescape")).hexdigest()
    return key if parameter_oids == NO_TYPES else f"{parameter_oids.hex()} {key}"
