"""Requests that need next to no work: relayed without being taken apart.

Most of what applications send is one whole statement that was seen before: a Query of a
known shape, or a Bind of a statement that was prepared long ago with its Describe,
Execute and Sync. They are recognised in the bytes as they arrived, and skip frames,
batches, requests and transcripts. A plain one is sent as it came; a captured one gets two
texts around it, and its answer another command tag.

Rule 1: the fast lane decides nothing of its own. What a shape means was judged before
(`forms.note`); whatever is not exactly of a known shape takes the usual way.
Rule 2: a request that a server refuses unseen by the client (a write on a read-only server,
a write behind the fence) becomes an ordinary request again and is re-run like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxy.clock import now_s
from proxy.server.answer import is_stale, rerun_for
from proxy.server.forms import TRAILING
from proxy.server.judge import Judged
from proxy.server.link import Link
from proxy.server.request import Request
from proxy.server.state import State
from proxy.server.translate import positions_behind
from proxy.session.replies import READ_ONLY_SQLSTATE, Names, Owed, PositionMap, Step, retagged, rewritten
from proxy.session.statements import UNNAMED
from proxy.upstream.connection import ServerConnection
from proxy.wire import messages
from proxy.wire.frames import FrameDecoder, Mark

IDLE, IN_TRANSACTION = 0x49, 0x54
_QUERY, _BIND, _ERROR, _NOTICE, _READY = 0x51, 0x42, 0x45, 0x4E, 0x5A
_TRAILING = TRAILING.encode()
REFUSED = -1
_HEADER_SIZE = 5
_TEXT_LENGTH_MAX = 16 * 1024

_DESCRIBE = messages.describe_portal()
_EXECUTE = messages.execute()
# What may follow the Bind -> whether it tells the columns.
_TAILS = {_DESCRIBE + _EXECUTE + messages.SYNC: True, _EXECUTE + messages.SYNC: False}


class Bound(NamedTuple):
    """A Bind into the unnamed portal, executed at once; `at` is where its name ends."""

    name: bytes
    at: int
    is_told: bool  # its columns are described


def query(data: bytes) -> str | None:
    """Return the text, if these bytes are exactly one simple Query."""
    size = len(data)
    if data[0] != _QUERY or size > _TEXT_LENGTH_MAX or int.from_bytes(data[1:5], "big") + 1 != size:
        return None
    if size <= _HEADER_SIZE or data[-1]:
        return None
    try:
        return data[_HEADER_SIZE:-1].decode()
    except UnicodeDecodeError:
        return None


def bound(data: bytes) -> Bound | None:
    """Return the statement, if these bytes are one Bind, (Describe,) Execute and Sync."""
    if data[0] != _BIND or len(data) < _HEADER_SIZE + 2 or data[_HEADER_SIZE]:
        return None
    end = 1 + int.from_bytes(data[1:5], "big")
    is_told = _TAILS.get(data[end:])
    if is_told is None:
        return None
    at = data.find(0, _HEADER_SIZE + 1, end)
    return Bound(data[_HEADER_SIZE + 1 : at], at, is_told) if at > _HEADER_SIZE + 1 else None


def rename(data: bytes, at: int, name: bytes) -> bytes:
    """Return the bytes with the bound statement's name replaced."""
    length = int.from_bytes(data[1:5], "big") + len(name) - (at - _HEADER_SIZE - 1)
    return b"B%b\0%b%b" % (length.to_bytes(4, "big"), name, data[at:])


