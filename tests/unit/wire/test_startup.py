"""The packets before authentication: incomplete, whole, special, or impossible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.wire import startup
from proxy.wire.frames import FrameDecoder
from proxy.wire.startup import PROTOCOL_3_0, STARTUP_LENGTH_MAX, Request, Startup

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = texts.filter(bool)


def raw(code: int, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big") + body


@given(st.dictionaries(names, texts, max_size=6), st.binary(max_size=30))
def test_what_is_written_is_read_and_what_lies_behind_stays(
    parameters: dict[str, str], behind: bytes
) -> None:
    packet = startup.packet(parameters)
    assert startup.read(packet + behind) == (Startup(PROTOCOL_3_0, parameters), len(packet))


@given(st.dictionaries(names, texts, max_size=3))
def test_a_packet_that_is_not_whole_is_waited_for(parameters: dict[str, str]) -> None:
    packet = startup.packet(parameters)
    for size in range(len(packet)):
        assert startup.read(bytearray(packet[:size])) == (None, 0)


@pytest.mark.parametrize("code", [Request.SSL, Request.GSSENC])
def test_requests_for_encryption_have_no_parameters(code: Request) -> None:
    assert startup.read(startup.request(code)) == (Startup(code, {}), 8)


@pytest.mark.parametrize("key", [startup.cancel_key(7, b"\xde\xad\xbe\xef"), bytes(36)])
def test_a_cancel_carries_its_key_whatever_its_length(key: bytes) -> None:
    packet = startup.request(Request.CANCEL, key)
    assert startup.read(packet) == (Startup(Request.CANCEL, {}, key), len(packet))


@pytest.mark.parametrize("length", [0, 7, STARTUP_LENGTH_MAX + 1, 1 << 30, 0xFFFF_FFFF])
def test_an_impossible_length_is_refused_before_the_packet_arrives(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        startup.read(length.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("code", "version"), [(2 << 16, "2.0"), (4 << 16 | 1, "4.1"), (0x47455420, "18245.21536")]
)
def test_another_protocol_is_refused_by_its_number(code: int, version: str) -> None:
    """The last one is "GET ": a browser."""
    with pytest.raises(ProtocolViolation, match=f"unsupported frontend protocol {version}") as caught:
        startup.read(raw(code, b""))
    assert caught.value.hint == "the proxy speaks 3.0 and 3.2"


@pytest.mark.parametrize(
    "body", [b"", b"user\0", b"user\0app\0", b"user\0app\0\0x", b"user\0\0", b"\0app\0\0"]
)
def test_parameters_that_do_not_end_as_they_must_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="expected terminator as last byte"):
        startup.read(raw(PROTOCOL_3_0, body))


def test_a_name_that_is_not_utf8_does_not_end_the_proxy() -> None:
    packet, _ = startup.read(raw(PROTOCOL_3_0, b"user\0\xff\0\0"))
    assert packet is not None and packet.parameters == {"user": "\ufffd"}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_packet_or_a_violation(data: bytes) -> None:
    try:
        packet, size = startup.read(data)
    except ProtocolViolation:
        return
    assert (packet is None) == (size == 0) and size <= len(data)


@pytest.mark.parametrize(
    ("minor", "parameters", "told"),
    [
        (0, {}, None),
        (1, {}, None),
        (2, {}, None),
        (3, {}, (2, [])),
        (9999, {}, (2, [])),
        (0, {"_pq_.x": "1", "user": "a"}, (0, ["_pq_.x"])),
        (3, {"_pq_.x": "1", "_pq_.y": "", "user": "a"}, (2, ["_pq_.x", "_pq_.y"])),
    ],
)
def test_a_newer_minor_version_or_an_option_is_negotiated_down(
    minor: int, parameters: dict[str, str], told: tuple[int, list[str]] | None
) -> None:
    packet = Startup(PROTOCOL_3_0 | minor, parameters)
    assert packet.needs_negotiation == (told is not None)
    if told is not None:
        (frame,) = FrameDecoder().feed(startup.negotiate(packet))
        version, unknown = told
        names = b"".join(name.encode() + b"\0" for name in unknown)
        head = (PROTOCOL_3_0 | version).to_bytes(4, "big") + len(unknown).to_bytes(4, "big")
        assert (frame.code, frame.body) == (ord("v"), head + names)


def test_only_the_newest_protocol_has_long_cancel_keys() -> None:
    assert [Startup(PROTOCOL_3_0 | minor, {}).secret_bytes for minor in (0, 1, 2, 7)] == [4, 4, 32, 32]
