"""Put a batch of the extended protocol into the words of the server that will run it.

    the client sends          the server gets
    Parse "a"                 Parse cf_<identity>, or nothing: it has it already
    Bind "a"                  Bind cf_<identity>, with the Parse before it if it is missing
    Execute of a write        hidden statements around it, if the write is watched
    Sync                      Flush, while the keys of a write are to be entered first (`split`)
    Close "a"                 nothing: another session may use the same statement

The unnamed statement stays unnamed: it is parsed again wherever it is missing. What a server
parsed before the schema changed is closed and parsed anew.
"""

from __future__ import annotations

from proxy.capture.watch import watch_after, watch_before
from proxy.errors import ClientError, DuplicateStatement
from proxy.server import requests
from proxy.server.extended import Batch, FormOf, Sent
from proxy.server.split import may_end_transaction, with_formats
from proxy.server.translate import Form, hidden_execution, tracked_in
from proxy.session.prepares import Replay
from proxy.session.replies import Names, Owed, Renamed, Step, Transcript
from proxy.session.returned import Returned
from proxy.session.statements import UNNAMED, Prepared, ServerStatements, Told
from proxy.sql.statement import Kind, Statement
from proxy.wire import messages
from proxy.wire.frames import Frame

_NOT_A_STATEMENT = b"crossfade: no such statement"
_NO_LIMIT = bytes(4)  # of rows, at the end of an Execute


