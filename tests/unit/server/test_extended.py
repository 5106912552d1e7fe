"""Batches in the words of the server that runs them, and what names mean meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import ProtocolViolation
from proxy.server.extended import Batch, Extended, Sent
from proxy.server.forms import Forms
from proxy.server.translate import Form
from proxy.server.wording import Wording
from proxy.session.prepares import Prepares, Replay
from proxy.session.replies import Renamed, Transcript
from proxy.session.statements import NO_TYPES, Prepared, ServerStatements, columns_of, next_serial
from proxy.sql.classify import parse as parsed
from proxy.wire import messages
from proxy.wire.frames import Frame, encode
from tests.unit.server.sample import FLUSH, PATH, SYNC, bind, frames, judged, make_judge, parse, scanned
from tests.unit.wire.sample import READY, column, complete, description, failure

EXECUTE, DESCRIBE = messages.execute(), messages.describe_portal()
SELECT = Prepared(b"SELECT * FROM a", NO_TYPES)
WRITE = Prepared(b"DELETE FROM a", NO_TYPES)


def on_server(text: bytes) -> Prepared:
    """Return a statement as servers have it that get it as written."""
    return Prepared(text, NO_TYPES, PATH)


ON_SERVER = on_server(SELECT.query)


def close(name: bytes, kind: bytes = b"S") -> bytes:
    return encode(b"C", kind + name + b"\0")


class Talk:
    """One client's batches, and one server that they are translated for."""

    def __init__(self, forms: dict[Prepared, Sent] | None = None) -> None:
        self.extended = Extended()
        self.server = ServerStatements(bytes_max=100_000)
        self.prepares = Prepares()
        self.forms = forms
        self.transcript: Transcript | None = None
        self.since = 0  # when the schema changed last
        self.is_certain = True

    def send(self, *sent: bytes, has_failed: bool = False) -> list[Frame]:
        """Return what the server gets for a batch."""
        return frames(self.send_bytes(*sent, has_failed=has_failed))

    def send_bytes(self, *sent: bytes, has_failed: bool = False) -> bytes:
        batch = self.extended.read(frames(*sent))
        payload, self.transcript = self.wording(has_failed=has_failed).of(batch, None)
        return payload

    def wording(self, *, has_failed: bool = False) -> Wording:
        replay = Replay(self.prepares, self.server.held)
        opened = self.extended.opened
        return Wording(
            self.server,
            self.form_of,
            opened,
            replay,
            self.since,
            is_certain=self.is_certain,
            has_failed=has_failed,
        )

    def form_of(self, prepared: Prepared) -> Sent:
        if self.forms is not None and prepared in self.forms:
            return self.forms[prepared]
        return Forms(make_judge(captures=False)).prepared(PATH)(prepared)

    def seen(self, *answer: bytes) -> bytes:
        """Return what the client sees of an answer."""
        if self.transcript is None:
            return b"".join(answer)
        return self.transcript.feed(*scanned(*answer)).output

    def learn(self, answer: bytes) -> None:
        """Take an answer's consequences into account, as the session does."""
        assert self.transcript is not None
        for name in self.transcript.feed(*scanned(answer)).forgotten:
            self.server.forget(name)
        self.extended.undo(self.transcript.take_undone())


def captured(prepared: Prepared, form: Form) -> dict[Prepared, Sent]:
    """Return forms in which one statement is sent otherwise than as written."""
    spliced = Prepared(form.text.encode(), prepared.parameter_oids)
    return {prepared: Sent(judged(prepared.query.decode()), form, spliced, False, None, False)}


# Names.


def test_a_statement_is_parsed_once_under_the_name_of_its_identity() -> None:
    talk = Talk()
    sent = talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    assert sent == frames(parse(ON_SERVER.server_name, "SELECT * FROM a"), SYNC)
    assert talk.seen(messages.PARSE_COMPLETE, READY) == messages.PARSE_COMPLETE + READY
    talk.extended.forget_statements()
    assert talk.send(parse(b"other", "SELECT * FROM a"), SYNC) == frames(SYNC)
    assert talk.seen(READY) == messages.PARSE_COMPLETE + READY


def test_a_bind_names_the_statement_as_the_server_knows_it_and_brings_it_if_need_be() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    request = (bind(b"mine", rest=b"\0\0\0\0\0\1\0\1"), DESCRIBE, EXECUTE, SYNC)
    renamed = frames(bind(ON_SERVER.server_name, rest=b"\0\0\0\0\0\1\0\1"), DESCRIBE, EXECUTE, SYNC)
    assert talk.send(*request) == renamed

    talk.server = ServerStatements(bytes_max=1000)  # another server
    assert talk.send(*request) == [*frames(parse(ON_SERVER.server_name, "SELECT * FROM a")), *renamed]
    answer = messages.BIND_COMPLETE + messages.NO_DATA + complete("SELECT 0") + READY
    assert talk.seen(messages.PARSE_COMPLETE, answer) == answer


