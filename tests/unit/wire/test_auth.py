"""What a server asks of us, and md5 from the other chair: nothing is given to whom it must not be."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism

from proxy.errors import AuthenticationFailed, UpstreamRefused
from proxy.wire.auth import Login, Md5Challenge, Proof, is_md5, is_verifier, md5_secret
from proxy.wire.frames import FrameDecoder
from proxy.wire.scram import ScramConversation, ScramKeys, ScramVerifier

MECHANISM = "SCRAM-SHA-256"
PASSWORD = "correct horse"
VERIFIER = ScramVerifier.of(PASSWORD)
HASH = b"the hash of the server's certificate"


def body_of(message: bytes, code: bytes = b"R") -> bytes:
    """Return the body of one whole message."""
    (frame,) = FrameDecoder().feed(message)
    assert frame.code == ord(code)
    return frame.body


def code(number: int, rest: bytes = b"") -> bytes:
    return number.to_bytes(4, "big") + rest


# The client's chair.


def test_nothing_is_sent_when_the_server_trusts_us() -> None:
    assert Login("app", None).answer(code(0)) == b""


@pytest.mark.parametrize("number", [3, 5, 10])
def test_a_server_that_wants_a_password_we_have_not_is_refused_with_a_hint(number: int) -> None:
    with pytest.raises(UpstreamRefused, match='a password of user "app"') as caught:
        Login("app", None).answer(code(number, b"SCRAM-SHA-256\0\0"))
    assert "password_env" in caught.value.hint


def test_clear_text_is_the_password_alone_and_only_where_nobody_listens() -> None:
    login = Login("app", "secret")
    with pytest.raises(UpstreamRefused, match="clear text over an unencrypted connection"):
        login.answer(code(3))
    login.private(None)
    assert body_of(login.answer(code(3)), b"p") == b"secret\0"


def test_md5_hashes_password_user_and_salt() -> None:
    """The value is what `md5(md5('secret' || 'app') || salt)` gives in PostgreSQL."""
    inner = hashlib.md5(b"secretapp").hexdigest().encode()
    expected = b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode() + b"\0"
    assert body_of(Login("app", "secret").answer(code(5, b"salt")), b"p") == expected


def test_an_md5_hash_opens_what_asks_for_md5() -> None:
    hashed = md5_secret("secret", "app")
    assert is_md5(hashed) and not is_md5("md5") and not is_verifier(hashed)
    with_hash = Login("app", None, Proof(md5=hashed)).answer(code(5, b"salt"))
    assert with_hash == Login("app", "secret").answer(code(5, b"salt"))


def agree(login: Login, conversation: ScramConversation) -> bytes:
    """Let both chairs of ours talk; return the mechanism."""
    first = body_of(login.answer(body_of(conversation.request())), b"p")
    final = login.answer(body_of(conversation.first(first)))
    assert login.answer(body_of(conversation.final(body_of(final, b"p")))) == b""
    assert login.answer(code(0)) == b""
    return first.partition(b"\0")[0]


def keys() -> ScramKeys:
    """Return the keys of a login with the password."""
    conversation = VERIFIER.conversation()
    agree(Login("app", PASSWORD), conversation)
    assert conversation.keys is not None
    return conversation.keys


@pytest.mark.parametrize("by_keys", [False, True])
def test_both_chairs_of_ours_agree(by_keys: bool) -> None:
    def login(*, binding: bytes | None = None, mode: str = "prefer") -> Login:
        found = Login("app", None if by_keys else PASSWORD, Proof(scram=keys()), channel_binding=mode)
        found.private(binding)
        return found

    assert agree(login(), VERIFIER.conversation()) == b"SCRAM-SHA-256"
    assert agree(login(binding=HASH), VERIFIER.conversation(HASH)) == b"SCRAM-SHA-256-PLUS"
    assert agree(login(binding=HASH), VERIFIER.conversation()) == b"SCRAM-SHA-256"
    assert agree(login(binding=HASH, mode="disable"), VERIFIER.conversation(HASH)) == b"SCRAM-SHA-256"
    assert agree(login(binding=HASH, mode="require"), VERIFIER.conversation(HASH)) == b"SCRAM-SHA-256-PLUS"


@pytest.mark.parametrize(
    "asked",
    [code(0), code(3), code(5, b"salt"), code(10, b"SCRAM-SHA-256\0\0")],
    ids=["ok", "clear", "md5", "scram"],
)
def test_binding_that_is_required_is_not_done_without(asked: bytes) -> None:
    login = Login("app", PASSWORD, channel_binding="require")
    login.private(HASH)
    with pytest.raises(UpstreamRefused, match="channel_binding=require"):
        login.answer(asked)


def test_a_server_that_breaks_off_before_it_has_proved_anything_is_not_believed() -> None:
    login = Login("app", PASSWORD)
    login.answer(code(10, b"SCRAM-SHA-256\0\0"))
    with pytest.raises(UpstreamRefused, match="without proving"):
        login.answer(code(0))


# The server's chair of md5.


def test_a_client_that_knows_the_password_answers_the_challenge_and_nobody_else_does() -> None:
    challenge = Md5Challenge(md5_secret(PASSWORD, "app"))
    asked = body_of(challenge.request())
    challenge.check(body_of(Login("app", PASSWORD).answer(asked), b"p"))
    for wrong in (body_of(Login("app", "wrong").answer(asked), b"p"), b"", b"md5\0"):
        with pytest.raises(AuthenticationFailed):
            challenge.check(wrong)
    assert len({body_of(Md5Challenge("").request()) for _ in range(20)}) > 10


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    """scramp's server with another password's keys: it could only pretend to have checked ours."""
    mechanism = ScramMechanism(MECHANISM)
    server = mechanism.make_server(lambda _: mechanism.make_auth_info("another"))
    login = Login("app", PASSWORD)
    first = body_of(login.answer(code(10, b"SCRAM-SHA-256\0\0")), b"p")
    server.set_client_first(first[len(MECHANISM) + 5 :].decode())
    login.answer(code(11, server.get_server_first().encode()))
    with pytest.raises(UpstreamRefused, match="SCRAM exchange"):
        login.answer(code(12, b"v=" + base64.b64encode(bytes(32))))


def test_a_mechanism_or_method_we_do_not_speak_is_named() -> None:
    with pytest.raises(UpstreamRefused, match="offers only SCRAM-SHA-256-PLUS"):
        Login("app", "x").answer(code(10, b"SCRAM-SHA-256-PLUS\0\0"))  # without TLS
    for number in (7, 9, 11, 12):
        with pytest.raises(UpstreamRefused, match=f"authentication method {number}"):
            Login("app", "x").answer(code(number))


@given(st.lists(st.builds(code, st.sampled_from([5, 10, 11, 12]), st.binary(max_size=40)), max_size=3))
def test_garbage_of_a_server_is_refused_and_nothing_else(bodies: list[bytes]) -> None:
    login = Login("app", PASSWORD)
    login.answer(code(10, b"SCRAM-SHA-256\0\0"))
    try:
        for body in bodies:
            login.answer(body)
    except UpstreamRefused:
        pass
