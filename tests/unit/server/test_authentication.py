"""Which proof an account asks for, and what the proof is worth at the servers."""

from __future__ import annotations

import pytest

from proxy.config.serving import User
from proxy.errors import AuthenticationFailed, TlsRequired
from proxy.server.authentication import Channel, authenticate
from proxy.wire import messages
from proxy.wire.auth import NO_PROOF, Login, Proof, md5_secret
from proxy.wire.scram import ScramVerifier


class Client:
    """Somebody with a password."""

    def __init__(self, password: str = "secret") -> None:
        self._login = Login("app", password)
        self.asked: list[int] = []

    async def answer(self, message: bytes) -> bytes:
        self.asked.append(message[8])
        return self._login.answer(message[5:])[5:]


async def prove(account: User, secret: str | None, client: Client) -> Proof:
    """Log in without TLS."""
    last, proof = await authenticate(account, secret, client.answer, Channel(), {})
    assert last.endswith(messages.AUTHENTICATION_OK)
    return proof


async def test_a_trusted_user_is_asked_nothing() -> None:
    client = Client()
    assert await prove(User(name="app", auth="trust"), None, client) == NO_PROOF
    assert client.asked == []


@pytest.mark.parametrize(
    ("auth", "secret", "asked"),
    [
        ("scram", "secret", 10),
        ("md5", "secret", 5),
        ("scram", md5_secret("secret", "app"), 5),
        ("md5", "VERIFIER", 10),
    ],
)
async def test_the_best_that_the_secret_allows_is_asked_for(auth: str, secret: str, asked: int) -> None:
    if secret == "VERIFIER":
        import base64

        salt, stored, server, _ = ScramVerifier.of("secret")
        parts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
        secret = "SCRAM-SHA-256$4096:{}${}:{}".format(*parts)
    account = User.model_validate({"name": "app", "auth": auth, "password": "secret"})
    client = Client()
    proof = await prove(account, secret, client)
    assert client.asked[0] == asked
    assert (proof.md5 is None, proof.scram is None) == (asked != 5, asked == 5)
    with pytest.raises(AuthenticationFailed):
        await prove(account, secret, Client("wrong"))


async def test_nobody_gets_in_by_a_password_that_is_not_known() -> None:
    with pytest.raises(AuthenticationFailed):
        await prove(User.model_construct(name="app", auth="scram"), None, Client())


async def test_a_certificate_is_no_use_without_tls() -> None:
    with pytest.raises(TlsRequired, match="valid client certificate"):
        await prove(User(name="app", auth="cert"), None, Client())