def test_a_describe_brings_the_statement_too() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    talk.server = ServerStatements(bytes_max=1000)
    assert talk.send(messages.describe_statement(b"mine"), SYNC) == frames(
        parse(ON_SERVER.server_name, "SELECT * FROM a"),
        messages.describe_statement(ON_SERVER.server_name),
        SYNC,
    )


def test_the_unnamed_statement_stays_unnamed_and_is_parsed_wherever_it_is_missing() -> None:
    talk = Talk()
    request = (bind(b""), EXECUTE, SYNC)
    assert talk.send(parse(b"", "SELECT * FROM a"), *request) == frames(
        parse(b"", "SELECT * FROM a"), *request
    )
    assert talk.send(*request) == frames(*request)
    talk.server.unnamed = Prepared(b"of another session", NO_TYPES)
    assert talk.send(*request) == frames(parse(b"", "SELECT * FROM a"), *request)
    answer = messages.BIND_COMPLETE + complete("SELECT 0") + READY
    assert talk.seen(messages.PARSE_COMPLETE, answer) == answer
    assert talk.server.unnamed == ON_SERVER


def test_closing_a_statement_leaves_it_to_other_sessions() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    assert talk.send(close(b"mine"), close(b"never there"), SYNC) == frames(SYNC)
    assert talk.seen(READY) == messages.CLOSE_COMPLETE * 2 + READY
    assert talk.server.has(ON_SERVER) and talk.extended.statements.get(b"mine") is None


def test_closing_a_portal_is_the_servers_affair() -> None:
    talk = Talk()
    talk.send(parse(b"", "SELECT * FROM a"), bind(b"", portal=b"p"), SYNC)
    assert talk.send(close(b"p", b"P"), SYNC) == frames(close(b"p", b"P"), SYNC)
    assert talk.extended.portals.get(b"p") is None and b"p" not in talk.extended.opened


@pytest.mark.parametrize("message", [bind(b"nowhere"), messages.describe_statement(b"nowhere")])
def test_a_name_that_stands_for_nothing_fails_on_the_server_too(message: bytes) -> None:
    """So that its transaction fails, and what follows is skipped; but the client's own name is told."""
    talk = Talk()
    sent = talk.send(parse(b"", "SELECT * FROM a"), message, EXECUTE, SYNC)
    assert [chr(frame.code) for frame in sent] == ["P", "B", "S"]
    output = talk.seen(messages.PARSE_COMPLETE, failure("26000", M="crossfade: no such"), READY)
    parsed, error, ready = frames(output)
    assert messages.read_error(error.body)["M"] == 'prepared statement "nowhere" does not exist'
    assert parsed.encode() + ready.encode() == messages.PARSE_COMPLETE + READY


def test_a_name_that_is_taken_is_refused_as_postgresql_would() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    looked_at, *_ = talk.send(parse(b"mine", "SELECT 2"), SYNC)
    assert looked_at.encode() == parse(b"", "SELECT 2")  # its own errors come first
    error, _ = frames(talk.seen(messages.PARSE_COMPLETE, failure("26000"), READY))
    assert messages.sqlstate(error.body) == "42P05"
    talk.send_bytes(parse(b"mine", "SELEC"), SYNC)
    wrong = failure("42601", P="1")
    assert talk.seen(wrong, READY) == wrong + READY
    assert talk.extended.statements.get(b"mine") == SELECT


def test_what_was_parsed_before_the_schema_changed_is_closed_and_parsed_anew() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    talk.since = next_serial()
    named, again = ON_SERVER.server_name, parse(ON_SERVER.server_name, "SELECT * FROM a")
    assert talk.send(bind(b"mine"), EXECUTE, SYNC) == frames(close(named), again, bind(named), EXECUTE, SYNC)
    assert talk.send(bind(b"mine"), EXECUTE, SYNC) == frames(bind(named), EXECUTE, SYNC)
    talk.since = next_serial()
    assert talk.send(parse(b"other", "SELECT * FROM a"), SYNC) == frames(close(named), again, SYNC)


