"""What a server still owes for the requests sent to it, and what the client may see.

Every message of a batch, and each statement of a simple query that is not sent exactly as
the client wrote it, adds an `Owed` to the transcript, in order. `Transcript.feed` walks the
answer along it; where nothing in it must change it only counts:

    hidden      our own statements (settings, watches, injected Parse): dropped
    synthetic   answers to messages we never sent (a Parse the server already has):
                emitted when their turn comes
    retagged    a captured write: its command tag and row description become those
                of the client's own statement, its error position points into the
                client's own text
    renamed     an error calls a prepared statement by the name its client gave it

Rule 1: after an error the server skips to the next Sync, so everything owed up to
the next READY is dropped, and statements whose Parse was skipped are reported.
Rule 2: NotificationResponse always passes; a notice or a parameter change caused by
a hidden statement does not.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from proxy.errors import AuthorityMoved
from proxy.session.returned import Returned
from proxy.session.statements import NO_COLUMNS, UNNAMED, Prepared, Told, columns_of
from proxy.sql.statement import Kind, Statement
from proxy.wire import messages
from proxy.wire.frames import Mark, encode

_PARSE_COMPLETE, _BIND_COMPLETE, _CLOSE_COMPLETE = 0x31, 0x32, 0x33
_COMMAND_COMPLETE, _ERROR, _READY, _EMPTY, _SUSPENDED = 0x43, 0x45, 0x5A, 0x49, 0x73
_ROW_DESCRIPTION, _NO_DATA, _PARAMETER_DESCRIPTION = 0x54, 0x6E, 0x74
_NOTICE, _NOTIFICATION, _PARAMETER_STATUS = 0x4E, 0x41, 0x53
_COPY_IN, _FUNCTION_RESULT = 0x47, 0x56
_HEADER_SIZE = 5

READ_ONLY_SQLSTATE = "25006"
_UNKNOWN_STATEMENT = "26000"
# Raised by the ledger of a cluster that is not the authority (DESIGN, section 8). Drivers
# do not know it; 40001 tells them to run the transaction again, which is what helps.
FENCED_SQLSTATE = "CF001"
MISSED_SQLSTATE = "CF010"  # the warning of an audit
_MOVED = AuthorityMoved(
    "the authority moved to the other cluster during this transaction", hint="run the transaction again"
)

PositionMap = Callable[[int], int | None]
"""Character position in the text that was sent -> in the client's text; None: outside it."""


class Step(StrEnum):
    """What kind of message is owed, hence which codes complete it."""

    PARSE = "parse"
    BIND = "bind"
    CLOSE = "close"
    DESCRIBE = "describe"
    EXECUTE = "execute"  # also one statement of a simple query
    FUNCTION = "function"
    READY = "ready"
    KEYS = "keys"  # ours: the server has run everything up to a Flush, and waits for us (`server.split`)


_COMPLETES: dict[Step, frozenset[int]] = {
    Step.PARSE: frozenset({_PARSE_COMPLETE}),
    Step.BIND: frozenset({_BIND_COMPLETE}),
    Step.CLOSE: frozenset({_CLOSE_COMPLETE}),
    Step.DESCRIBE: frozenset({_ROW_DESCRIPTION, _NO_DATA}),
    Step.EXECUTE: frozenset({_COMMAND_COMPLETE, _EMPTY, _SUSPENDED}),
    Step.FUNCTION: frozenset({_FUNCTION_RESULT}),
    Step.READY: frozenset({_READY}),
    Step.KEYS: frozenset(),
}
NO_ROWS = b""
"""The shape of a statement that returns rows to us alone."""


class Names(NamedTuple):
    """What a prepared statement is called."""

    on_server: bytes
    by_client: bytes


class Renamed(NamedTuple):
    """What a client's statement name stood for before a Parse or a Close of it."""

    name: bytes
    before: Prepared | None


