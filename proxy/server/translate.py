"""Put a request into the words the server must get, and note what is then owed.

A captured statement is sent spliced (see `capture.splice`), possibly between hidden
statements that watch what it changes. A prepared statement is sent under its server
name, and parsed first on a server that does not have it yet. Everything here is a
function of values; the session sends the bytes and feeds the transcript.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from proxy.capture.copying import copy_after, copy_before
from proxy.capture.ddl import ddl_after, ddl_before, ddl_refused
from proxy.capture.decide import Plan
from proxy.capture.keys import key_texts
from proxy.capture.splice import returning_keys, splice
from proxy.capture.watch import WATCHED, watch_after, watch_before
from proxy.catalog.model import Table
from proxy.server.judge import Judged, is_tracked
from proxy.session.replies import NO_ROWS, Owed, PositionMap, Step, Transcript
from proxy.session.returned import Keys
from proxy.session.statements import Prepared
from proxy.sql.statement import Kind, Statement
from proxy.wire import messages
from proxy.wire.frames import encode


class Shape(NamedTuple):
    """What PostgreSQL says a statement with RETURNING returns."""

    columns_count: int
    row_description: bytes  # body of the RowDescription


class Form(NamedTuple):
    """How one statement is sent, and what its answer is turned into."""

    text: str
    tag: str | None = None
    shape: bytes | None = None
    positions: PositionMap | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    replays: tuple[Statement, ...] = ()  # of PREPARE, before all of these
    keys: Keys | None = None  # what it returns besides, in the split form (`split`)


def form_of(text: str, statement: Statement, plan: Plan | None, shape: Shape | None, version: int) -> Form:
    """Return how to send one statement of a text.

    Args:
        shape: Known if the plan splices a statement with RETURNING (`needs_shape`).
        version: server_version_num of the server that gets it.
    """
    own = text[statement.start : statement.end]
    if plan is None:
        return Form(own)
    before: tuple[str, ...] = plan.entries_sql()
    after: tuple[str, ...] = ()
    if plan.watches:
        before += (watch_before(),)
        after = (watch_after(plan.watch_except),)
    if plan.copied is not None:
        before, after = (*before, copy_before(plan.copied)), (copy_after(plan.copied),)
    if plan.ddl == "refuse":
        return Form(ddl_refused(statement.ddl))
    if plan.ddl == "mirror" and not statement.needs_no_transaction:
        noted = ddl_after(own)
        before, after = (*before, ddl_before(statement)), (*after, *([noted] if noted else ()))
    if plan.inline is None:
        return Form(own, before=before, after=after)
    if plan.is_split:
        return _split(own, statement, plan.inline, shape)
    spliced = splice(own, statement, plan.inline, shape.columns_count if shape else None, version)
    return Form(
        spliced.text,
        tag=statement.tag,
        shape=shape.row_description if shape else None,
        positions=_positions(spliced.prefix_chars, len(own), 0, statement.start),
        before=before,
        after=after,
    )


def _split(own: str, statement: Statement, table: Table, shape: Shape | None) -> Form:
    keys = Keys(table.id, "k" if table.key else "a", len(key_texts("", table)), shape is None)
    return Form(
        returning_keys(own, statement, table),
        shape=shape.row_description if shape is not None else NO_ROWS,
        positions=_positions(0, len(own), 0, statement.start),
        keys=keys,
    )


def needs_shape(statement: Statement, plan: Plan | None) -> bool:
    """Return whether the original must be described before it can be spliced."""
    return plan is not None and plan.inline is not None and statement.targets[0].has_returning


def positions_behind(prefix_chars: int, own_chars: int) -> PositionMap:
    """Return the map for a text that is sent with a prefix and nothing else before it."""
    return _positions(prefix_chars, own_chars, 0, 0)


def _positions(prefix: int, length: int, sent_at: int, own_at: int) -> PositionMap:
    """Map one-based positions of the sent text into the client's."""

    def position(sent: int) -> int | None:
        offset = sent - 1 - sent_at - prefix
        return own_at + offset + 1 if 0 <= offset <= length else None

    return position


def simple(text: str, judged: Judged, forms: list[Form]) -> tuple[bytes, Transcript]:
    """Return the Query to send for a simple query string, and the answers it will bring."""
    parts: list[str] = []
    maps: list[PositionMap] = []
    at = 0

    def positions(sent: int) -> int | None:
        # A mistake of grammar in one statement is reported before the first one runs.
        return next((own for own in (part(sent) for part in maps) if own is not None), None)

    def positions_in_either(sent: int) -> int | None:
        # An error of EXECUTE may also point into the text that was prepared.
        return positions(sent) or sent

    hidden = Owed(Step.EXECUTE, is_hidden=True, positions=positions)
    transcript = Transcript()
    for statement, form in zip(judged.statements, forms, strict=True):
        tracked = tracked_in(text, statement)
        until = WATCHED if statement.kind is Kind.UNKNOWN and form.after else b""
        where = positions if statement.prepared_name is None else positions_in_either
        own = Owed(
            Step.EXECUTE, tag=form.tag, shape=form.shape, positions=where, statement=tracked, until=until
        )
        for replay in form.replays:
            inside = _positions(0, len(replay.source), at, 0)
            transcript.add(hidden._replace(statement=replay, positions=inside))
            parts.append(replay.source)
            at += len(replay.source) + len(_BETWEEN)
        for part in (*form.before, form.text, *form.after):
            transcript.add(own if part is form.text else hidden)
            if part is form.text:
                prefix = form.text.find(text[statement.start : statement.end]) if form.positions else 0
                maps.append(_positions(prefix, statement.end - statement.start, at, statement.start))
            parts.append(part)
            at += len(part) + len(_BETWEEN)
    transcript.add(Owed(Step.READY))
    return messages.query(_BETWEEN.join(parts).encode(errors="surrogateescape")), transcript


def tracked_in(text: str, statement: Statement) -> Statement | None:
    """Return what the session must know when a statement of a text has succeeded; None: nothing."""
    if statement.kind is Kind.PREPARE:
        return replace(statement, source=text[statement.start : statement.end])
    return statement if is_tracked(statement) else None


_BETWEEN = "\n;"  # the line ends a comment at the end of a text that was not understood


def hidden_execution(
    prepared: Prepared,
    *,
    is_parsed: bool,
    statement: Statement | None = None,
    parameters: bytes = b"\0\0\0\0\0\0",
) -> tuple[list[bytes], list[Owed]]:
    """Return the messages that run one of our own statements inside a client's batch.

    It has a portal of its own, because the client's unnamed portal may be in use.

    Args:
        statement: What the session must know when it has succeeded.
        parameters: What follows the names in its Bind.
    """
    out: list[bytes] = []
    owed: list[Owed] = []
    name = prepared.server_name
    if not is_parsed:
        out.append(messages.Parse(name, prepared.query, prepared.parameter_oids).encode_as(name))
        owed.append(Owed(Step.PARSE, is_hidden=True, server_name=name))
    out.append(messages.bind(_PORTAL, name, parameters))
    out.append(messages.execute(_PORTAL))
    out.append(encode(b"C", b"P" + _PORTAL + b"\0"))
    owed += [Owed(step, is_hidden=True) for step in (Step.BIND, Step.EXECUTE, Step.CLOSE)]
    owed[-2] = owed[-2]._replace(statement=statement)
    return out, owed


_PORTAL = b"crossfade"
