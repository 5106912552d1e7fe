"""The split form: a write that returns the keys of its rows, then their entries, then the Sync.

    the client sends        the server gets
    Parse, Bind, Execute    the same, with the keys in RETURNING
    Sync                    Flush
                            ... the keys have come:
                            Bind, Execute of an INSERT into the ledger for them
                            Sync: here it commits, outside of a transaction block

A simple query is sent in the same messages. Everything up to the Sync is one transaction, so the
entries commit with the rows or not at all, whatever fails. But that transaction must not end
before the Sync: where a statement of the batch might end it, or its Sync has not come, what
changes is counted instead (`capture.watch`).

It is for clusters that refuse data-changing statements in WITH (`probing`), or `capture: split`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from proxy.server.translate import Form, hidden_execution
from proxy.session.replies import Owed, Step, Transcript
from proxy.session.returned import Key, Returned
from proxy.session.statements import NO_TYPES, UNNAMED, Prepared, ServerStatements
from proxy.sql.statement import Kind, Statement
from proxy.wire import messages

_TEXT_OID, _TEXT_ARRAY_OID = 25, 1009
_NULL = struct.pack("!i", -1)


def may_end_transaction(statement: Statement) -> bool:
    """Return whether what follows a statement may be in another transaction than what precedes it."""
    return (
        statement.kind in (Kind.COMMIT, Kind.ROLLBACK, Kind.UNKNOWN)
        or statement.is_two_phase
        or statement.needs_no_transaction
        or statement.tag in ("CALL", "DO")
    )


def simple(form: Form, server: ServerStatements) -> tuple[bytes, Transcript]:
    """Return what is sent for a simple query of one statement, and the answers it will bring."""
    assert form.keys is not None
    transcript = Transcript()
    parse = messages.Parse(UNNAMED, form.text.encode(errors="surrogateescape"), NO_TYPES)
    out = [parse.encode_as(UNNAMED), messages.bind(b"", UNNAMED, b"\0\0\0\0\0\0")]
    transcript.add(Owed(Step.PARSE, is_hidden=True, positions=form.positions))
    transcript.add(Owed(Step.BIND, is_hidden=True, positions=form.positions))
    if not form.keys.is_bare:
        out.append(messages.describe_portal())
        transcript.add(Owed(Step.DESCRIBE, shape=form.shape))
    returned = Returned(form.keys)
    out += [messages.execute(), messages.FLUSH]
    transcript.add(Owed(Step.EXECUTE, positions=form.positions, returned=returned))
    transcript.add(Owed(Step.KEYS))
    server.unnamed = None
    return b"".join(out), transcript


def entries(transcript: Transcript, server: ServerStatements) -> bytes:
    """Return the messages that write the entries for all keys that came, and end the batch."""
    out: list[bytes] = []
    for returned in transcript.take_returned():
        for prepared, parameters in _insertions(returned):
            is_parsed = server.has(prepared)
            if not is_parsed:
                server.add(prepared)
            sent, owed = hidden_execution(prepared, is_parsed=is_parsed, parameters=parameters)
            out += sent
            for each in owed:
                transcript.add(each)
    out.append(messages.SYNC)
    transcript.add(Owed(Step.READY))
    return b"".join(out)


def with_formats(rest: bytes, count: int) -> bytes:
    """Return the rest of a Bind (`messages.bind`) with formats for so many more columns: text.

    One format is for all columns, and none is text; the binary form of a text is the same bytes.
    """
    (formats_count,) = struct.unpack_from("!H", rest)
    at = 2 + 2 * formats_count
    (parameters_count,) = struct.unpack_from("!H", rest, at)
    at += 2
    for _ in range(parameters_count):
        at += 4 + max(0, struct.unpack_from("!i", rest, at)[0])
    (results_count,) = struct.unpack_from("!H", rest, at)
    if results_count < 2:
        return rest
    return rest[:at] + struct.pack("!H", results_count + count) + rest[at + 2 :] + b"\0\0" * count


def _insertions(returned: Returned) -> Iterator[tuple[Prepared, bytes]]:
    """Yield the statements that write the entries, with their parameters as in a Bind."""
    keys = returned.keys
    if returned.is_whole:
        text = f"INSERT INTO crossfade.ledger (tbl, kind) VALUES ({keys.table_id}, 't')"
        yield Prepared(text.encode(), NO_TYPES), b"\0\0\0\0\0\0"
    elif returned.found:
        names = ", ".join(f"k{number}" for number in range(1, keys.columns_count + 1))
        arrays = ", ".join(f"pg_catalog.unnest(${number})" for number in range(1, keys.columns_count + 1))
        text = (
            "INSERT INTO crossfade.ledger (tbl, kind, key)"
            f" SELECT {keys.table_id}, '{keys.kind}', ARRAY[{names}]"
            f" FROM ROWS FROM ({arrays}) AS u ({names})"
        )
        types = struct.pack(
            f"!H{keys.columns_count}I", keys.columns_count, *[_TEXT_ARRAY_OID] * keys.columns_count
        )
        columns = [_array(returned.found, number) for number in range(keys.columns_count)]
        parameters = struct.pack("!HHH", 1, 1, keys.columns_count) + b"".join(
            struct.pack("!i", len(column)) + column for column in columns
        )
        yield Prepared(text.encode(), types), parameters + b"\0\0"


def _array(found: list[Key], number: int) -> bytes:
    """Return one column of the keys as a text[] in binary form: no byte of it is looked at."""
    values = [key[number] for key in found]
    body = b"".join(_NULL if value is None else struct.pack("!i", len(value)) + value for value in values)
    return struct.pack("!iiIii", 1, 1, _TEXT_OID, len(values), 1) + body
