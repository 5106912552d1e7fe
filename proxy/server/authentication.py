"""Have a client prove who it is, by whatever its account and its secret allow.

    trust   nothing is asked
    cert    the common name of a certificate that `tls.ca` signed is the user's
    scram   SCRAM-SHA-256, bound to the channel where there is TLS
    md5     for clients that speak nothing better; a SCRAM verifier asks for SCRAM all the same

A name that nobody has fails after the same exchange as a wrong password.

What the client proves may open the servers, too (`auth.Proof`): the keys that its SCRAM
messages reveal, or the md5 hash. That is how users log in to servers whose passwords the
proxy does not know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from proxy.config.serving import User
from proxy.errors import AuthenticationFailed, TlsRequired
from proxy.tls.layer import TlsLayer
from proxy.wire import auth, messages
from proxy.wire.auth import NO_PROOF, Proof
from proxy.wire.scram import ScramVerifier

Ask = Callable[[bytes], Awaitable[bytes]]
"""Sends the client a message, returns the body of its answer."""

Verifiers = dict[tuple[str, str], ScramVerifier]
"""By user and password: deriving one takes a hundred times as long as checking by it."""


class Channel(NamedTuple):
    """What encryption says about the client."""

    layer: TlsLayer | None = None
    binding: bytes | None = None  # of our own certificate

    @property
    def common_name(self) -> str | None:
        """The name in the client's verified certificate; None: it showed none."""
        subject = self.layer.peer_certificate.get("subject", ()) if self.layer is not None else ()
        return next((value for part in subject for name, value in part if name == "commonName"), None)


PLAIN = Channel()


async def authenticate(
    account: User, secret: str | None, ask: Ask, channel: Channel, verifiers: Verifiers
) -> tuple[bytes, Proof]:
    """Return what the client gets when it has proved to be this user, and what opens the servers.

    Args:
        secret: How the password is known; None: it is not, and nobody gets in by one.

    Raises:
        ProxyError: It is not this user, and must go.
    """
    if account.auth == "trust":
        return messages.AUTHENTICATION_OK, NO_PROOF
    if account.auth == "cert":
        if channel.common_name is None:
            raise TlsRequired("connection requires a valid client certificate", hint="sslcert and sslkey")
        if channel.common_name != account.name:
            raise AuthenticationFailed("certificate authentication failed")
        return messages.AUTHENTICATION_OK, NO_PROOF
    if secret is not None and (
        auth.is_md5(secret) or (account.auth == "md5" and not auth.is_verifier(secret))
    ):
        hashed = secret if auth.is_md5(secret) else auth.md5_secret(secret, account.name)
        challenge = auth.Md5Challenge(hashed)
        challenge.check(await ask(challenge.request()))
        return messages.AUTHENTICATION_OK, Proof(md5=hashed)
    conversation = _verifier(account.name, secret, verifiers).conversation(channel.binding)
    first = conversation.first(await ask(conversation.request()))
    final = conversation.final(await ask(first))
    return final + messages.AUTHENTICATION_OK, Proof(scram=conversation.keys)


def _verifier(user: str, secret: str | None, verifiers: Verifiers) -> ScramVerifier:
    if secret is None:
        return ScramVerifier.decoy(user)
    if auth.is_verifier(secret):
        return ScramVerifier.parse(secret)
    found = verifiers.get((user, secret))
    if found is None:
        found = verifiers[user, secret] = ScramVerifier.of(secret)
    return found
