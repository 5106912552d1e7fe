"""One request of a client on its way: what it is, and what is needed to send it again."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.capture.ddl import ddl_apart
from proxy.clock import now_s
from proxy.errors import ClientError, NotMirrorable
from proxy.server.extended import Batch
from proxy.server.judge import Judged
from proxy.session.inventory import named_in
from proxy.wire.frames import Frame

_FIRST_USER_OID = 16384  # FirstNormalObjectId in transam.h


class Request:
    """A simple Query, a batch of the extended protocol, or a FunctionCall."""

    __slots__ = (
        "apart", "batch", "begins", "changes_names", "executes", "frame", "is_captured", "is_forced",
        "is_healed", "is_own", "is_read", "is_write", "judged", "label", "leaves_traces", "may_commit",
        "refusal", "started_s", "text", "token", "will_change_names",
    )  # fmt: skip

    def __init__(
        self,
        judged: Sequence[Judged],
        *,
        frame: Frame | None = None,
        text: str = "",
        batch: Batch | None = None,
    ) -> None:
        self.judged = judged
        self.frame = frame
        self.text = text
        self.batch = batch
        self.started_s = now_s()
        self.refusal: ClientError | None = None
        self.is_own = False  # ours, see `moving`
        self.is_healed = False  # sent again with its statements parsed anew
        self.apart = self._apart()
        self.executes = batch is not None and batch.executes
        self.token = 0  # under which it is announced
        self.may_commit = any(each.may_commit for each in judged) and (batch is None or batch.executes)
        # To the authority, read or not; what a part will be followed by is not known.
        self.is_forced = batch is not None and not batch.has_sync
        self.changes_names = False  # so that of the batch nothing is certain before it runs
        self.will_change_names = any(each.changes_names for each in judged)
        # A Parse alone runs nothing.
        self.leaves_traces = any(each.leaves_traces for each in judged) and not (batch and batch.only_parses)
        if len(judged) == 1:
            self.is_read = judged[0].is_read
            self.is_write = judged[0].is_write
            self.begins = judged[0].begins
            self.is_captured = judged[0].is_captured
            self.label = judged[0].label
        else:
            self.is_read = bool(judged) and all(each.is_read for each in judged)
            # A batch about nothing we know (a portal of an open transaction) cannot begin a write.
            self.is_write = any(each.is_write for each in judged)
            self.begins = any(each.begins for each in judged)
            self.changes_names = self.will_change_names
            self.is_captured = any(each.is_captured for each in judged)
            self.label = "batch" if judged else "other"

    @property
    def reads_drawn(self) -> bool:
        """Whether it calls lastval() or currval()."""
        return any(each.reads_drawn for each in self.judged)

    @property
    def goes_to_authority(self) -> bool:
        """Whether no other server may run it."""
        return self.is_forced or not self.is_read

    def _apart(self) -> tuple[str, ...]:
        """Return how the ledger learns of DDL that no transaction may hold, when it is done."""
        if not any(each.is_apart for each in self.judged) or not (self.batch is None or self.batch.executes):
            return ()
        used = self.batch.used if self.batch is not None else ()
        texts = [each.query.decode(errors="surrogateescape") for each in used] or [self.text]
        return tuple(filter(None, map(ddl_apart, texts)))

    def follow(self, part: Request) -> None:
        """Note that this goes on where a part of a batch ended."""
        self.executes |= part.executes
        self.changes_names |= part.will_change_names
        self.leaves_traces |= part.leaves_traces
        self.will_change_names |= part.will_change_names

    @classmethod
    def of_function_call(cls, frame: Frame, *, captures: bool) -> Request:
        """Return the request of a FunctionCall: any function, so a write.

        Those of PostgreSQL itself, meant for large objects, change no rows of tables.
        """
        request = cls((), frame=frame)
        request.is_write = True
        request.leaves_traces = True
        if captures and int.from_bytes(frame.body[:4], "big") >= _FIRST_USER_OID:
            request.refusal = NotMirrorable(
                "what a FunctionCall message changes cannot be captured", hint="call it by SELECT"
            )
        return request

    def settings_named(self) -> set[str]:
        """Return what may be names of custom settings, in its texts and parameters."""
        frames = self.batch.frames if self.batch is not None else [self.frame] if self.frame else []
        texts = [each.query for each in self.batch.used] if self.batch is not None else []
        return named_in(b" ".join((*(frame.body for frame in frames), *texts)))

    def raw(self) -> bytes:
        """Return the bytes as the client sent them."""
        assert self.frame is not None
        return self.frame.encode()
