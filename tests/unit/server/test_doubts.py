"""Which Binds are asked about before they are sent, and which are refused."""

from __future__ import annotations

import pytest

from proxy.errors import ResultChanged
from proxy.server.doubts import doubt, question, settle
from proxy.server.extended import Batch, Extended
from proxy.server.forms import Forms
from proxy.session.statements import NO_COLUMNS, NO_TYPES, Prepared, ServerStatements, next_serial
from proxy.wire import messages
from tests.unit.server.sample import PATH, SYNC, bind, frames, make_judge, parse

TEXT = "SELECT * FROM a"
ON_SERVER = Prepared(TEXT.encode(), NO_TYPES, PATH)
TOLD, OTHER = 7, 8
BIND = (bind(b"s"), messages.execute(), SYNC)


def session(columns: int | None) -> tuple[Extended, ServerStatements]:
    """Return a session that has a statement, whose columns it was told, and a server that has it too."""
    extended, server = Extended(), ServerStatements(bytes_max=10_000)
    extended.read(frames(parse(b"s", TEXT), SYNC))
    own = extended.statements.get(b"s")
    assert own is not None
    own.columns = columns
    server.add(ON_SERVER)
    return extended, server


def is_doubted(batch: Batch, server: ServerStatements, since: int = 0) -> bool:
    form_of = Forms(make_judge(captures=False)).prepared(PATH)
    return doubt(batch, form_of, server, since) is not None


@pytest.mark.parametrize(
    ("told", "has", "expected"),
    [
        (TOLD, TOLD, False),
        (TOLD, OTHER, True),
        (TOLD, None, True),  # another session had it parsed there
        (None, OTHER, False),
        (NO_COLUMNS, None, False),  # no rows now, no rows ever
    ],
)
def test_a_bind_is_doubted_where_the_server_does_not_have_what_the_client_was_told(
    told: int | None, has: int | None, expected: bool
) -> None:
    extended, server = session(told)
    parsed = server.parsed(ON_SERVER)
    assert parsed is not None
    parsed.columns = has
    assert is_doubted(extended.read(frames(*BIND)), server) is expected


def test_a_bind_is_doubted_on_a_server_that_lacks_the_statement_or_has_it_from_before() -> None:
    extended, server = session(TOLD)
    batch = extended.read(frames(*BIND))
    assert is_doubted(batch, ServerStatements(bytes_max=10_000))
    parsed = server.parsed(ON_SERVER)
    assert parsed is not None
    parsed.columns = TOLD
    assert not is_doubted(batch, server)
    assert is_doubted(batch, server, since=next_serial())


@pytest.mark.parametrize(
    "sent",
    [
        (bind(b"s"), messages.describe_portal(), messages.execute(), SYNC),  # to be told again
        (messages.execute(b"open"), SYNC),
        (bind(b"nowhere"), *BIND),  # fails before
    ],
)
def test_what_is_told_again_or_not_reached_is_not_doubted(sent: tuple[bytes, ...]) -> None:
    extended, server = session(TOLD)
    extended.read(frames(bind(b"s", portal=b"open"), SYNC))
    assert not is_doubted(extended.read(frames(*sent)), server)


def test_the_question_parses_anew_and_the_answer_decides() -> None:
    extended, server = session(TOLD)
    batch = extended.read(frames(parse(b"t", "SELECT 1"), bind(b"t"), messages.execute(), *BIND))
    found = doubt(batch, Forms(make_judge(captures=False)).prepared(PATH), server, 0)
    assert found is not None and batch.frames[found.at].encode() == bind(b"s")
    assert [chr(frame.code) for frame in frames(question(found, server))] == ["C", "P", "D", "S"]
    settle(batch, found, TOLD)
    assert batch.error is None
    settle(batch, found, OTHER)
    assert batch.error is not None and batch.error[0] == found.at
    assert isinstance(batch.error[1], ResultChanged)
    told = messages.read_error(messages.error_of(batch.error[1])[5:])
    assert (told["C"], told["R"]) == ("0A000", "RevalidateCachedQuery")  # pgjdbc looks at both
    assert not is_doubted(batch, server)
