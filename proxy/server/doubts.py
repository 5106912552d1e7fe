"""Whether a statement still returns the columns that its client was told.

A client that has a statement described once reads the rows of every later Bind by that. When
the columns have changed meanwhile PostgreSQL refuses the Bind with 0A000, and drivers prepare
anew. But it compares with its own Parse, and a server connection that has parsed the statement
only after the change, for us or for another session, has nothing to refuse. So before a Bind:

    described in the same batch           the client is told anew: nothing to compare
    told and server's columns are equal   PostgreSQL compares from there
    not equal, or the server's unknown    the server parses it anew and describes it; is it not
                                          what the client was told, the Bind fails as it would
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.errors import ResultChanged
from proxy.server import requests
from proxy.server.extended import Batch, FormOf, Sent
from proxy.session.statements import Prepared, ServerStatements
from proxy.wire import messages


class Doubt(NamedTuple):
    """A Bind whose columns may not be those that its client was told."""

    at: int  # frame of the batch
    own: Prepared
    sent: Sent

    @property
    def name(self) -> bytes:
        """What the server calls the statement."""
        return self.sent.prepared.server_name


def doubt(batch: Batch, form_of: FormOf, server: ServerStatements, since: int) -> Doubt | None:
    """Return the first Bind that must be asked about; refuse what is known to have changed.

    Args:
        since: Serial number of the last change of the schema.
    """
    for at, own in enumerate(batch.prepared):
        if batch.error is not None and at >= batch.error[0]:
            break
        if own is None or not own.columns or batch.frames[at].code != requests.BIND or own in batch.told:
            continue
        sent = form_of(own)
        found = Doubt(at, own, sent)
        if sent.columns is not None:
            settle(batch, found, sent.columns)
        elif sent.tracked is None and not server.suits(sent.prepared, since, own.columns):
            return found
    return None


def question(found: Doubt, server: ServerStatements) -> bytes:
    """Return the messages that parse a statement anew and describe it."""
    prepared = found.sent.prepared
    server.expire(prepared)
    close = messages.close_statement(found.name) if server.takes_close(prepared) else b""
    server.add(prepared)
    parse = messages.Parse(found.name, prepared.query, prepared.parameter_oids).encode_as(found.name)
    return close + parse + messages.describe_statement(found.name) + messages.SYNC


def settle(batch: Batch, found: Doubt, columns: int) -> None:
    """Note what a statement returns now: if that has changed, its Bind fails."""
    if columns != found.own.columns:
        batch.error = (found.at, ResultChanged("cached plan must not change result type"))
