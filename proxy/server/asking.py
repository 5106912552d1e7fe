"""What a session asks its server before a request is sent, or when it is done; clients see none of it.

before    the shape of a statement with RETURNING (`forms`); the columns of one whose client
          was told them (`doubts`); the announcement of one that may commit on its way
          (`capture.announce`)
after     what a function may have left in the session (`session.inventory`); settings whose value
          only the server knows; whether doubtful pins hold; DDL that no transaction may hold; the
          end of what was announced
"""

from __future__ import annotations

import secrets

from proxy.capture.announce import announcement, retraction
from proxy.server.answer import Answer
from proxy.server.doubts import Doubt, doubt, question, settle
from proxy.server.extended import Batch
from proxy.server.forms import Missing
from proxy.server.request import Request
from proxy.server.state import State
from proxy.session.statements import NO_COLUMNS, columns_of
from proxy.upstream.connection import ServerConnection

_IDLE, _FAILED = 0x49, 0x45
_TOKEN_MAX = 2**31 - 1


class Asking:
    """The questions of one session."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._missing: Missing | None = None
        self._doubt: tuple[Batch, Doubt] | None = None
        self._asks_state = False

    def before(self, request: Request, server: ServerConnection, answer: Answer, *, is_first: bool) -> bytes:
        """Return the messages that must be answered before the request is sent; none: send it.

        Args:
            is_first: The request begins a transaction, or is one.
        """
        self._missing = self._doubt = None
        database, forms, search_path = (
            self._state.database,
            self._state.database.forms,
            self._state.search_path,
        )
        if request.is_captured and (missing := forms.missing(request, search_path)) is not None:
            self._missing = missing
            server.statements.unnamed = None
            return answer.ask_shape(missing.question, missing.start, is_alone=request.batch is None)
        if request.batch is not None:
            found = doubt(request.batch, forms.prepared(search_path), server.statements, forms.changed)
            if found is not None:
                self._doubt = request.batch, found
                return answer.ask_columns(question(found, server.statements), found.name)
        if is_first and request.may_commit and not request.token:
            request.token = 1 + secrets.randbelow(_TOKEN_MAX)
            server.statements.unnamed = None
            return answer.ask_first(announcement(database.judge.catalog, request.token))
        return b""

    def answered(self, request: Request, answer: Answer, server: ServerConnection) -> None:
        """Note that what was asked before a request is known, or done."""
        shape = answer.shape
        if shape is None:
            request.changes_names = True  # of its statements nothing is certain
        elif self._missing is not None:
            self._state.database.forms.learn(self._missing, self._state.search_path, shape)
        elif self._doubt is not None:
            batch, found = self._doubt
            parsed = server.statements.parsed(found.sent.prepared)
            assert parsed is not None
            parsed.columns = columns_of(shape.row_description) if shape.row_description else NO_COLUMNS
            settle(batch, found, parsed.columns)
        self._missing = self._doubt = None

    def told(self, answer: Answer, server: ServerConnection) -> None:
        """Note what was asked for when a request was done."""
        if self._asks_state:
            self._asks_state = False
            self._state.learned(answer.values, server, has_failed=answer.has_failed)

    def after(self, request: Request, answer: Answer, ready: int) -> bytes:
        """Return the messages that must be answered before anything else can happen; none: go on."""
        if request.token:  # first: it takes a lock that is not the session's
            token, request.token = request.token, 0
            return answer.ask(retraction(token))
        if request.leaves_traces:
            request.leaves_traces = False
            self._state.left_traces(request)
        asked = self._state.questions(is_failed=ready == _FAILED, is_outside=ready == _IDLE)
        if asked:
            self._asks_state = True
            return answer.ask_values(asked)
        texts, request.apart = request.apart, ()
        if texts and ready == _IDLE and not answer.has_failed:
            return answer.ask(";".join(texts))
        return b""