def test_whether_a_close_was_skipped_with_the_parse_behind_it_is_not_guessed() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    talk.since = next_serial()
    talk.send(bind(b"nowhere"), SYNC)
    talk.send(parse(b"", "SELECT 1 / 0"), bind(b""), EXECUTE, bind(b"mine"), EXECUTE, SYNC)
    talk.learn(messages.PARSE_COMPLETE + messages.BIND_COMPLETE + failure("22012") + READY)
    sent = talk.send(bind(b"mine"), EXECUTE, SYNC)
    assert sent[0].encode() == close(ON_SERVER.server_name)


def test_behind_what_changes_names_a_parse_is_sent_and_does_not_outlive_the_transaction() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    talk.is_certain = False
    named, again = ON_SERVER.server_name, parse(ON_SERVER.server_name, "SELECT * FROM a")
    sent = talk.send(parse(b"other", "SELECT * FROM a"), bind(b"other"), SYNC)
    assert sent == frames(close(named), again, bind(named), SYNC)
    assert talk.server.evict() == [named]


def test_what_a_client_is_told_of_columns_is_noted_on_both_sides() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), messages.describe_statement(b"mine"), SYNC)
    body = description(column(b"id", 23, 1))
    talk.seen(messages.PARSE_COMPLETE, encode(b"t", b"\0\0"), encode(b"T", body), READY)
    own, parsed = talk.extended.statements.get(b"mine"), talk.server.parsed(ON_SERVER)
    assert own is not None and parsed is not None
    assert own.columns == parsed.columns == columns_of(body)
    assert talk.server.suits(ON_SERVER, 0, own.columns)
    assert not talk.server.suits(ON_SERVER, 0, columns_of(description(column(b"other", 23, 1))))


def test_an_error_calls_a_statement_as_its_client_does() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT 1"), parse(b"also", "SELECT 1"), SYNC)
    for name in ("mine", "also"):
        talk.send(bind(name.encode()), EXECUTE, SYNC)
        server_name = on_server(b"SELECT 1").server_name.decode()
        refusal = failure("08P01", M=f'prepared statement "{server_name}" requires 0')
        assert (
            talk.seen(refusal, READY) == failure("08P01", M=f'prepared statement "{name}" requires 0') + READY
        )


def test_an_unnamed_parse_that_fails_leaves_no_unnamed_statement() -> None:
    talk = Talk()
    talk.send(parse(b"", "SELECT 1"), SYNC)
    talk.send(parse(b"", "SELEC"), SYNC)
    talk.learn(failure("42601") + READY)
    assert talk.extended.statements.get(b"") is None