class Owed(NamedTuple):
    """One answer owed by the server, or (synthetic) by us."""

    step: Step
    is_hidden: bool = False
    synthetic: bytes | None = None
    tag: str | None = None  # replace the command tag's words by these
    shape: bytes | None = None  # body of the RowDescription the client must see
    positions: PositionMap | None = None
    statement: Statement | None = None  # for the session: what has succeeded when this completes
    server_name: bytes = b""  # PARSE: the statement that the server holds when this completes
    # Nobody knows how many statements these are: they last until a RowDescription that begins so.
    until: bytes = b""
    error: bytes | None = None  # this fails on purpose: the ErrorResponse the client must see
    renamed: Renamed | None = None  # to be undone if this fails or is skipped
    told: tuple[Told, ...] = ()  # DESCRIBE: whose columns the client is told
    returned: Returned | None = None  # takes the keys from its rows
    names: Names | None = None  # what an error of the server calls it, and the client must see

    @property
    def is_plain(self) -> bool:
        """Whether its answer is relayed untouched, unless that is an error."""
        return not (
            self.is_hidden
            or self.synthetic
            or self.tag
            or self.shape is not None
            or self.statement
            or self.until
            or self.returned
        )


class Progress(NamedTuple):
    """What one chunk of the answer amounts to."""

    output: bytes
    completed: list[Owed]  # with a statement, and not failed
    forgotten: list[bytes]  # server names whose Parse failed or was skipped
    error: bytes | None  # body of the first ErrorResponse
    ready: int | None  # transaction status of the last visible ReadyForQuery
    is_copy_in: bool
    missed: list[bytes]  # bodies of warnings that an audit raised


