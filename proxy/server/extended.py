"""The statements and portals of a session, and what its batches do to them.

Two passes over a batch. `read` happens once, when it arrives: names become
statements, so that the batch can be routed. `wording` happens when a server has
been found, and again if the batch must be re-run elsewhere: it depends on what that
server has parsed already.

Names change when they are read; what then fails or is skipped on the server is undone
(`undo`). A portal keeps the form it was bound in, whatever is learned in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from proxy.errors import ClientError
from proxy.server import requests
from proxy.server.judge import Judged, SearchPath
from proxy.server.translate import Form
from proxy.session.replies import Renamed
from proxy.session.statements import ClientStatements, Portals, Prepared
from proxy.sql.statement import Statement
from proxy.wire import messages
from proxy.wire.frames import Frame


class Sent(NamedTuple):
    """A client's statement in the form that servers get."""

    judged: Judged
    form: Form
    prepared: Prepared  # of the text that is sent, under the search path it is for
    is_plain: bool  # its answers can be relayed untouched
    tracked: Statement | None
    is_short: bool  # fit for the fast lane: one message out, at most a tag to change in the answer
    columns: int | None = None  # of its shape, if that is what the client is told


class Known(NamedTuple):
    """What a client's name stands for, and how that is sent."""

    own: Prepared
    sent: Sent


FormOf = Callable[[Prepared], Sent]


class FormSource(Protocol):
    """Where the forms of prepared statements come from; `server.forms` is it."""

    generation: int

    def is_sent(self, prepared: Prepared, search_path: SearchPath) -> bool: ...
    def prepared(self, search_path: SearchPath, *, is_certain: bool = True) -> FormOf: ...


@dataclass(slots=True)
class Batch:
    """What `read` found in a batch."""

    frames: list[Frame]
    prepared: list[Prepared | None]  # per frame: the statement it is about
    renamed: list[Renamed | None]  # per frame: the name it gave another meaning
    error: tuple[int, ClientError] | None = None  # frame that cannot be served, and why
    has_sync: bool = False
    only_parses: bool = False  # nothing but Parse, and the Sync
    executes: bool = False
    used: set[Prepared] = field(default_factory=set)
    # Those that the client is told the shape of: it parses or describes them in this batch.
    told: set[Prepared] = field(default_factory=set)


class Extended:
    """The extended protocol of one session: its statements and portals."""

    def __init__(self) -> None:
        self.statements = ClientStatements()
        self.portals = Portals()
        self.opened: dict[bytes, Sent] = {}  # portals, in the form that the server has
        # The fast lane: what each name was last sent as, good for one generation of forms.
        self.bound: dict[bytes, Known] = {}
        self._bound_generation = -1

    def sent(self, name: bytes, forms: FormSource, search_path: SearchPath) -> Known | None:
        """Return how a statement the client prepared is sent; None when it has no such name."""
        if self._bound_generation != forms.generation:
            self.bound.clear()
            self._bound_generation = forms.generation
        found = self.bound.get(name)
        if found is None:
            prepared = self.statements.get(name)
            if prepared is None or not forms.is_sent(prepared, search_path):
                return None
            found = self.bound[name] = Known(prepared, forms.prepared(search_path)(prepared))
        return found

    def forget_statements(self) -> None:
        """Note DEALLOCATE ALL or DISCARD ALL."""
        self.statements.clear()
        self.bound.clear()

    def read(self, frames: list[Frame]) -> Batch:
        """Note what a batch does to names, and return what it is about.

        Raises:
            ProtocolViolation: A message is malformed; close the connection.
        """
        batch = Batch(frames, [None] * len(frames), [None] * len(frames))
        for at, frame in enumerate(frames):
            batch.renamed[at] = self._renames(frame)
            try:
                prepared = self._read_one(frame)
            except ClientError as error:
                if error.severity == "FATAL":
                    raise
                batch.error = (at, error)
                break
            batch.prepared[at] = prepared
            if prepared is not None:
                batch.used.add(prepared)
                if frame.code in (requests.PARSE, requests.DESCRIBE):
                    batch.told.add(prepared)
        batch.executes = any(frame.code == requests.EXECUTE for frame in frames)
        batch.has_sync = frames[-1].code == requests.SYNC
        batch.only_parses = (
            batch.has_sync
            and batch.error is None
            and all(frame.code == requests.PARSE for frame in frames[:-1])
            and len(frames) > 1
        )
        return batch

    def forget_statement(self, name: bytes) -> None:
        """Note a DEALLOCATE."""
        self.statements.close(name)
        self.bound.pop(name, None)

    def undo(self, renamed: list[Renamed]) -> None:
        """Give names back the meaning they had before what failed, latest first."""
        for name, before in renamed:
            self.statements.restore(name, before)
            self.bound.pop(name, None)

    def transaction_ended(self) -> None:
        """Note that no portal is left."""
        self.portals.clear()
        self.opened.clear()

    def _renames(self, frame: Frame) -> Renamed | None:
        """Return the name that a Parse or Close is about, with its present meaning."""
        if frame.code == requests.PARSE:
            name = frame.body.partition(b"\0")[0]
        elif frame.code == requests.CLOSE and frame.body[:1] == b"S":
            name = messages.read_target(frame.body)[1]
        else:
            return None
        return Renamed(name, self.statements.get(name))

    def _read_one(self, frame: Frame) -> Prepared | None:
        code, body = frame
        if code == requests.PARSE:
            name, query, oids = messages.read_parse(body)
            prepared = Prepared(query, oids)
            self.bound.pop(name, None)
            self.statements.parse(name, prepared)
            return prepared
        if code == requests.BIND:
            portal, name, _ = messages.read_bind(body)
            prepared = self.statements.resolve(name)
            self.portals.open(portal, prepared)
            return prepared
        if code == requests.EXECUTE:
            return self.portals.get(messages.read_execute(body))
        if code == requests.DESCRIBE:
            kind, name = messages.read_target(body)
            return self.statements.resolve(name) if kind == 0x53 else self.portals.get(name)
        if code == requests.CLOSE:
            kind, name = messages.read_target(body)
            if kind == 0x53:
                self.statements.close(name)
                self.bound.pop(name, None)
            else:
                self.portals.close(name)
        return None
