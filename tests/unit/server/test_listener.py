"""Logging in to the proxy: whoever may gets a session, and everybody else an answer and no socket."""

from __future__ import annotations

import weakref

import pytest
from scramp import ScramClient

from proxy.config.serving import Limits
from proxy.errors import TookTooLong
from proxy.wire import messages, startup
from proxy.wire.frames import Frame, encode
from tests.unit.server.sample import frames
from tests.unit.server.talk import CONFIGURATION, Proxy, Talker
from tests.unit.upstream.sample import settled
from tests.unit.wire.sample import READY, complete

HELLO = {"user": "app", "database": "app"}


def error_of(talker: Talker) -> dict[str, str]:
    """Return the error that the client got last; it must be the end."""
    assert talker.transport.is_closed
    error = talker.seen_frames()[-1]
    assert error.code == ord("E")
    return messages.read_error(error.body)


async def test_a_trusted_user_is_told_what_the_servers_tell() -> None:
    proxy = Proxy()
    talker = Talker(proxy)
    await talker.send(startup.packet({**HELLO, "application_name": "test"}))
    *told, key, ready = talker.seen_frames()
    assert told == frames(
        messages.AUTHENTICATION_OK,
        messages.parameter_status("server_version", "16.1"),
        messages.parameter_status("application_name", "test"),
    )
    assert (chr(key.code), len(key.body), ready) == ("K", 8, Frame(ord("Z"), b"I"))
    assert talker.connection.session in proxy.database.sessions


async def test_a_login_may_arrive_byte_by_byte_after_asking_for_encryption() -> None:
    talker = Talker(Proxy())
    for request in (startup.Request.GSSENC, startup.Request.SSL):
        await talker.send(startup.request(request))
        assert talker.seen() == b"N"
    for byte in startup.packet(HELLO):
        await talker.send(bytes((byte,)))
    assert talker.seen_frames()[-1] == Frame(ord("Z"), b"I")


async def test_bytes_behind_a_request_for_encryption_are_refused() -> None:
    """Whoever sits in between could have put them there; see CVE-2021-23214."""
    talker = Talker(Proxy())
    await talker.send(startup.request(startup.Request.SSL), startup.packet(HELLO))
    assert error_of(talker)["C"] == "08P01"


async def prove(talker: Talker, user: str, password: str) -> None:
    """Log in with SCRAM, as far as it goes."""
    await talker.send(startup.packet({"user": user, "database": "app"}))
    await answer_challenge(talker, user, password)