class Transcript:
    """Everything one server owes, oldest first."""

    def __init__(self) -> None:
        self._owed: deque[Owed] = deque()
        self._is_plain = True  # all that was ever owed
        self.is_failed = False  # an error came before the Sync was sent: the server ignores all until then
        self._returned: list[Returned] = []  # whose entries are not written yet
        self._undone: list[Renamed] = []
        self._ignored: list[bytes] = []  # statements whose Parse the server ignores

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, owed: Owed) -> None:
        """Note that a message was sent, or that a synthetic answer is due."""
        if not self.is_failed or owed.step is Step.READY:
            self._owed.append(owed)
            self._is_plain = self._is_plain and owed.is_plain
            if owed.returned is not None and not owed.returned.is_counted:
                self._returned.append(owed.returned)
            return
        if owed.step is Step.PARSE and owed.synthetic is None:
            self._ignored.append(owed.server_name)
        if owed.renamed is not None:
            self._undone.append(owed.renamed)

    def take_synthetic(self) -> bytes:
        """Return the synthetic answers that are due before the server's next one."""
        due = []
        while self._owed and self._owed[0].synthetic is not None:
            due.append(self._owed.popleft().synthetic or b"")
        return b"".join(due)

    def feed(self, buffer: bytes, marks: list[Mark]) -> Progress:
        """Walk the marks of a scanned buffer and return what the client gets."""
        if self._is_plain and not self.is_failed and not any(mark[0] == _ERROR for mark in marks):
            return self._pass(buffer, marks)
        out: list[bytes] = [self.take_synthetic()]
        completed: list[Owed] = []
        forgotten, self._ignored = self._ignored, []
        error: bytes | None = None
        ready: int | None = None
        is_copy_in = False
        missed: list[bytes] = []
        position = 0
        for code, start, end in marks:
            head = self._owed[0] if self._owed else None
            is_hidden = head is not None and head.is_hidden
            if start > position and not is_hidden:
                out.append(_rows(buffer[position:start], head))
            position = end
            if head is not None and head.until and _begins(buffer, code, start, head.until):
                completed.append(self._owed.popleft())
                head = self._owed[0]
                is_hidden = head.is_hidden
            if code in (_NOTICE, _NOTIFICATION, _PARAMETER_STATUS):
                if not is_hidden or code == _NOTIFICATION:
                    out.append(buffer[start:end])
                elif (
                    code == _NOTICE
                    and messages.sqlstate(buffer[start + _HEADER_SIZE : end]) == MISSED_SQLSTATE
                ):
                    missed.append(buffer[start + _HEADER_SIZE : end])
            elif code == _ERROR:
                error = error or buffer[start + _HEADER_SIZE : end]
                out.append(_translated(buffer[start:end], head))
                forgotten += self._skip_to_ready()
            elif code == _COPY_IN:
                is_copy_in = not is_hidden
                out.append(buffer[start:end])
            else:
                if not is_hidden:
                    message = _translated(buffer[start:end], head)
                    out.append(message)
                    if head is not None and head.told and code in _COMPLETES[head.step]:
                        _tell(head.told, message)
                if head is not None and code in _COMPLETES[head.step] and not head.until:
                    self._owed.popleft()
                    if head.statement is not None:
                        completed.append(_as_it_went(head, buffer, start))
                    if code == _READY:
                        self.is_failed = False
                        ready = None if is_hidden else buffer[start + _HEADER_SIZE]
                    out.append(self.take_synthetic())
                elif code == _READY:  # for a Sync that was sent among the data of a COPY
                    ready = buffer[start + _HEADER_SIZE]
        if position < len(buffer) and not (self._owed and self._owed[0].is_hidden):
            out.append(_rows(buffer[position:], self._owed[0] if self._owed else None))
        return Progress(b"".join(out), completed, forgotten, error, ready, is_copy_in, missed)

    def _pass(self, buffer: bytes, marks: list[Mark]) -> Progress:
        """Note how far an answer has come in which nothing changes."""
        owed, is_copy_in = self._owed, False
        for code, start, end in marks:
            if owed and code in _COMPLETES[owed[0].step]:
                head = owed.popleft()
                if head.told:
                    _tell(head.told, buffer[start:end])
            is_copy_in = is_copy_in or code == _COPY_IN
        return Progress(buffer, [], [], None, ready_in(buffer, marks), is_copy_in, [])

    @property
    def has_returned(self) -> bool:
        """Whether entries are to be written before the batch ends."""
        return bool(self._returned)

    @property
    def owes_keys(self) -> bool:
        """Whether all keys have come, or something has failed, and the server waits for us."""
        return bool(self._owed) and self._owed[0].step is Step.KEYS

    def take_returned(self) -> list[Returned]:
        """Return what came, to write the entries for it; nothing if something has failed."""
        self._owed.popleft()
        returned, self._returned = self._returned, []
        return returned

    def take_undone(self) -> list[Renamed]:
        """Return what failed or was skipped of what the client did to its names, latest first."""
        undone, self._undone = self._undone, []
        return undone[::-1]

    def _skip_to_ready(self) -> list[bytes]:
        skipped = []
        failed = self._owed[0] if self._owed else None
        self._returned.clear()
        while self._owed and self._owed[0].step not in (Step.READY, Step.KEYS):
            owed = self._owed.popleft()
            if owed.step is Step.PARSE and owed.synthetic is None:
                skipped.append(owed.server_name)
            if owed.renamed is not None:
                # A Parse of the unnamed statement drops the one before it, even if it fails.
                is_dropped = owed is failed and owed.step is Step.PARSE and owed.renamed.name == UNNAMED
                self._undone.append(Renamed(UNNAMED, None) if is_dropped else owed.renamed)
        self.is_failed = not self._owed
        return skipped


def _rows(data: bytes, owed: Owed | None) -> bytes:
    """Return rows as the client must see them."""
    return data if owed is None or owed.returned is None else owed.returned.feed(data)


def ready_in(buffer: bytes, marks: list[Mark]) -> int | None:
    """Return the transaction status in a ReadyForQuery, if there is one.

    It need not stand last: notifications and the like may arrive right behind it.
    """
    for code, start, _ in reversed(marks):
        if code == _READY:
            return buffer[start + _HEADER_SIZE]
    return None


def retagged(buffer: bytes, marks: list[Mark], tag: str) -> bytes:
    """Return the same for a piece without an error, if only the command tag is another."""
    for code, start, end in marks:
        if code == _COMMAND_COMPLETE:
            return buffer[:start] + messages.retag(buffer[start + _HEADER_SIZE : end], tag) + buffer[end:]
    return buffer


