"""What comes back for one request, and whether the client may see it.

An answer passes up to three stages:

    preamble    the answer to our own SET statements: dropped, must not fail
    shape       the answer to describing a statement with RETURNING: kept, not relayed
    body        the answer itself: relayed, along a transcript if something in it must
                change; held back for as long as the request could still be re-run

Rule: whatever is relayed is gone, so the decision to re-run is made before the first
byte. Until a row, a completion or an error arrives, the few small messages before it
are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from proxy.server.split import entries
from proxy.server.translate import Shape
from proxy.session.replies import FENCED_SQLSTATE, READ_ONLY_SQLSTATE, Renamed, Transcript, moved, ready_in
from proxy.session.statements import UNNAMED, Prepared, ServerStatements
from proxy.sql.statement import Statement
from proxy.wire import messages
from proxy.wire.frames import FrameDecoder, Mark

_ERROR, _READY, _COPY_IN, _ROW_DESCRIPTION, _DATA_ROW = 0x45, 0x5A, 0x47, 0x54, 0x44
_COMPLETE, _NOTIFICATION = 0x43, 0x41
_IDLE = 0x49
# Messages that may precede the first one that counts.
_EARLY = frozenset(b"123tTnSNA")
_HEADER_SIZE = 5
_GOING = frozenset({"57P01", "57P02"})  # admin_shutdown, crash_shutdown
_STALE_SQLSTATE, _STALE_REFUSED_BY = "0A000", "RevalidateCachedQuery"  # plancache.c
_SEVERAL_REFUSED_BY = "exec_parse_message"
_HELD_BYTES_MAX = 64 * 1024


class Outcome(Enum):
    """What the session must do about a piece of an answer."""

    RELAYED = "relayed"  # nothing, or finish if it is ready
    PART = "part"  # all that was sent up to a Flush is answered
    SHAPED = "shaped"  # the shape is known: send the request now
    KEYS = "keys"  # all keys have come: write their entries (`split`)
    VALUES = "values"  # the settings that were asked for are known
    SHAPE_REFUSED = "shape refused"  # the client has the error: finish
    READ_ONLY = "read only"  # 25006, unseen by the client: re-run on the authority
    FENCED = "fenced"  # CF001, unseen by the client: the authority has moved
    STALE = "stale"  # a statement was parsed too long ago, unseen by the client: parse it again
    GOING = "going"  # the server shuts down, unseen by the client: re-run when it has closed
    BROKEN = "broken"  # our settings were refused


def rerun_for(sqlstate: str, *, is_read_only: bool) -> Outcome | None:
    """Return how to re-run a request that a server refused unseen; None: the client gets the error.

    Args:
        is_read_only: The server takes no writes from us. Where it does, a read-only transaction is
            the client's own wish.
    """
    if sqlstate == READ_ONLY_SQLSTATE:
        return Outcome.READ_ONLY if is_read_only else None
    if sqlstate in _GOING:
        return Outcome.GOING if is_read_only else None
    return Outcome.FENCED if sqlstate == FENCED_SQLSTATE else None


def is_stale(body: bytes) -> bool:
    """Return whether an error says that a statement was parsed before its table changed."""
    return (
        messages.sqlstate(body) == _STALE_SQLSTATE and messages.read_error(body).get("R") == _STALE_REFUSED_BY
    )


class Answer:
    """The answer to the request that runs now; reused from request to request.

    Args:
        can_heal: Asked when its statement was parsed too long ago: whether to parse it again.
    """

    def __init__(self, can_heal: Callable[[], bool] = lambda: False) -> None:
        self.can_rerun = False
        self.is_read_only = False
        self.is_part = False  # a batch was sent up to a Flush: its Sync is still to come
        self.is_copy_in = False
        self.has_failed = False
        self.was_fatal = False  # the client has the server's last words
        self.was_no_read = False  # refused as a write when something of it had been relayed
        self.shape: Shape | None = None
        self._is_own = False
        self._is_stale = False  # something failed for the reason that `is_stale` recognises
        self.can_heal = can_heal
        self._transcript: Transcript | None = None
        self._hidden_readies = 0
        self._hidden_error = False
        self._asks_shape = False
        self._shape_failed = False
        self._shape_name = UNNAMED  # the statement that is being described
        self._shape_start = 0
        self._shape_is_alone, self._shape_error = True, b""
        self._asks_values = False
        self._values = b""  # the answer to the question for values, as far as it has come
        self._held: list[bytes] = []
        self._held_marks: list[Mark] = []
        self._rerun: Outcome | None = None
        self._completed: list[Statement] = []
        self._forgotten: list[bytes] = []
        self._missed: list[bytes] = []
        self._undone: list[Renamed] = []

    def expect(
        self,
        transcript: Transcript | None,
        is_part: bool = False,
        can_rerun: bool = False,
        is_read_only: bool = False,
        is_own: bool = False,
    ) -> None:
        """Get ready for the body of an answer; if it is to a request of our own nobody sees it."""
        self._is_own = is_own
        self._transcript = transcript
        self.has_failed = self.has_failed and self.is_part  # what goes on behind a part is of one transaction
        self.was_no_read = False
        self.is_part = is_part
        self.can_rerun = can_rerun
        self.is_read_only = is_read_only

    def expect_nothing(self) -> None:
        """The request has failed before it was sent."""
        self.expect(None)
        self.has_failed = True

    def transcript_of_part(self) -> Transcript | None:
        """Return what an earlier part of the same batch is still owed."""
        return self._transcript if self.is_part else None

    def hide(self, script: str, closes: Sequence[bytes] = ()) -> bytes:
        """Return the messages for what we do ourselves, and expect their answer before anything else.

        Args:
            closes: Statements that the server shall drop.
        """
        if not (script or closes):
            return b""
        self._hidden_readies += 1
        end = messages.query(script.encode(errors="surrogateescape")) if script else messages.SYNC
        return b"".join(map(messages.close_statement, closes)) + end

    def ask_shape(self, original: Prepared, start: int, *, is_alone: bool = True) -> bytes:
        """Return the messages that describe a statement, and expect their answer.

        Args:
            start: Where the statement begins in the client's text.
            is_alone: If it cannot be described its error answers the request. Else it is found
                in its place, behind the answers to what comes before: there is no shape.
        """
        self._ask_shape(UNNAMED, start, is_alone=is_alone)
        parse = messages.Parse(b"", original.query, original.parameter_oids).encode_as(b"")
        return parse + messages.describe_statement(b"") + messages.SYNC

    def ask_columns(self, question: bytes, name: bytes) -> bytes:
        """Return a question for the columns of a statement of this name, and expect its answer."""
        self._ask_shape(name, is_alone=False)
        return question

    def ask_first(self, script: str) -> bytes:
        """Return the query that must succeed before the request is sent, and expect its answer."""
        self._ask_shape(UNNAMED)
        return messages.query(script.encode())

    def _ask_shape(self, name: bytes, start: int = 0, *, is_alone: bool = True) -> None:
        self._asks_shape = True
        self._shape_failed, self._shape_error = False, b""
        self._shape_name, self._shape_start, self._shape_is_alone = name, start, is_alone
        self.shape = Shape(0, b"")

    def ask(self, query: str) -> bytes:
        """Return a query of ours, and expect its answer."""
        self._asks_values = True
        self._values = b""
        self._forgotten.append(UNNAMED)  # a simple query destroys it
        return messages.query(query.encode(errors="surrogateescape"))

    def ask_values(self, expressions: Sequence[str]) -> bytes:
        """Return the query for what the server alone knows, and expect its answer."""
        return self.ask(f"SELECT {', '.join(expressions)}")

    @property
    def owes_part(self) -> bool:
        """Whether the answer to what was sent up to a Flush is not complete."""
        return self.is_part and self._transcript is not None and len(self._transcript) > 0

    @property
    def is_ignored(self) -> bool:
        """Whether the server ignores what is sent to it, up to the Sync: a part has failed."""
        return self.is_part and self._transcript is not None and self._transcript.is_failed

    @property
    def values(self) -> list[str | None]:
        """The values that were asked for; none if the query failed."""
        rows = [frame.body for frame in FrameDecoder().feed(self._values) if frame.code == _DATA_ROW]
        return messages.read_data_row(rows[0]) if rows else []

    def take_completed(self) -> list[Statement]:
        """Return the tracked statements that have succeeded since the last call."""
        completed, self._completed = self._completed, []
        return completed

    def take_missed(self) -> list[bytes]:
        """Return the warnings of audits since the last call."""
        missed, self._missed = self._missed, []
        return missed

    def take_forgotten(self) -> list[bytes]:
        """Return the server names whose Parse did not happen."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def take_stale(self) -> bool:
        """Return whether a statement was refused as parsed too long ago."""
        stale, self._is_stale = self._is_stale, False
        return stale

    def take_undone(self) -> list[Renamed]:
        """Return what the client did to its names in vain, latest first."""
        undone, self._undone = self._undone, []
        return undone

    def receive(self, buffer: bytes, marks: list[Mark]) -> tuple[Outcome, bytes, int | None]:
        """Take a piece of the answer.

        Returns:
            What to do, what the client gets, and the transaction status if the
            answer is complete.
        """
        if self._hidden_readies:
            buffer, marks = self._drop_preamble(buffer, marks)
            if self._hidden_error:
                return Outcome.BROKEN, b"", None
            if not buffer:
                return Outcome.RELAYED, b"", None
        if self._asks_shape:
            return self._receive_shape(buffer, marks)
        if self._asks_values:
            return self._receive_values(buffer, marks)
        if self._rerun is not None:
            return self._swallow(buffer, marks)
        if self.can_rerun:
            if self._decide_rerun(buffer, marks):
                return Outcome.RELAYED, b"", None
            if self._held:
                marks = _shifted(marks, sum(map(len, self._held)))
                buffer, marks = b"".join(self._held) + buffer, self._held_marks + marks
                self._held, self._held_marks = [], []
            if self._rerun is not None:
                return self._swallow(buffer, marks)
        return self._relay(buffer, marks)

    def _relay(self, buffer: bytes, marks: list[Mark]) -> tuple[Outcome, bytes, int | None]:
        self.can_rerun = False
        if self._transcript is not None:
            progress = self._transcript.feed(buffer, marks)
            self._completed += [owed.statement for owed in progress.completed if owed.statement]
            self._forgotten += progress.forgotten
            self._missed += progress.missed
            self.is_copy_in = progress.is_copy_in
            output, ready = progress.output, progress.ready
        else:
            output = buffer
            ready = ready_in(buffer, marks)
            if ready is None and marks and marks[-1][0] == _COPY_IN:
                self.is_copy_in = True
        if ready is not None:
            self.is_part = False
            if self._transcript is not None:
                self._undone += self._transcript.take_undone()
                self._transcript = None
        for mark in marks:
            if mark[0] == _ERROR:
                self.has_failed = True
                body = buffer[mark[1] + _HEADER_SIZE : mark[2]]
                self.was_fatal |= messages.is_fatal(body)
                self.was_no_read |= self.is_read_only and messages.sqlstate(body) == READ_ONLY_SQLSTATE
                self._is_stale |= is_stale(body)
                self._forgotten.append(UNNAMED)  # its Parse may have failed, or have been skipped
        if self._owes_keys:
            return Outcome.KEYS, output, None
        outcome = Outcome.PART if self.is_part and not self.owes_part else Outcome.RELAYED
        return outcome, _only_notifications(buffer, marks)[0] if self._is_own else output, ready

    @property
    def _owes_keys(self) -> bool:
        return self._transcript is not None and self._transcript.owes_keys

    def write_entries(self, server: ServerStatements) -> bytes:
        """Return the messages that write the entries for the keys that came, and end the batch."""
        assert self._transcript is not None, "Outcome.KEYS says so"
        return entries(self._transcript, server)

    def _decide_rerun(self, buffer: bytes, marks: list[Mark]) -> bool:
        """Note whether the request is re-run; return whether this piece is held back until that is known."""
        for code, start, end in marks:
            if code == _ERROR:
                body = buffer[start + _HEADER_SIZE : end]
                if is_stale(body):
                    self._is_stale = True
                    self._rerun = Outcome.STALE if self.can_heal() else None
                else:
                    self._rerun = rerun_for(messages.sqlstate(body), is_read_only=self.is_read_only)
                return False
            if code == _COMPLETE and buffer.startswith(b"COMMIT", start + _HEADER_SIZE):
                return False  # what came before it would be done twice
        is_early = all(mark[0] in _EARLY for mark in marks) and _is_covered(buffer, marks)
        held_bytes = sum(map(len, self._held))
        if is_early and held_bytes + len(buffer) <= _HELD_BYTES_MAX:
            self._held_marks += _shifted(marks, held_bytes)
            self._held.append(buffer)
            return True
        return False

    def _swallow(self, buffer: bytes, marks: list[Mark]) -> tuple[Outcome, bytes, int | None]:
        """Drop a refused answer; at its end say what to do about it."""
        if self._transcript is not None:  # what was parsed before the refusal is there
            self._forgotten += self._transcript.feed(buffer, marks).forgotten
        if self._owes_keys:
            return Outcome.KEYS, b"", None
        if ready_in(buffer, marks) is None:
            return Outcome.RELAYED, b"", None
        outcome, self._rerun, self._transcript = self._rerun, None, None
        assert outcome is not None
        self._forgotten.append(UNNAMED)
        return outcome, b"", None

    def _drop_preamble(self, buffer: bytes, marks: list[Mark]) -> tuple[bytes, list[Mark]]:
        for at, (code, _, end) in enumerate(marks):
            if code == _ERROR:
                self._hidden_error = True
            if code == _READY:
                self._hidden_readies -= 1
                if not self._hidden_readies:
                    kept, rest = _only_notifications(buffer, marks[:at]), marks[at + 1 :]
                    return kept[0] + buffer[end:], kept[1] + _shifted(rest, len(kept[0]) - end)
        return _only_notifications(buffer, marks)

    def _receive_values(self, buffer: bytes, marks: list[Mark]) -> tuple[Outcome, bytes, int | None]:
        self._values += buffer
        ready = ready_in(buffer, marks)
        if ready is None:
            return Outcome.RELAYED, b"", None
        self._asks_values = False
        return Outcome.VALUES, b"", ready

    def _receive_shape(self, buffer: bytes, marks: list[Mark]) -> tuple[Outcome, bytes, int | None]:
        for code, start, end in marks:
            body = buffer[start + _HEADER_SIZE : end]
            if code == _ROW_DESCRIPTION:
                self.shape = Shape(messages.columns_count(body), body)
            elif code == _ERROR:
                # Several statements are no mistake: they only cannot be described.
                self._shape_failed = messages.read_error(body).get("R") != _SEVERAL_REFUSED_BY
                self._forgotten.append(self._shape_name)
                if messages.sqlstate(body) == FENCED_SQLSTATE:
                    self._rerun = Outcome.FENCED
                elif self._shape_failed:
                    error = moved(buffer[start:end], lambda sent: sent + self._shape_start)
                    self._shape_error = self._shape_error or error
            elif code == _READY:
                self._asks_shape = False
                if self._rerun is not None:
                    return self._swallow(buffer, marks)
                ready = buffer[start + _HEADER_SIZE]
                if not self._shape_failed:
                    return Outcome.SHAPED, b"", None
                if self._shape_is_alone or ready != _IDLE:
                    return Outcome.SHAPE_REFUSED, self._shape_error, ready
                self.shape = None
                return Outcome.SHAPED, b"", None
        return Outcome.RELAYED, b"", None


def _shifted(marks: list[Mark], by: int) -> list[Mark]:
    return [(code, start + by, end + by) for code, start, end in marks]


def _only_notifications(buffer: bytes, marks: list[Mark]) -> tuple[bytes, list[Mark]]:
    """Return what a client that listens must see even of an answer that it must not see."""
    kept, kept_marks = b"", []
    for code, start, end in marks:
        if code == _NOTIFICATION:
            kept_marks.append((code, len(kept), len(kept) + end - start))
            kept += buffer[start:end]
    return kept, kept_marks


def _is_covered(buffer: bytes, marks: list[Mark]) -> bool:
    """Whether the buffer holds nothing but the marked messages: no rows."""
    return sum(end - start for _, start, end in marks) == len(buffer)