class Wording:
    """The wording of one batch for one server.

    Args:
        form_of: How a statement is sent under the session's search path.
        opened: The session's portals.
        replay: What the server lacks of SQL-level PREPARE.
        since: Serial number of the last change of the schema.
        is_certain: Names mean, when the batch runs, what they mean now.
        has_failed: The transaction has failed: PostgreSQL refuses even a Parse, unless it is of
            the statement that ends the transaction.
    """

    def __init__(
        self,
        server: ServerStatements,
        form_of: FormOf,
        opened: dict[bytes, Sent],
        replay: Replay,
        since: int,
        *,
        is_certain: bool = True,
        has_failed: bool,
    ) -> None:
        self._server = server
        self._form_of = form_of
        self._opened = opened
        self._replay = replay
        self._since = since
        self._is_certain = is_certain
        self._has_failed = has_failed
        self._out: list[bytes] = []
        self._transcript = Transcript()
        self._can_split = True  # what is sent now is one transaction, up to its end at the Sync

    def of(self, batch: Batch, transcript: Transcript | None) -> tuple[bytes, Transcript]:
        """Return the bytes to send, and the transcript to walk the answers along.

        Args:
            transcript: What is owed already, if an earlier part of this batch had been
                sent up to a Flush; None: nothing.
        """
        if transcript is not None:
            self._transcript = transcript
        self._can_split = transcript is None and batch.has_sync and not any(map(self._may_end, batch.used))
        for at, frame in enumerate(batch.frames):
            if batch.error is not None and at == batch.error[0]:
                self._fail(frame, batch.error[1], batch.renamed[at:], has_sync=batch.has_sync)
                break
            self._one(frame, batch.prepared[at], batch.renamed[at])
        return b"".join(self._out), self._transcript

    def _one(self, frame: Frame, prepared: Prepared | None, renamed: Renamed | None) -> None:
        code = frame.code
        if code == requests.SYNC:
            self._sync()
        elif code == requests.FLUSH:
            self._out.append(messages.FLUSH)
        elif code == requests.PARSE and prepared is not None:
            self._parse(prepared, renamed)
        elif code == requests.BIND and prepared is not None:
            self._bind(frame.body, prepared)
        elif code == requests.DESCRIBE:
            self._describe(frame, prepared)
        elif code == requests.EXECUTE:
            self._execute(frame)
        elif frame.body[:1] == b"S":  # Close of a statement
            owed = Owed(Step.CLOSE, synthetic=messages.CLOSE_COMPLETE, renamed=renamed)
            self._transcript.add(owed)
        else:
            self._opened.pop(frame.body[1:-1], None)
            self._send(frame.encode(), Owed(Step.CLOSE))

    def _parse(self, prepared: Prepared, renamed: Renamed | None) -> None:
        assert renamed is not None, "a Parse is about a name"
        sent = self._form_of(prepared)
        self._prepare_in_sql(sent)
        if not self._is_certain:
            self._server.expire(sent.prepared)
        owed = Owed(Step.PARSE, positions=sent.form.positions, renamed=renamed)
        if renamed.name == UNNAMED:
            self._server.unnamed = sent.prepared
            self._send(_parse_as(UNNAMED, sent.prepared), owed)
        elif self._has_failed and not (_ends(sent) or _is_empty(sent)):
            self._send(_parse_as(sent.prepared.server_name, sent.prepared), owed)
        elif self._has(sent):
            self._transcript.add(owed._replace(synthetic=messages.PARSE_COMPLETE))
        else:
            self._parse_named(sent, owed)

    def _has(self, sent: Sent) -> bool:
        self._server.expire_older(sent.prepared, self._since)
        return self._server.has(sent.prepared)

    def _parse_named(self, sent: Sent, owed: Owed) -> None:
        executes = sent.tracked is not None and sent.tracked.prepared_name is not None
        is_brief = executes or not self._is_certain
        name = sent.prepared.server_name
        if self._server.takes_close(sent.prepared):
            self._send(messages.close_statement(name), Owed(Step.CLOSE, is_hidden=True))
        self._server.add(sent.prepared, is_brief=is_brief)
        self._send(_parse_as(name, sent.prepared), owed._replace(server_name=name))

    def _prepare_in_sql(self, sent: Sent) -> None:
        """Prepare what a statement EXECUTEs: to describe it, its Parse needs that already."""
        if sent.tracked is None or self._has_failed:
            return
        for statement in self._replay.before(sent.tracked):
            self._hidden(statement.source, statement)

    def _name_on_server(self, name: bytes, sent: Sent) -> bytes:
        """Make sure that the server has a statement, and return its name there."""
        self._prepare_in_sql(sent)
        owed = Owed(Step.PARSE, is_hidden=True, positions=sent.form.positions or _as_sent)
        if name == UNNAMED:
            if self._server.unnamed != sent.prepared:
                self._send(_parse_as(UNNAMED, sent.prepared), owed)
                self._server.unnamed = sent.prepared
            return UNNAMED
        if not self._has(sent):
            self._parse_named(sent, owed)
        return sent.prepared.server_name

    def _bind(self, body: bytes, prepared: Prepared) -> None:
        portal, name, rest = messages.read_bind(body)
        sent = self._opened[portal] = self._form_of(prepared)
        server_name = self._name_on_server(name, sent)
        names = Names(server_name, name) if name != UNNAMED else None
        formats = body[rest:]
        if sent.form.keys is not None:
            formats = with_formats(formats, sent.form.keys.columns_count)
        self._send(messages.bind(portal, server_name, formats), Owed(Step.BIND, names=names))

    def _describe(self, frame: Frame, prepared: Prepared | None) -> None:
        message = frame.encode()
        kind, name = messages.read_target(frame.body)
        sent = self._opened.get(name)
        if kind == 0x53:
            assert prepared is not None, "read() refuses names that stand for nothing"
            sent = self._form_of(prepared)
            message = messages.describe_statement(self._name_on_server(name, sent))
        if sent is None or prepared is None:
            self._send(message, Owed(Step.DESCRIBE))
            return
        shape, parsed = sent.form.shape, self._server.parsed(sent.prepared)
        told: tuple[Told, ...] = ()
        if parsed is not None and (prepared.columns is None or prepared.columns != parsed.columns):
            told = (prepared, parsed) if shape is None else (prepared,)
        self._send(message, Owed(Step.DESCRIBE, shape=shape, told=told))

    def _execute(self, frame: Frame) -> None:
        sent = self._opened.get(messages.read_execute(frame.body))
        if sent is not None and _ends(sent):
            self._has_failed = False  # what follows it in the batch is parsed again, or all of it is skipped
        if sent is None or sent.is_plain or self._has_failed:
            self._send(frame.encode(), Owed(Step.EXECUTE))
            return
        before, after, returned = self._around(sent.form, frame)
        for text in before:
            self._hidden(text)
        self._prepare_in_sql(sent)
        tracked = tracked_in(sent.form.text, sent.tracked) if sent.tracked is not None else None
        owed = Owed(Step.EXECUTE, tag=sent.form.tag, shape=sent.form.shape,
                    positions=sent.form.positions, statement=tracked, returned=returned)  # fmt: skip
        self._send(frame.encode(), owed)
        for text in after:
            self._hidden(text)
        if sent.tracked is not None:
            self._replay.follow(sent.tracked)

    def _around(self, form: Form, frame: Frame) -> tuple[tuple[str, ...], tuple[str, ...], Returned | None]:
        """Return what runs before and after a statement, and what takes the keys that it returns."""
        if form.keys is None:
            return form.before, form.after, None
        if self._can_split and frame.body.endswith(_NO_LIMIT):
            return (), (), Returned(form.keys)
        # Their entries could come too late, or not all of them: what changes is counted.
        return (watch_before(),), (watch_after(),), Returned(form.keys, is_counted=True)

    def _may_end(self, prepared: Prepared) -> bool:
        return any(map(may_end_transaction, self._form_of(prepared).judged.statements))

    def _sync(self) -> None:
        if self._transcript.has_returned:
            self._send(messages.FLUSH, Owed(Step.KEYS))
        else:
            self._send(messages.SYNC, Owed(Step.READY))

    def _hidden(self, text: str, statement: Statement | None = None) -> None:
        prepared = Prepared(text.encode(errors="surrogateescape"), b"\0\0")
        is_parsed = self._server.has(prepared)
        if not is_parsed:
            self._server.add(prepared, is_brief=statement is not None)
        out, owed = hidden_execution(prepared, is_parsed=is_parsed, statement=statement)
        self._out += out
        for each in owed:
            self._transcript.add(each)

    def _fail(
        self, frame: Frame, error: ClientError, renamed: list[Renamed | None], *, has_sync: bool
    ) -> None:
        """Make the server fail here, so that its transaction fails too, and say why ourselves.

        Args:
            renamed: What the rest of the batch, which is not sent, did to names.
        """
        if isinstance(error, DuplicateStatement):  # PostgreSQL looks at the text before the name
            self._server.unnamed = None
            parse = messages.read_parse(frame.body).encode_as(UNNAMED)
            self._send(parse, Owed(Step.PARSE, is_hidden=True, positions=_as_sent))
        message = messages.bind(b"", _NOT_A_STATEMENT, b"\0\0\0\0\0\0")
        self._send(message, Owed(Step.BIND, error=messages.error_of(error)))
        for each in filter(None, renamed):
            self._transcript.add(Owed(Step.CLOSE, renamed=each))
        self._sync() if has_sync else self._out.append(messages.FLUSH)

    def _send(self, message: bytes, owed: Owed) -> None:
        self._out.append(message)
        self._transcript.add(owed)


def _as_sent(position: int) -> int:
    """Map the positions of errors in a text that is sent as its client wrote it."""
    return position


def _parse_as(name: bytes, sent: Prepared) -> bytes:
    return messages.Parse(name, sent.query, sent.parameter_oids).encode_as(name)


def _ends(sent: Sent) -> bool:
    """Return whether PostgreSQL runs it in a failed transaction (IsTransactionExitStmt)."""
    first = sent.judged.statements[0] if sent.judged.statements else None
    if first is None or first.kind in (Kind.COMMIT, Kind.ROLLBACK):
        return first is not None
    return first.is_rollback_to or (first.is_two_phase and first.tag == "PREPARE")


def _is_empty(sent: Sent) -> bool:
    """Return whether there is no statement in it: PostgreSQL parses that even in a failed transaction."""
    return not sent.judged.statements
