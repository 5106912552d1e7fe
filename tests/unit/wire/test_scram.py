"""SCRAM from both chairs: whoever knows the password gets in, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient

from proxy.errors import AuthenticationFailed, ProtocolViolation
from proxy.wire.frames import FrameDecoder
from proxy.wire.scram import PLUS, KeyClient, ScramConversation, ScramKeys, ScramVerifier

MECHANISM = "SCRAM-SHA-256"
PASSWORD = "correct horse"
VERIFIER = ScramVerifier.of(PASSWORD)
FAILED = "password authentication failed"


def body_of(message: bytes, code: bytes = b"R") -> bytes:
    """Return the body of one whole message."""
    (frame,) = FrameDecoder().feed(message)
    assert frame.code == ord(code)
    return frame.body


def initial(first: str, mechanism: str = MECHANISM) -> bytes:
    """Return the body of a SASLInitialResponse."""
    return mechanism.encode() + b"\0" + len(first).to_bytes(4, "big") + first.encode()


class Libpq:
    """The client's side as libpq has it: the user name in the SCRAM messages is empty."""

    def __init__(self, password: str, header: str = "n,,") -> None:
        self.password = password
        self.header = header
        self.bare = "n=,r=clientnonce"
        self.signature = b""

    def first(self) -> bytes:
        return initial(self.header + self.bare)

    def final(self, server_first: str, *, nonce: str = "", binding: str = "") -> bytes:
        """Return SASLResponse, by the formulas of RFC 5802, section 3."""
        sent = dict(part.split("=", 1) for part in server_first.split(","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password.encode(), base64.b64decode(sent["s"]), int(sent["i"])
        )
        binding = binding or base64.b64encode(self.header.encode()).decode()
        without_proof = f"c={binding},r={nonce or sent['r']}"
        message = f"{self.bare},{server_first},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()


def begun(conversation: ScramConversation, first: bytes) -> str:
    """Send the first message; return what the server says in its own first one."""
    body = body_of(conversation.first(first))
    assert body[:4] == b"\0\0\0\x0b"
    return body[4:].decode()


# The server's chair.


def test_the_request_offers_one_mechanism() -> None:
    assert body_of(VERIFIER.conversation().request()) == b"\0\0\0\x0aSCRAM-SHA-256\0\0"


@pytest.mark.parametrize("header", ["n,,", "y,,"])
def test_libpq_logs_in_although_it_sends_no_user_name(header: str) -> None:
    client, conversation = Libpq(PASSWORD, header), VERIFIER.conversation()
    body = body_of(conversation.final(client.final(begun(conversation, client.first()))))
    assert body == b"\0\0\0\x0cv=" + base64.b64encode(client.signature)


@settings(max_examples=10)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F, exclude_characters="\x7f"), min_size=1))
def test_scramps_client_logs_in_and_believes_the_server(password: str) -> None:
    try:
        verifier = ScramVerifier.of(password)
    except AuthenticationFailed:
        return  # SASLprep forbids it
    client, conversation = ScramClient([MECHANISM], "app", password), verifier.conversation()
    client.set_server_first(begun(conversation, initial(client.get_client_first())))
    client.set_server_final(body_of(conversation.final(client.get_client_final().encode()))[4:].decode())


def test_a_wrong_password_is_refused() -> None:
    client, conversation = Libpq("wrong"), VERIFIER.conversation()
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(client.final(begun(conversation, client.first())))


@given(st.integers(0, 31), st.integers(1, 255))
def test_a_proof_that_was_tampered_with_is_refused(position: int, mask: int) -> None:
    client, conversation = Libpq(PASSWORD), VERIFIER.conversation()
    sent, _, proof = client.final(begun(conversation, client.first())).rpartition(b",p=")
    bits = bytearray(base64.b64decode(proof))
    bits[position] ^= mask
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(sent + b",p=" + base64.b64encode(bits))


@pytest.mark.parametrize("proof", ["", "?", "é", "AAAA", "A" * 43 + "=" + "AAAA", "A" * 400])
def test_a_proof_that_is_none_is_refused(proof: str) -> None:
    client, conversation = Libpq(PASSWORD), VERIFIER.conversation()
    sent, _, _ = client.final(begun(conversation, client.first())).rpartition(b",p=")
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(sent + b",p=" + proof.encode())


def test_a_proof_with_something_behind_it_is_refused() -> None:
    client, conversation = Libpq(PASSWORD), VERIFIER.conversation()
    sent, _, proof = client.final(begun(conversation, client.first())).rpartition(b",p=")
    longer = base64.b64encode(base64.b64decode(proof) + b"x")
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(sent + b",p=" + longer)


@pytest.mark.parametrize("change", [{"nonce": "clientnonce"}, {"binding": "eSws"}])
def test_another_nonce_or_binding_is_refused_although_the_proof_covers_it(change: dict[str, str]) -> None:
    """A replayed message has another nonce; another binding flag is a downgrade on the way."""
    client, conversation = Libpq(PASSWORD), VERIFIER.conversation()
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(client.final(begun(conversation, client.first()), **change))