def test_what_fails_or_is_skipped_gives_names_back() -> None:
    talk = Talk()
    talk.send(parse(b"a", "SELECT * FROM a"), SYNC)
    talk.send(
        close(b"a"),
        parse(b"ok", "SELECT 1"),
        parse(b"bad", "SELEC"),
        parse(b"late", "SELECT 3"),
        close(b"ok"),
        SYNC,
    )
    talk.learn(messages.PARSE_COMPLETE + failure("42601") + READY)
    names = talk.extended.statements
    assert names.get(b"a") is None  # closed before the error
    assert names.get(b"ok") == Prepared(b"SELECT 1", NO_TYPES)
    assert names.get(b"bad") is names.get(b"late") is None
    assert [talk.server.has(on_server(text)) for text in (b"SELECT 1", b"SELEC", b"SELECT 3")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "message",
    [encode(b"E", b"p"), encode(b"B", b"p\0s"), encode(b"P", b"s"), encode(b"D", b"X\0"), encode(b"C")],
)
def test_a_malformed_message_ends_the_connection(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Extended().read(frames(message, SYNC))


def test_portals_end_with_the_transaction() -> None:
    talk = Talk()
    talk.send(parse(b"", "SELECT * FROM a"), bind(b"", portal=b"p"), SYNC)
    assert talk.extended.portals.get(b"p") and b"p" in talk.extended.opened
    talk.extended.transaction_ended()
    assert talk.extended.portals.get(b"p") is None and not talk.extended.opened


# What a batch is about.


def test_a_batch_is_about_the_statements_it_uses() -> None:
    talk = Talk()
    talk.send(parse(b"mine", "SELECT * FROM a"), SYNC)
    batch = talk.extended.read(frames(parse(b"", "DELETE FROM a"), bind(b"mine"), EXECUTE, SYNC))
    assert batch.used == {SELECT, WRITE} and batch.has_sync and not batch.only_parses
    assert [each is not None for each in batch.prepared] == [True, True, True, False]


@pytest.mark.parametrize(
    ("sent", "only_parses"),
    [
        ([parse(b"a", "SELECT 1"), SYNC], True),
        ([parse(b"a", "SELECT 1"), parse(b"b", "SELECT 2"), SYNC], True),
        ([parse(b"a", "SELECT 1"), FLUSH], False),
        ([parse(b"a", "SELECT 1"), messages.describe_statement(b"a"), SYNC], False),
        ([parse(b"a", "SELECT 1"), parse(b"a", "SELECT 2"), SYNC], False),
        ([SYNC], False),
    ],
)
def test_only_parses_need_no_server(sent: list[bytes], only_parses: bool) -> None:
    assert Extended().read(frames(*sent)).only_parses == only_parses


def test_a_batch_without_sync_is_a_part_whose_rest_continues_its_transcript() -> None:
    talk = Talk()
    sent = talk.send(parse(b"a", "SELECT * FROM a"), messages.describe_statement(b"a"), FLUSH)
    assert sent[-1] == frames(FLUSH)[0]
    first = talk.transcript
    assert first is not None and len(first) == 2
    batch = talk.extended.read(frames(bind(b"a"), EXECUTE, SYNC))
    payload, same = talk.wording().of(batch, first)
    assert same is first and len(first) == 5
    assert payload == bind(ON_SERVER.server_name) + EXECUTE + SYNC


def test_in_a_failed_transaction_nothing_is_believed_to_be_parsed() -> None:
    talk = Talk()
    sent = talk.send(parse(b"a", "SELECT * FROM a"), SYNC, has_failed=True)
    assert sent == frames(parse(ON_SERVER.server_name, "SELECT * FROM a"), SYNC)
    assert not talk.server.has(ON_SERVER)
    for text in ("ROLLBACK", "ROLLBACK TO a", "PREPARE TRANSACTION 'a'", ""):
        assert talk.send(parse(text.encode() or b"empty", text), SYNC, has_failed=True)
        assert talk.server.has(on_server(text.encode()))


@pytest.mark.parametrize("text", ["ROLLBACK", "COMMIT", "ROLLBACK TO a"])
def test_behind_the_end_of_a_failed_transaction_a_parse_is_believed(text: str) -> None:
    talk = Talk()
    end = (parse(b"", text), bind(b""), EXECUTE)
    talk.send(*end, parse(b"a", "SELECT * FROM a"), SYNC, has_failed=True)
    assert talk.server.has(ON_SERVER)


def test_what_execute_needs_is_prepared_before_its_parse_and_neither_outlives_the_transaction() -> None:
    talk = Talk()
    text = "PREPARE p AS SELECT 1"
    made = replace(parsed(text)[0], source=text)
    talk.prepares.note(made, {})
    sent = talk.send(parse(b"a", "EXECUTE p"), bind(b"a"), EXECUTE, SYNC)
    assert [frame.code for frame in sent] == list(b"PBECPBES")
    assert text.encode() in sent[0].body and b"EXECUTE p" in sent[4].body
    assert talk.transcript is not None
    hidden = (messages.PARSE_COMPLETE, messages.BIND_COMPLETE, complete("PREPARE"), messages.CLOSE_COMPLETE)
    progress = talk.transcript.feed(*scanned(*hidden))
    assert progress.output == b"" and [owed.statement for owed in progress.completed] == [made]
    names = [Prepared(text.encode(), NO_TYPES).server_name, on_server(b"EXECUTE p").server_name]
    assert talk.server.evict() == names and len(talk.server) == 0


# Statements that are sent otherwise than as written.


def test_a_captured_write_is_spliced_and_answers_with_its_own_tag() -> None:
    form = Form("WITH w AS (DELETE FROM a) INSERT", tag="DELETE", positions=lambda sent: sent - 11)
    talk = Talk(captured(WRITE, form))
    spliced = Prepared(form.text.encode(), NO_TYPES)
    sent = talk.send(parse(b"w", "DELETE FROM a"), bind(b"w"), EXECUTE, SYNC)
    assert sent == frames(parse(spliced.server_name, form.text), bind(spliced.server_name), EXECUTE, SYNC)
    answer = messages.PARSE_COMPLETE + messages.BIND_COMPLETE
    assert talk.seen(answer, complete("INSERT 0 2"), READY) == answer + complete("DELETE 2") + READY

    talk = Talk(captured(WRITE, form))
    talk.send(parse(b"w", "DELETE FROM a"), SYNC)
    error, _ = frames(talk.seen(failure("42P01", P="24"), READY))
    assert messages.read_error(error.body)["P"] == "13"


def test_a_described_write_has_the_columns_of_the_original() -> None:
    shape = description(column(b"id", 23))
    talk = Talk(captured(WRITE, Form("spliced", tag="DELETE", shape=shape)))
    for request in (messages.describe_statement(b"w"), bind(b"w") + DESCRIBE):
        talk.send(parse(b"w", "DELETE FROM a"), SYNC)
        talk.send(request, SYNC)
        bound = messages.BIND_COMPLETE if request[:1] == b"B" else b""
        output = talk.seen(bound, encode(b"T", description(column(b"k", 25, 1))), READY)
        assert output == bound + encode(b"T", description(column(b"id", 23, 1))) + READY
        talk.extended.forget_statements()


def test_a_watched_write_runs_between_hidden_statements_parsed_once() -> None:
    form = Form("DELETE FROM a", before=("SELECT 'before'",), after=("SELECT 'after'",))
    talk = Talk(captured(WRITE, form))
    before, after = (Prepared(b"SELECT '%b'" % word, NO_TYPES) for word in (b"before", b"after"))

    def hidden(prepared: Prepared) -> bytes:
        portal = b"crossfade"
        name = prepared.server_name
        return bind(name, portal=portal) + messages.execute(portal) + close(portal, b"P")

    talk.send(parse(b"w", "DELETE FROM a"), SYNC)
    request = (bind(b"w"), EXECUTE, SYNC)
    first, second = (talk.send(*request) for _ in range(2))
    bound = bind(WRITE.server_name)
    assert second == frames(bound, hidden(before), EXECUTE, hidden(after), SYNC)
    assert first == frames(
        bound,
        parse(before.server_name, "SELECT 'before'"), hidden(before),
        EXECUTE,
        parse(after.server_name, "SELECT 'after'"), hidden(after),
        SYNC,
    )  # fmt: skip
    unseen = messages.BIND_COMPLETE + complete("SELECT 1") + messages.CLOSE_COMPLETE
    answer = (messages.BIND_COMPLETE, unseen, complete("DELETE 3"), unseen, READY)
    assert talk.seen(*answer) == messages.BIND_COMPLETE + complete("DELETE 3") + READY


def test_a_portal_keeps_the_form_it_was_bound_in() -> None:
    """Describe and Execute may come in a later batch, when another form has been learned."""
    talk = Talk(captured(WRITE, Form("first", tag="DELETE")))
    talk.send(parse(b"w", "DELETE FROM a"), bind(b"w"), SYNC)
    talk.forms = captured(WRITE, Form("second"))
    talk.send(EXECUTE, SYNC)
    assert talk.seen(complete("INSERT 0 2"), READY) == complete("DELETE 2") + READY


# The fast lane's names.


class Source:
    """Forms of one generation after the other."""

    def __init__(self) -> None:
        self.generation = 0
        self.known = {SELECT}

    def is_sent(self, prepared: Prepared, search_path: tuple[str, ...]) -> bool:
        return prepared in self.known

    def prepared(self, search_path: tuple[str, ...], *, is_certain: bool = True) -> object:
        return lambda prepared: (self.generation, prepared)


def test_a_name_is_remembered_for_one_generation_of_forms_and_while_it_means_the_same() -> None:
    extended, source = Extended(), Source()
    assert extended.sent(b"a", source, PATH) is None
    extended.read(frames(parse(b"a", "SELECT * FROM a"), parse(b"w", "DELETE FROM a"), SYNC))
    assert extended.sent(b"a", source, PATH) == (SELECT, (0, SELECT))
    assert extended.sent(b"w", source, PATH) is None  # its form is not known yet
    source.known.clear()
    assert extended.sent(b"a", source, PATH) == (SELECT, (0, SELECT))
    source.known.add(SELECT)
    source.generation = 1
    assert extended.sent(b"a", source, PATH) == (SELECT, (1, SELECT))


@pytest.mark.parametrize("how", ["close", "forget", "deallocate", "undo"])
def test_a_name_that_is_gone_is_not_remembered(how: str) -> None:
    extended, source = Extended(), Source()
    extended.read(frames(parse(b"a", "SELECT * FROM a"), SYNC))
    extended.sent(b"a", source, PATH)
    if how == "close":
        extended.read(frames(close(b"a"), SYNC))
    elif how == "forget":
        extended.forget_statements()
    elif how == "deallocate":
        extended.forget_statement(b"a")
    else:
        extended.undo([Renamed(b"a", None)])
    assert extended.sent(b"a", source, PATH) is None


def test_an_empty_batch_is_about_nothing() -> None:
    batch = Extended().read(frames(SYNC))
    assert isinstance(batch, Batch) and not batch.used