class FastLane:
    """The request of one session that is on the fast lane now, if any."""

    def __init__(self, state: State, link: Link, write: Callable[[bytes], None]) -> None:
        self.raw = b""  # the request as the client sent it; empty: none runs
        self.judged: Judged | None = None
        self.has_relayed = False
        self.has_failed = False
        self.has_changed = False  # it runs in a transaction; alone it leaves the session as it was
        self.was_fatal = False  # the client has the server's last words
        self.started_s = 0.0
        self._tag: str | None = None  # words for the command tag; None: the answer is relayed untouched
        self._prefix_length = 0  # of what stands before a captured query
        self._positions: PositionMap | None = None  # of a captured statement that was bound
        self._state = state
        self._link = link
        self._write = write

    def take(self, data: bytes, status: int) -> bool:
        """Send these bytes on if they are of a known shape; False: they must be taken apart.

        False may leave a server linked; the usual way then uses it.
        """
        text = query(data)
        if text is not None:
            return self._take_query(data, text, status)
        found = bound(data)
        return found is not None and self._take_bound(data, found, status)

    def _take_query(self, data: bytes, text: str, status: int) -> bool:
        state = self._state
        shortcut = state.database.forms.shortcut(text, state.search_path)
        if shortcut is None or not self._find_server(shortcut.judged, status):
            return False
        server = self._link.server
        assert server is not None
        server.statements.unnamed = None
        state.extended.statements.close(UNNAMED)
        self._positions = None
        if shortcut.tag is None:
            return self._run(server, shortcut.judged, None, data, data)
        own = data[_HEADER_SIZE:-1].rstrip(_TRAILING)
        self._prefix_length = len(shortcut.prefix)
        payload = messages.query(shortcut.prefix + own + shortcut.suffix)
        return self._run(server, shortcut.judged, shortcut.tag, data, payload)

    def _take_bound(self, data: bytes, found: Bound, status: int) -> bool:
        state, forms = self._state, self._state.database.forms
        known = state.extended.sent(found.name, forms, state.search_path)
        if known is None or not known.sent.is_short or not self._find_server(known.sent.judged, status):
            return False
        server, (own, sent) = self._link.server, known
        assert server is not None
        if not server.statements.suits(sent.prepared, forms.changed, None if found.is_told else own.columns):
            return False
        self._positions = sent.form.positions
        payload = rename(data, found.at, sent.prepared.server_name)
        return self._run(server, sent.judged, sent.form.tag, data, payload)

    def _run(
        self, server: ServerConnection, judged: Judged, tag: str | None, data: bytes, payload: bytes
    ) -> bool:
        self.raw, self.judged, self._tag = data, judged, tag
        self.has_relayed = self.has_failed = False
        self.started_s = now_s()
        if judged.is_write:
            self._link.begins_write()
            server.drawn_by = self._state
            self._state.has_written |= self.has_changed or judged.begins
        server.write(payload)
        return True

    def _find_server(self, judged: Judged, status: int) -> bool:
        """Link a server that can take the request as it is, at once; False if there is none."""
        state = self._state
        if judged.ends_only and not state.is_clean:
            return False
        self.has_changed = self._link.server is not None
        if self.has_changed:
            if judged.ends_only and state.has_written and state.database.acks.timeout_s is not None:
                return False  # its acknowledgement waits for the mirror
            return status == IN_TRANSACTION and not state.is_audited  # nothing is routed there
        database = state.database
        if judged.is_write and (database.hold.is_on or database.acks.timeout_s is not None):
            return False
        if judged.is_write and database.audits.draw():
            state.is_audited = True
            return False
        wanted = state.wanted(is_read=judged.is_read)
        pool = database.read_pool(state) if judged.is_read else database.write_pool(state)
        server = self._link.take(pool, wanted)
        if server is None or (judged.is_write and state.was_drawn_by_others(server)):
            return False
        return state.is_at_home(server, wanted)

    def relay(self, buffer: bytes, marks: list[Mark], status: int) -> int | None:
        """Relay a piece of the answer.

        Returns:
            The transaction status when the answer is complete; REFUSED when the client saw
            nothing of it yet and something is to be done about the error: perhaps a re-run.
        """
        refusal, ready, owed = b"", None, None
        for code, start, end in marks:
            if code == _READY:  # it need not stand last: see `replies.ready_in`
                ready = buffer[start + _HEADER_SIZE]
            elif code == _ERROR and not refusal:
                refusal = buffer[start + _HEADER_SIZE : end]
        if refusal and self.judged is not None:
            state = messages.sqlstate(refusal)
            is_read_only = self.judged.is_read and status == IDLE
            can_rerun = status == IDLE and rerun_for(state, is_read_only=is_read_only)
            if not self.has_relayed and (can_rerun or is_stale(refusal)):
                return REFUSED
            self.has_failed = True
            self.was_fatal = messages.is_fatal(refusal)
            if is_read_only and state == READ_ONLY_SQLSTATE:
                self._learn()
            owed = self._owed()
        if owed is not None:
            self._write(rewritten(buffer, marks, owed))
        else:
            self._write(buffer if self._tag is None else retagged(buffer, marks, self._tag))
        if ready is not None:
            if self.judged is not None and self.judged.is_write and not self.has_changed:
                self._state.last_write_s = now_s()
            self.raw = b""
        else:
            self.has_relayed = self.has_relayed or not _only_notices(buffer, marks)
        return ready

    def _owed(self) -> Owed:
        """Return what is owed, in full: an error names statements and positions of the client's own."""
        positions, names, found = self._positions, None, bound(self.raw)
        if found is None:
            if self._tag is not None:
                positions = positions_behind(self._prefix_length, len(query(self.raw) or ""))
        elif (known := self._state.extended.bound.get(found.name)) is not None:
            names = Names(known.sent.prepared.server_name, found.name)
        return Owed(Step.EXECUTE, tag=self._tag, positions=positions, names=names)

    def as_request(self) -> Request:
        """Return the request that runs as an ordinary one, as if sent that way."""
        assert self.judged is not None
        raw, self.raw = self.raw, b""
        self._state.has_written |= self.judged.is_write
        frames = FrameDecoder().feed(raw)
        if frames[0].code == _QUERY:
            request = Request((self.judged,), frame=frames[0], text=frames[0].body[:-1].decode())
        else:
            request = Request((self.judged,), batch=self._state.extended.read(frames))
        request.started_s = self.started_s
        return request

    def _learn(self) -> None:
        """Remember that this was no read, though something of its answer was relayed."""
        raw = self.raw
        self._state.database.learn_write(self.as_request())
        self.raw = raw


def _only_notices(buffer: bytes, marks: list[Mark]) -> bool:
    """Whether this is no answer yet: a server that crashes warns before it closes."""
    if not marks or marks[0][0] != _NOTICE:
        return False
    is_covered = sum(end - start for _, start, end in marks) == len(buffer)
    return is_covered and all(mark[0] == _NOTICE for mark in marks)