def test_every_login_has_a_nonce_of_its_own() -> None:
    assert len({begun(VERIFIER.conversation(), Libpq("").first()) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "body",
    [
        initial("n,,n=,r=x", "SCRAM-SHA-1"),
        initial("p=tls-server-end-point,,n=,r=x"),
        initial("n,a=other,n=,r=x"),
        initial("n,,m=extension,n=,r=x"),
        initial("n,,"),
        initial("n"),
        initial(""),
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        b"",
    ],
)
def test_a_first_message_we_cannot_serve_ends_the_connection(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        VERIFIER.conversation().first(body)


@given(st.binary(max_size=60) | st.text("nyp=,rcm", max_size=20).map(initial))
def test_garbage_in_place_of_any_message_is_an_error_of_ours(body: bytes) -> None:
    with pytest.raises((ProtocolViolation, AuthenticationFailed)):
        VERIFIER.conversation().final(VERIFIER.conversation().first(body))
    conversation = VERIFIER.conversation()
    begun(conversation, Libpq(PASSWORD).first())
    with pytest.raises(AuthenticationFailed):
        conversation.final(body)


def test_a_decoy_answers_like_a_user_and_lets_nobody_in() -> None:
    client, conversation = Libpq(""), ScramVerifier.decoy("nobody").conversation()
    server_first = begun(conversation, client.first())
    assert server_first.count(",") == 2 and server_first.endswith(f",i={VERIFIER.iterations_count}")
    with pytest.raises(AuthenticationFailed, match=FAILED):
        conversation.final(client.final(server_first))


def test_the_salt_of_a_decoy_tells_nothing() -> None:
    """It is the same for the same name, as a real user's is, and another for another."""
    salts = [ScramVerifier.decoy(user).salt for user in ("a", "a", "b", "\ud800")]
    assert salts[0] == salts[1] and len({*salts}) == 3
    assert {len(salt) for salt in salts} == {len(VERIFIER.salt)}


def test_a_password_that_scram_forbids_is_named_as_the_cause() -> None:
    with pytest.raises(AuthenticationFailed, match="the configured password cannot be used with SCRAM"):
        ScramVerifier.of("\0")


# Channel binding, and keys in the place of a password.

HASH = b"the hash of our certificate"


def keys_of(password: str, verifier: ScramVerifier = VERIFIER) -> ScramKeys:
    """Return what a client's login reveals."""
    conversation = verifier.conversation()
    client = Libpq(password)
    conversation.final(client.final(begun(conversation, client.first())))
    assert conversation.keys is not None
    return conversation.keys


def exchange(client: KeyClient, conversation: ScramConversation, mechanism: str) -> None:
    """Go through a whole login of ours with the other chair of ours."""
    client.set_server_first(begun(conversation, initial(client.get_client_first(), mechanism)))
    client.set_server_final(body_of(conversation.final(client.get_client_final().encode()))[4:].decode())


def test_with_a_certificate_the_binding_mechanism_is_offered_first() -> None:
    request = body_of(VERIFIER.conversation(HASH).request())
    assert request == b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"


def test_keys_of_a_login_open_a_server_with_the_same_verifier_alone() -> None:
    exchange(KeyClient(keys_of(PASSWORD), "n,,"), VERIFIER.conversation(), MECHANISM)
    other = ScramVerifier.of(PASSWORD)  # the same password, another salt
    with pytest.raises(AuthenticationFailed, match=FAILED):
        exchange(KeyClient(keys_of(PASSWORD), "n,,"), other.conversation(), MECHANISM)


def test_a_server_that_has_not_the_verifier_is_not_believed() -> None:
    keys = keys_of(PASSWORD)
    with pytest.raises(AuthenticationFailed, match="does not know the password"):
        exchange(KeyClient(ScramKeys(keys.client_key, bytes(32)), "n,,"), VERIFIER.conversation(), MECHANISM)
    with pytest.raises(AuthenticationFailed, match="malformed"):
        KeyClient(keys, "n,,").set_server_first("r=another nonce,s=AAAA,i=4096")


def test_a_bound_login_sees_another_certificate_in_between() -> None:
    keys, header = keys_of(PASSWORD), "p=tls-server-end-point,,"
    exchange(KeyClient(keys, header, HASH), VERIFIER.conversation(HASH), PLUS)
    with pytest.raises(AuthenticationFailed, match=FAILED):
        exchange(KeyClient(keys, header, b"of somebody else"), VERIFIER.conversation(HASH), PLUS)


@pytest.mark.parametrize(
    ("first", "mechanism", "binding", "said"),
    [
        ("y,,n=,r=x", MECHANISM, HASH, "the client saw no offer of it"),
        ("p=tls-unique,,n=,r=x", PLUS, HASH, "unsupported SCRAM channel-binding type"),
        ("n,,n=,r=x", PLUS, HASH, "unsupported SCRAM channel-binding type"),
        ("p=tls-server-end-point,,n=,r=x", PLUS, None, "invalid SASL"),
        ("p=tls-server-end-point,,n=,r=x", MECHANISM, HASH, "malformed"),
    ],
)
def test_an_offer_that_was_hidden_or_twisted_is_noticed(
    first: str, mechanism: str, binding: bytes | None, said: str
) -> None:
    with pytest.raises(ProtocolViolation, match=said):
        VERIFIER.conversation(binding).first(initial(first, mechanism))


def test_a_verifier_is_read_as_postgresql_writes_it() -> None:
    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    text = f"SCRAM-SHA-256$4096:{b64(VERIFIER.salt)}${b64(VERIFIER.stored_key)}:{b64(VERIFIER.server_key)}"
    assert ScramVerifier.parse(text) == VERIFIER
    for wrong in ("", "md5" + "0" * 32, "SCRAM-SHA-256$4096:x", text[:-8], text.replace("4096", "many")):
        with pytest.raises(AuthenticationFailed, match="no SCRAM verifier"):
            ScramVerifier.parse(wrong)