async def answer_challenge(talker: Talker, user: str, password: str) -> None:
    client = ScramClient(["SCRAM-SHA-256"], user, password)
    first = client.get_client_first().encode()
    assert talker.seen_frames()[0].body == b"\0\0\0\x0aSCRAM-SHA-256\0\0"
    await talker.send(encode(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
    client.set_server_first(talker.seen_frames()[0].body[4:].decode())
    await talker.send(encode(b"p", client.get_client_final().encode()))


async def test_the_right_password_opens_and_is_derived_once() -> None:
    proxy = Proxy()
    for _ in range(2):
        talker = Talker(proxy)
        await prove(talker, "guarded", "secret")
        assert [chr(frame.code) for frame in talker.seen_frames()][:2] == ["R", "R"]
        assert talker.connection.session is not None
    assert len(proxy.service.verifiers) == 1


@pytest.mark.parametrize("user", ["guarded", "unheard of"])
async def test_a_wrong_password_and_an_unknown_user_fail_alike(user: str) -> None:
    proxy = Proxy()
    for _ in range(3):
        talker = Talker(proxy)
        await prove(talker, user, "wrong")
        error = error_of(talker)
        assert (error["S"], error["C"]) == ("FATAL", "28P01")
        assert error["M"] == f'password authentication failed for user "{user}"'
        assert talker.connection.session is None
    assert len(proxy.service.verifiers) <= 1  # names that strangers try are not remembered


async def test_an_unknown_database_is_named() -> None:
    talker = Talker(Proxy())
    await talker.send(startup.packet({"user": "app", "database": "elsewhere"}))
    assert error_of(talker)["M"] == 'database "elsewhere" does not exist'


async def test_replication_is_refused_unless_none_is_wanted() -> None:
    """So no server ever answers with CopyBothResponse."""
    codes = []
    for wanted in ("database", "true", "1", "false"):
        talker = Talker(Proxy())
        await talker.send(startup.packet({"user": "app", "database": "elsewhere", "replication": wanted}))
        codes.append(error_of(talker)["C"])
    assert codes == ["0A000", "0A000", "0A000", "3D000"]


async def test_a_database_that_leaves_while_a_client_logs_in_gets_no_session() -> None:
    """It is drained by then, or even closed: nobody would end the session."""
    proxy = Proxy()
    talker = Talker(proxy)
    await talker.send(startup.packet({"user": "guarded", "database": "app"}))
    del proxy.service.databases["app"]
    await answer_challenge(talker, "guarded", "secret")
    assert error_of(talker)["C"] == "3D000"
    assert not proxy.database.sessions


async def test_the_database_is_the_users_name_where_none_is_said() -> None:
    talker = Talker(Proxy())
    await talker.send(startup.packet({"user": "app"}))
    assert talker.seen_frames()[-1] == Frame(ord("Z"), b"I")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(8),
        b"\x40\0\0\0" + bytes(4),
        b"\0\0\0\x08\0\x02\0\0",
        b"\0\0\0\x0b\0\3\0\0xyz",
    ],
)
async def test_garbage_is_answered_with_an_error_and_the_end(garbage: bytes) -> None:
    proxy = Proxy()
    talker = Talker(proxy)
    await talker.send(garbage)
    assert error_of(talker)["C"] == "08P01"
    await talker.leave()
    assert not proxy.service.clients


async def test_more_bytes_than_a_login_can_have_are_not_kept() -> None:
    talker = Talker(Proxy())
    await talker.send(b"\0\0\x27\x10", bytes(30_000))
    assert error_of(talker)["M"] == "too many bytes before the login"


@pytest.mark.parametrize(
    "message", [messages.query(b"SELECT 1"), encode(b"p", b"SCRAM-SHA-1\0"), encode(b"p"), b"p\0\1\0\0"]
)
async def test_anything_but_a_proof_in_its_place_ends_the_login(message: bytes) -> None:
    talker = Talker(Proxy())
    await talker.send(startup.packet({"user": "guarded", "database": "app"}))
    await talker.send(message, bytes(70_000))
    assert error_of(talker)["C"] in ("08P01", "28P01")


async def test_a_client_that_says_nothing_is_not_waited_for_for_ever() -> None:
    proxy = Proxy(Limits(login_timeout=0.001))
    talker = Talker(proxy)
    while not talker.transport.is_closed:
        await settled()
    assert error_of(talker)["M"] == "login took too long"


async def test_one_client_too_many_is_told_so_and_the_others_stay() -> None:
    proxy = Proxy(Limits(max_clients=1))
    first = await proxy.connect()
    second = Talker(proxy)
    await second.send(startup.packet(HELLO))
    assert error_of(second)["C"] == "53300"
    await second.leave()
    assert not first.transport.is_closed
    await first.leave()
    await proxy.connect()


async def test_a_newer_protocol_is_negotiated_down() -> None:
    talker = Talker(Proxy())
    packet = bytearray(startup.packet({**HELLO, "_pq_.x": "1"}))
    packet[7] = 2  # 3.2
    await talker.send(bytes(packet))
    first, *_, ready = talker.seen_frames()
    assert (chr(first.code), ready) == ("v", Frame(ord("Z"), b"I"))


async def test_a_cancel_finds_its_session_here_or_is_passed_on() -> None:
    proxy = Proxy()
    talker = await proxy.connect()
    await talker.send(messages.query(b"SELECT 1"))
    for key in (talker.connection._cancel_key, b"of another worker"):
        canceller = Talker(proxy)
        await canceller.send(startup.request(startup.Request.CANCEL, key))
        assert canceller.transport.is_closed and canceller.seen() == b""
        await canceller.leave()
    assert proxy.database.cancels.told == [proxy.server.connection]
    assert proxy.forwarded == [b"of another worker"]