def rewritten(buffer: bytes, marks: list[Mark], owed: Owed) -> bytes:
    """Return the answer to one captured statement as the client must see it."""
    out: list[bytes] = []
    position = 0
    for code, start, end in marks:
        if code in (_COMMAND_COMPLETE, _ERROR):
            out += (buffer[position:start], _translated(buffer[start:end], owed))
            position = end
    out.append(buffer[position:])
    return b"".join(out)


def _tell(told: tuple[Told, ...], message: bytes) -> None:
    columns = columns_of(message[_HEADER_SIZE:]) if message[0] == _ROW_DESCRIPTION else NO_COLUMNS
    for each in told:
        each.columns = columns


def _begins(buffer: bytes, code: int, start: int, until: bytes) -> bool:
    return code == _ROW_DESCRIPTION and buffer.startswith(until, start + _HEADER_SIZE)


def _as_it_went(owed: Owed, buffer: bytes, start: int) -> Owed:
    """Return what was owed; a COMMIT that was answered with ROLLBACK was one."""
    statement = owed.statement
    if statement is None or statement.kind is not Kind.COMMIT:
        return owed
    was_undone = buffer.startswith(b"ROLLBACK", start + _HEADER_SIZE)
    return owed._replace(statement=replace(statement, kind=Kind.ROLLBACK)) if was_undone else owed


def _translated(message: bytes, owed: Owed | None) -> bytes:
    """Return a message as the client must see it."""
    if owed is None:
        return message
    code = message[0]
    if code == _COMMAND_COMPLETE and owed.tag is not None:
        return messages.retag(message[_HEADER_SIZE:], owed.tag)
    if code == _ROW_DESCRIPTION and owed.shape == NO_ROWS:
        return messages.NO_DATA
    if code == _ROW_DESCRIPTION and owed.shape is not None:
        return encode(b"T", with_formats(owed.shape, message[_HEADER_SIZE:]))
    return _translated_error(message, owed) if code == _ERROR else message


def _translated_error(message: bytes, owed: Owed) -> bytes:
    state = messages.sqlstate(message[_HEADER_SIZE:])
    if owed.error is not None and state == _UNKNOWN_STATEMENT:
        return owed.error
    if state == FENCED_SQLSTATE:
        return messages.error_of(_MOVED)
    if owed.names is not None:
        on_server, by_client = (b'"%b"' % name for name in owed.names)
        message = encode(b"E", message[_HEADER_SIZE:].replace(on_server, by_client))
    if owed.positions is None and not owed.is_hidden:
        return message
    return moved(message, owed.positions, owed.tag)


def moved(message: bytes, positions: PositionMap | None, tag: str | None = None) -> bytes:
    """Return an ErrorResponse whose position points into the client's text, or that has none.

    Args:
        tag: Of a captured statement: in a read-only transaction the server names the INSERT
            around it.
    """
    fields = messages.read_error(message[_HEADER_SIZE:], errors="surrogateescape")
    position = fields.pop("P", None)
    if position is not None and positions is not None:
        own = positions(int(position))
        if own is not None:
            fields["P"] = str(own)
    if tag is not None and fields.get("C") == READ_ONLY_SQLSTATE:
        fields["M"] = re.sub("execute (INSERT|SELECT) in", f"execute {tag} in", fields["M"])
    return messages.error(fields)


def with_formats(shape: bytes, actual: bytes) -> bytes:
    """Return a RowDescription body: everything from `shape`, the format codes from `actual`.

    Describing a portal gives the formats that its Bind asked for, which the shape,
    learned by describing the statement, cannot know.
    """
    formats = [row[-1] for _, row in messages.columns(actual)]
    parts = [shape[:2]]
    for at, (name, row) in enumerate(messages.columns(shape)):
        code = formats[at] if at < len(formats) else row[-1]
        parts.append(messages.column(name, (*row[:-1], code)))
    return b"".join(parts)
