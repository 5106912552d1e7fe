"""One client's requests, one after the other, each to the server that must run it.

    idle      no request; a server only if in a transaction or pinned
    waiting   the request waits for a connection, or for the end of a hold
    running   a server works on it; answers are relayed as they come

Rule 1: a session has at most one server, and gives it back at the first ReadyForQuery
outside a transaction, unless something pins it (`pins` says what).
Rule 2: a request may be re-run on another server only while the client has seen
nothing of its answer and it was the first of its transaction.
Rule 3: nothing here awaits: a method is told what has happened, decides, and returns.
"""

from __future__ import annotations

from proxy import errors
from proxy.clock import now_s
from proxy.server import moving, requests
from proxy.server.acks import Delayed
from proxy.server.answer import Answer, Outcome
from proxy.server.asking import Asking
from proxy.server.client import Client
from proxy.server.copying import CopyIn
from proxy.server.database import Database, Sticky
from proxy.server.fastlane import REFUSED, FastLane
from proxy.server.link import Link
from proxy.server.outgoing import outgoing
from proxy.server.request import Request
from proxy.server.state import State
from proxy.session.settings import Settings
from proxy.upstream.connection import ServerConnection
from proxy.wire import messages
from proxy.wire.frames import Frame, Mark

IDLE, FAILED = 0x49, 0x45  # transaction status I, E; the third is T: in a transaction


