"""Bodies that the proxy reads and writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation, UpstreamRefused
from proxy.wire import messages
from proxy.wire.frames import Frame, FrameDecoder
from proxy.wire.messages import Parse

words = st.binary(max_size=20).map(lambda word: word.replace(b"\0", b""))
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def frame_of(message: bytes) -> Frame:
    (frame,) = FrameDecoder().feed(message)
    return frame


@given(words, words, st.binary(max_size=12), words)
def test_a_parse_is_read_and_sent_on_under_another_name(
    name: bytes, query: bytes, oids: bytes, other: bytes
) -> None:
    sent = frame_of(Parse(name, query, oids).encode_as(name))
    assert sent.code == ord("P")
    parse = messages.read_parse(sent.body)
    assert parse == (name, query, oids)
    assert messages.read_parse(frame_of(parse.encode_as(other)).body) == (other, query, oids)


@given(words, words, st.binary(max_size=30))
def test_a_bind_is_read_up_to_its_values(portal: bytes, statement: bytes, rest: bytes) -> None:
    frame = frame_of(messages.bind(portal, statement, rest))
    read_portal, read_statement, at = messages.read_bind(frame.body)
    assert (frame.code, read_portal, read_statement, frame.body[at:]) == (ord("B"), portal, statement, rest)


@given(words)
def test_describe_and_close_say_what_and_which(name: bytes) -> None:
    for message, code, kind in (
        (messages.describe_statement(name), "D", "S"),
        (messages.describe_portal(name), "D", "P"),
        (messages.close_statement(name), "C", "S"),
    ):
        frame = frame_of(message)
        assert (frame.code, messages.read_target(frame.body)) == (ord(code), (ord(kind), name))


@pytest.mark.parametrize("body", [b"", b"Xname\0", b"Sname"])
def test_a_target_that_is_neither_statement_nor_portal_ends_the_connection(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.read_target(body)


@pytest.mark.parametrize("body", [b"", b"name", b"name\0query"])
def test_a_string_that_does_not_end_ends_the_connection(body: bytes) -> None:
    for read in (messages.read_parse, messages.read_bind, messages.read_parameter_status):
        with pytest.raises(ProtocolViolation, match="not terminated"):
            read(body)


def test_the_short_messages_are_what_the_protocol_says() -> None:
    assert messages.execute(b"p") == b"E\0\0\0\x0ap\0\0\0\0\0"
    assert messages.query(b"SELECT 1") == b"Q\0\0\0\x0dSELECT 1\0"
    assert messages.ready(ord("T")) == b"Z\0\0\0\5T"
    assert messages.AUTHENTICATION_OK == b"R\0\0\0\x08\0\0\0\0"
    assert messages.TERMINATE == b"X\0\0\0\4"


@given(texts, texts)
def test_a_parameter_is_read_as_it_was_written(name: str, value: str) -> None:
    frame = frame_of(messages.parameter_status(name, value))
    assert (frame.code, messages.read_parameter_status(frame.body)) == (ord("S"), (name, value))


@given(st.dictionaries(st.sampled_from("SVCMDHPW"), texts.filter(bool)))
def test_an_error_is_read_as_it_was_written(fields: dict[str, str]) -> None:
    frame = frame_of(messages.error(fields))
    assert frame.code == ord("E")
    assert messages.read_error(frame.body) == fields
    assert messages.sqlstate(frame.body) == fields.get("C", "")


def test_the_sqlstate_is_a_field_and_not_a_letter_of_another() -> None:
    assert messages.sqlstate(b"SERROR\0MC42P01 is not it\0C57014\0\0") == "57014"
    assert messages.sqlstate(b"") == ""
    assert messages.sqlstate(b"no end") == ""
    assert messages.sqlstate(b"Sno end\0Cno end") == "no end"


def test_an_error_of_ours_tells_the_driver_what_to_do() -> None:
    fields = messages.read_error(frame_of(messages.error_of(UpstreamRefused("gone", hint="wait"))).body)
    assert fields == {"S": "FATAL", "V": "FATAL", "C": "08001", "M": "gone", "H": "wait"}
    assert "H" not in messages.read_error(frame_of(messages.error_of(UpstreamRefused("gone"))).body)


@pytest.mark.parametrize(
    ("tag", "wanted", "seen"),
    [
        (b"INSERT 0 3\0", "UPDATE", b"UPDATE 3\0"),
        (b"INSERT 0 3\0", "INSERT", b"INSERT 0 3\0"),
        (b"SELECT 12\0", "INSERT", b"INSERT 0 12\0"),
        (b"SELECT 0\0", "DELETE", b"DELETE 0\0"),
    ],
)
def test_a_captured_write_gets_its_own_tag_and_the_count_of_its_rows(
    tag: bytes, wanted: str, seen: bytes
) -> None:
    assert frame_of(messages.retag(tag, wanted)) == Frame(ord("C"), seen)


@given(st.lists(st.none() | texts, max_size=6))
def test_a_row_is_read_value_by_value(values: list[str | None]) -> None:
    body = len(values).to_bytes(2, "big")
    for value in values:
        data = (value or "").encode()
        body += (len(data) if value is not None else -1).to_bytes(4, "big", signed=True) + data
    assert messages.read_data_row(body) == values
    assert messages.columns_count(body) == len(values)


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\1", b"\0\1id", b"\0\1id\0" + bytes(17), b"\0\2id\0" + bytes(18)]
)
def test_half_a_row_description_is_no_message(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.columns(body)


@pytest.mark.parametrize("severity", ["ERROR", "FATAL", "PANIC"])
def test_an_error_that_ends_the_connection_is_told_by_its_severity_in_english(severity: str) -> None:
    body = frame_of(messages.error({"S": "SCHWERWIEGEND", "V": severity, "C": "57P01", "M": "VFATAL"})).body
    assert messages.is_fatal(body) == (severity != "ERROR")
