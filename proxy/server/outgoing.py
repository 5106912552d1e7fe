"""What is sent to a server for a request: the last decision before the bytes leave."""

from __future__ import annotations

from typing import NamedTuple

from proxy.server import split
from proxy.server.audit import all_audited, audited
from proxy.server.extended import FormOf, Sent
from proxy.server.judge import Judged
from proxy.server.request import Request
from proxy.server.state import State
from proxy.server.translate import Form, simple
from proxy.server.wording import Wording
from proxy.session.replies import Transcript
from proxy.session.statements import UNNAMED, Prepared
from proxy.sql.statement import Kind
from proxy.upstream.connection import ServerConnection


class Outgoing(NamedTuple):
    """Bytes for the server, and what its answer is walked along (None: relayed untouched)."""

    payload: bytes
    transcript: Transcript | None
    is_part: bool  # a batch up to a Flush: its Sync is still to come


def outgoing(
    request: Request,
    server: ServerConnection,
    state: State,
    owed: Transcript | None,
    *,
    is_part: bool,
    has_failed: bool,
) -> Outgoing:
    """Return what to send.

    Args:
        owed: What an earlier part of the same batch is still owed.
        is_part: There was such a part.
        has_failed: The transaction has failed: PostgreSQL will refuse whatever is sent, but the
            end of the transaction, and what follows that in the same request.
    """
    forms = state.database.forms
    if request.batch is not None:
        is_certain = not request.changes_names
        form_of = forms.prepared(state.search_path, is_certain=is_certain)
        if request.token:
            form_of = _announced(form_of)
        elif state.is_audited:
            form_of = all_audited(form_of)
        replay = state.replay(server, is_part=is_part)
        opened = state.extended.opened
        wording = Wording(
            server.statements,
            form_of,
            opened,
            replay,
            forms.changed,
            is_certain=is_certain,
            has_failed=has_failed,
        )
        payload, transcript = wording.of(request.batch, owed)
        return Outgoing(payload, transcript, not request.batch.has_sync)
    server.statements.unnamed = None  # a simple query destroys it
    if is_part and request.executes:
        # From PostgreSQL 17 on the Sync behind it does not end the transaction (TBLOCK_STARTED).
        server.is_usable = False
    if request.text:
        state.extended.forget_statement(UNNAMED)
    judged = request.judged[0] if request.judged else None
    if judged is None or (has_failed and not _recovers(judged)):
        return Outgoing(request.raw(), None, False)
    is_tracked = judged.is_tracked and not (judged.ends_only and state.is_clean)
    if not (judged.is_captured or is_tracked or state.is_audited) or request.token:
        return Outgoing(request.raw(), None, False)
    replay = state.replay(server, is_part=False)
    sent = []
    made = forms.of(request.text, judged, state.search_path, is_part=is_part)
    written = zip(made, judged.statements, strict=True)
    for form, statement in written:
        replays = replay.before(statement)
        sent.append(_DEALLOCATED if state.knows(statement) else form._replace(replays=replays))
        replay.follow(statement)
    if state.is_audited:
        sent = [audited(form, judged, at) for at, form in enumerate(sent)]
    if sent and sent[0].keys is not None:  # it is alone, see `Forms.of`
        return Outgoing(*split.simple(sent[0], server.statements), False)
    payload, transcript = simple(request.text, judged, sent)
    return Outgoing(payload, transcript, False)


def _announced(form_of: FormOf) -> FormOf:
    """Return forms in which a statement that was announced is sent as it came."""

    def announced(prepared: Prepared) -> Sent:
        sent = form_of(prepared)
        return sent._replace(form=Form(sent.form.text)) if sent.judged.may_commit else sent

    return announced


def _recovers(judged: Judged) -> bool:
    """Return whether a text begins with what ends a failed transaction, or its failed part."""
    first = judged.statements[0] if judged.statements else None
    return first is not None and (first.kind in (Kind.COMMIT, Kind.ROLLBACK) or first.is_rollback_to)


# DEALLOCATE of a statement that the client has by a Parse: the server knows it by another name,
# which others may use. `State.succeeded` forgets it for this session.
_DEALLOCATED = Form("DEALLOCATE crossfade_none", before=("PREPARE crossfade_none AS SELECT 1",))