class Session:
    """Everything between one client and the servers that work for it."""

    def __init__(
        self, database: Database, user: str, settings: Settings, client: Client, sticky: Sticky
    ) -> None:
        self.database, self._client, self._write = database, client, client.write
        self.state = State(database, user, settings, sticky)
        self.status = IDLE
        self._inbox = requests.Inbox(client)
        self._request: Request | None = None
        self._asking = Asking(self.state)
        self.copy: CopyIn | None = None  # during COPY FROM STDIN bytes go to the server unread
        self._is_discarding = False  # after an error of ours: until the client's Sync
        self._is_closed = False
        self._delayed = Delayed(database.acks, self._write, self._advance)
        self._link = Link(self, client, database.hold)
        self._answer = Answer(lambda: self.state.can_heal(self._request, self._link.server))
        self.server_writable, self.client_writable = self._link.server_writable, self._link.client_writable
        self._fast = FastLane(self.state, self._link, self._write)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is running or waiting: the client's next bytes begin a request."""
        return not (self._is_running or self._inbox or self._is_discarding) and self.copy is None

    @property
    def _is_running(self) -> bool:
        return bool(self._request or self._fast.raw or self._delayed.output or self._link.is_cancelling)

    def take(self, data: bytes) -> bool:
        """Take bytes at once if the session is idle and they are plain; False: take them apart."""
        return self.is_idle and self._fast.take(data, self.status)

    def _relay_fast(self, buffer: bytes, marks: list[Mark]) -> None:
        ready, fast = self._fast.relay(buffer, marks, self.status), self._fast
        if ready == REFUSED:
            self._leave_fast_lane()
            self.server_received(buffer, marks)
        elif ready is not None:
            assert fast.judged is not None
            kind, started_s = fast.judged.label, fast.started_s
            self._ready(ready, kind, started_s, has_failed=fast.has_failed, has_changed=fast.has_changed)

    def _leave_fast_lane(self) -> None:
        self._request = self._fast.as_request()
        self._answer.expect(None, can_rerun=self.status == IDLE, is_read_only=self._request.is_read)

    # What the client does.

    def frames_received(self, frames: list[Frame]) -> None:
        """Take whole messages of the client."""
        self._inbox.add(frames)
        if not self._is_running or self._answer.is_part:
            self._advance()

    def copy_received(self, data: bytes) -> bytes:
        """Relay COPY data and return what lies behind it: the beginning of the next request."""
        if self.copy is None or self._link.server is None:
            return data
        output, rest = self.copy.feed(data)
        self._link.server.write(output)
        if (ready := self.copy.take_ready()) is not None:
            self._act(Outcome.RELAYED, ready)
        return rest

    def closed(self) -> None:
        """The client is gone: give back or throw away what it used."""
        if self._is_closed:
            return
        self._is_closed = True
        self.database.session_closed(self)
        self._link.stop_waiting(self)
        self.database.hold.leave_queue(self)
        if self._link.server is not None and self._is_running:
            self.database.cancels.for_nobody(self._link.server, is_copying=self.copy is not None)
        # Not after unknown state, an open transaction, or session state that is not tracked.
        self._link.release(is_usable=self.status == IDLE and not (self._is_running or self.state.pins))

    def cancel(self) -> None:
        """Cancel what runs now: on the server, or here if it still waits."""
        if self._request is not None and self._request.is_own:
            return
        if self._link.server is not None and self._is_running:
            self.database.cancels.once(self._link.server, self._advance)
        elif self._request is not None:
            self._link.stop_waiting(self)
            self.database.hold.leave_queue(self)
            self._fail_request(errors.StatementCancelled("canceling statement due to user request"))

    def shut_down(self, why: str) -> None:
        """End the session if it is between transactions."""
        if self.is_idle and self.status == IDLE:
            self._end(errors.ShuttingDown(f"terminating connection: {why}", hint="reconnect"))

    def authority_moved(self) -> None:
        """Follow the authority between requests, if the server belongs to this session alone."""
        if self.is_idle and self.status == IDLE and moving.can_follow(self.state, self._link):
            self._dispatch(moving.move())

    def grace_ended(self) -> None:
        """End the session if it could not follow."""
        if moving.is_stranded(self.state, self._link) and not self.state.pins.can_move:
            self._end(moving.ended(self.state.pins))

    def _advance(self) -> None:
        """Start the next request, if one is complete and none is running."""
        try:
            while (not self._is_running or self._answer.is_part) and not self._is_closed:
                frames = self._inbox.take(is_unknown=self._answer.owes_part)
                if not frames:
                    return
                code = frames[0].code
                if self._is_discarding and code != requests.TERMINATE:
                    if frames[-1].code == requests.SYNC:
                        self._is_discarding = False
                        self._write(messages.ready(self.status))
                elif code in requests.BATCHED:
                    self._begin_batch(frames)
                elif code in requests.ALONE:
                    if not self._answer.is_ignored:
                        part = self._request if self._answer.is_part else None
                        self._dispatch(self.database.forms.alone(frames[0], self.state.search_path, part))
                elif code == requests.TERMINATE:
                    self._end(None)
                elif code not in requests.COPYING:  # after an error in COPY its rest is ignored
                    raise errors.ProtocolViolation(f"invalid frontend message type {code}")
        except errors.ProxyError as problem:  # caught here: it may be a server that called us
            self._end(problem)

    def _begin_batch(self, frames: list[Frame]) -> None:
        batch = self.state.extended.read(frames)
        forms, search_path = self.database.forms, self.state.search_path
        if batch.only_parses and self._link.server is None and forms.are_parsed(batch.used, search_path):
            self._write(messages.PARSE_COMPLETE * (len(frames) - 1) + messages.ready(self.status))
            return
        self._dispatch(forms.batch(batch, search_path, self._request if self._answer.is_part else None))

    def _dispatch(self, request: Request) -> None:
        """Find a server for a request; it waits if there is none, or if writes are held."""
        self._request = request
        database = self.database
        if request.refusal is not None:
            self._fail_request(request.refusal)
            return
        if self._link.server is not None and (self.status != IDLE or self._answer.is_part):
            self._send(request)  # what follows a Flush goes where its beginning went
            return
        if request.is_write and database.hold.is_on:
            database.hold.queue(self, request)
            return
        if moving.can_follow(self.state, self._link):
            self._link.release(is_usable=False)
        request.is_forced |= bool(self.state.pins)
        if self._link.server is not None:
            if request.is_write and moving.is_stranded(self.state, self._link):
                self._end(moving.ended(self.state.pins))
            else:
                self._send(request)
            return
        if database.lend(self._link, self.state, request, self) is not None:
            self._send(request)

    def resume(self, request: Request) -> None:
        """Go on with a request that was held back."""
        if self._request is request and not self._is_closed:
            self._dispatch(request)
            self._follow_part()

    def server_granted(self, server: ServerConnection) -> None:
        """The pool gives us a connection."""
        request, pool = self._request, self._link.pool
        assert request is not None and pool is not None
        if not self.database.may_run(request, server):
            self._link.pool = None
            pool.release(server)
            self._dispatch(request)
            return
        self._link.attach(server)
        self._send(request)
        self._follow_part()

    def _follow_part(self) -> None:
        """Send what has arrived behind a part that had to wait: the server may wait for it too."""
        if self._answer.is_part and self._inbox:
            self._advance()

    def server_refused(self, problem: errors.ProxyError) -> None:
        """The pool has none for us; a read still has the authority to go to."""
        request, pool = self._request, self._link.pool
        self._link.pool = None
        if request is not None and request.is_read and pool is not None and pool.is_optional:
            request.is_forced = True
            self._dispatch(request)
        elif problem.severity == "FATAL" or (request is not None and request.is_own):
            self._end(problem if problem.severity == "FATAL" else moving.ended(self.state.pins))
        else:
            self._fail_request(problem)

    def _send(self, request: Request) -> None:
        """Put a request into the server's words, behind what must be asked or set before."""
        server, state, was_part = self._link.server, self.state, self._answer.is_part
        assert server is not None
        is_first = self.status == IDLE and not was_part
        wanted = state.wanted(is_read=is_first and not request.goes_to_authority)
        script = state.preamble(server, wanted, is_write=request.is_write) if is_first else ""
        if request.is_write:
            self.database.hold.enter(self)
            state.begins_write(request, server, is_first=is_first)
        preamble = self._answer.hide(script, server.statements.evict() if is_first else ())
        # Asking ends the implicit transaction of a part, and tells nothing about names to come.
        can_ask = self.status != FAILED and not (was_part or request.changes_names)
        if can_ask and (question := self._asking.before(request, server, self._answer, is_first=is_first)):
            server.write(preamble + question)
            return
        owed = self._answer.transcript_of_part()
        sent = outgoing(request, server, state, owed, is_part=was_part, has_failed=self.status == FAILED)
        can_rerun = is_first and not sent.is_part and state.pins.can_move
        is_read_only = wanted is not state.tracker.current
        self._answer.expect(sent.transcript, sent.is_part, can_rerun, is_read_only, request.is_own)
        server.write(preamble + sent.payload)
        if sent.is_part and sent.transcript is not None:  # the server may have nothing to say to a Flush
            self._write(sent.transcript.take_synthetic())

    # What the server answers.

    def server_received(self, buffer: bytes, marks: list[Mark]) -> None:
        """Relay an answer, or act on it."""
        if self._fast.raw:
            self._relay_fast(buffer, marks)
            return
        outcome, output, ready = self._answer.receive(buffer, marks)
        if ready == IDLE and self.state.has_written and self._delayed.is_wanted:
            self._delayed.add(output)
        elif output:
            self._write(output)
        if outcome is not Outcome.RELAYED or ready is not None:
            self._act(outcome, ready)
        elif self._answer.is_copy_in:
            self._begin_copy()

    def _act(self, outcome: Outcome, ready: int | None) -> None:
        request, server, answer = self._request, self._link.server, self._answer
        assert request is not None and server is not None
        self.state.undo(server, answer.take_forgotten(), answer.take_undone())
        for statement in answer.take_completed():
            self.state.succeeded(statement, server)
        if answer.take_stale():
            self.state.expire(request, server)
        if outcome is Outcome.SHAPED or outcome is Outcome.STALE:
            self._asking.answered(request, self._answer, server)
            self._send(request)
            self._follow_part()
        elif outcome is Outcome.PART:
            self._advance()
        elif outcome is Outcome.KEYS:
            server.write(self._answer.write_entries(server.statements))
        elif outcome is Outcome.SHAPE_REFUSED:
            self._answer.expect_nothing()
            self._answer_ready(request, ready or IDLE)
            self._finish(request, ready or IDLE)
        elif outcome is Outcome.VALUES:
            self._asking.told(self._answer, server)
            self._finish(request, ready or IDLE)
        elif outcome is Outcome.BROKEN:
            self._end(errors.UpstreamLost("the session's settings cannot be applied to another server"))
        elif outcome is Outcome.READ_ONLY or outcome is Outcome.FENCED:
            self._rerun(request, outcome)
        elif ready is not None and not (self.copy is not None and self.copy.delays(ready)):
            self._finish(request, ready)

    def _rerun(self, request: Request, outcome: Outcome) -> None:
        """Send a request elsewhere that a server refused without the client seeing anything."""
        assert self._link.server is not None
        side = self._link.server.place.side
        request.token = 0
        self._link.release(is_usable=not (self.state.pins or request.leaves_traces))
        if outcome is Outcome.READ_ONLY:
            self.database.learn_write(request)
            self._dispatch(self.database.forms.again(request, self.state.search_path))
        else:
            self.database.authority_in_doubt(self, request, side)

    def _finish(self, request: Request, ready: int) -> None:
        """The request is answered; the transaction may go on."""
        server, state, answer = self._link.server, self.state, self._answer
        assert server is not None
        self.copy = None
        for warning in answer.take_missed():
            self.database.missed(warning, request)
        if question := self._asking.after(request, answer, ready):
            server.write(question)
            return
        self._request = None
        if answer.was_no_read:
            self.database.learn_write(request)
        if request.batch is not None and request.batch.only_parses and not answer.has_failed:
            self.database.forms.note_parsed(request.batch.used, state.search_path)
        self._ready(ready, request.label, request.started_s, has_failed=answer.has_failed, has_changed=True)

    def _ready(self, ready: int, kind: str, started_s: float, *, has_failed: bool, has_changed: bool) -> None:
        """The client has its ReadyForQuery: give the server back unless it is still needed."""
        server, now = self._link.server, now_s()
        assert server is not None
        self.database.observe(kind, server.place, now - started_s, has_failed=has_failed)
        self.status = ready
        if ready == IDLE:
            if has_changed:  # a read alone leaves the session as it was
                self.state.transaction_ended(server, has_failed=has_failed, now_s=now)
            if self.state.pins:
                self.database.hold.leave(self)
            else:
                self._link.release()
        if self._delayed.output:
            self._delayed.wait(now)
        elif self._inbox and not self._is_closed:
            self._advance()
        elif self.state.pins:
            self.authority_moved()

    def _begin_copy(self) -> None:
        """From here to ReadyForQuery the client's bytes go to the server as they are."""
        self._answer.is_copy_in = False
        if self.copy is not None:
            return
        self.copy = CopyIn()
        self._inbox.add([frame for frame in self._inbox.take_all() if self.copy_received(frame.encode())])

    def server_lost(self, reason: str) -> None:
        """The server connection ended under us."""
        if self._fast.raw and not self._fast.has_relayed and self.status == IDLE:
            self._leave_fast_lane()
        request, self._request = self._request, None
        self._link.release()
        if request is not None and request.is_read and self._answer.can_rerun:
            request.is_forced = True
            self._answer = Answer(self._answer.can_heal)
            self._dispatch(request)
            return
        has_told = self._answer.was_fatal or self._fast.was_fatal
        problem = errors.UpstreamLost(f"server connection lost: {reason}", hint="reconnect and try again")
        self._end(None if has_told else problem)

    def _fail_request(self, problem: errors.ProxyError) -> None:
        """Answer the waiting request with an error; the session goes on."""
        request, self._request = self._request, None
        self._write(messages.error_of(problem))
        self._answer_ready(request, self.status)
        self._advance()

    def _answer_ready(self, request: Request | None, ready: int) -> None:
        """After an error: ReadyForQuery, or, as in PostgreSQL, silence until the client's Sync."""
        if request is not None and request.batch is not None and not request.batch.has_sync:
            self._is_discarding = True
        else:
            self._write(messages.ready(ready))

    def _end(self, problem: errors.ProxyError | None) -> None:
        """Tell the client why, unless it knows, and end the connection."""
        self._write(messages.error_of(problem) if problem is not None else b"")
        self._client.close()
        self.closed()