async def test_a_client_that_goes_away_while_logging_in_leaves_nothing() -> None:
    proxy = Proxy()
    talker = Talker(proxy)
    await talker.send(startup.packet({"user": "guarded", "database": "app"}))
    await talker.leave()
    assert not proxy.service.clients and not proxy.database.sessions


async def test_a_client_that_has_left_cannot_be_cancelled_or_written_to() -> None:
    proxy = Proxy()
    talker = await proxy.connect()
    key = talker.connection._cancel_key
    await talker.leave()
    assert not proxy.service.cancel_keys.cancel(key)
    assert not proxy.service.clients and not proxy.database.sessions
    talker.connection.write(b"too late")


async def test_a_message_larger_than_the_limit_ends_the_connection() -> None:
    proxy = Proxy(Limits(message_bytes_max=1000))
    talker = await proxy.connect()
    await talker.send(b"Q" + (1001).to_bytes(4, "big"))
    error = error_of(talker)
    assert (error["C"], "1000 bytes" in error["H"]) == ("08P01", True)


async def test_reading_goes_on_when_the_last_reason_against_it_is_gone() -> None:
    talker = await Proxy().connect()
    for reason in ("one", "two"):
        talker.connection.pause_reading(reason)
    talker.connection.resume_reading("one")
    assert talker.transport.is_paused
    talker.connection.resume_reading("two")
    assert not talker.transport.is_paused


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    pool:", "    max_clients: 1\n    pool:", 'of database "app"'),
        ("auth: trust}", "auth: trust, max_clients: 1}", 'of user "app"'),
    ],
)
async def test_a_database_and_a_user_have_limits_of_their_own(old: str, new: str, said: str) -> None:
    proxy = Proxy(text=CONFIGURATION.replace(old, new))
    first = await proxy.connect()
    second = Talker(proxy)
    await second.send(startup.packet(HELLO))
    error = error_of(second)
    assert (error["C"], said in error["M"]) == ("53300", True)
    await first.leave()
    await proxy.connect()


async def test_a_client_that_is_ended_for_its_slowness_is_told_and_its_statement_is_cancelled() -> None:
    proxy = Proxy()
    talker = await proxy.connect()
    assert talker.connection.doing() == (True, ord("I"))
    await talker.send(messages.query(b"SELECT 1"))
    assert talker.connection.doing()[0] is False and talker.connection.was_heard
    talker.connection.end(TookTooLong("too long", "57014"))
    await settled()
    assert error_of(talker)["C"] == "57014"
    assert proxy.database.cancels.told == [proxy.server.connection]


async def test_a_drain_lets_those_ask_who_have_just_come() -> None:
    coming, asking, silent = Talker(proxy := Proxy()), Talker(proxy), Talker(proxy)
    for talker in (asking, silent):
        await talker.send(startup.packet(HELLO))
        talker.seen()
    await asking.send(b"Q")  # a message begins
    for talker in (coming, asking, silent):
        talker.connection.drain("the proxy shuts down", lets_ask=True)
    assert error_of(asking)["C"] == "57P01"
    assert not (coming.transport.is_closed or silent.transport.is_closed)
    for talker in (coming, silent):
        talker.connection.drain("the proxy shuts down", lets_ask=False)
    assert error_of(silent)["C"] == "57P01"
    assert coming.transport.is_closed


async def test_an_idle_client_holds_nothing_of_its_login() -> None:
    talker = Talker(Proxy())
    login = weakref.ref(talker.connection._login)
    await talker.send(startup.packet(HELLO))
    assert talker.connection.session is not None
    assert login() is None, "kept for as long as the client stays"


async def test_a_message_that_begins_with_the_login_goes_on_after_it() -> None:
    proxy = Proxy()
    talker, request = Talker(proxy), messages.query(b"SELECT 1")
    await talker.send(startup.packet(HELLO) + request + request[:3])
    await talker.send(request[3:])
    proxy.server.answer(complete("SELECT 1"), READY)
    await settled()
    assert proxy.server.received() == frames(request, request)
