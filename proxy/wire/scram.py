"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS from both chairs (RFC 5802, 5929, 7677).

    server chair    ScramVerifier per user, ScramConversation per login of a client
    client chair    scramp for a password, KeyClient for keys

Whoever has only a verifier can check clients, and cannot log in anywhere: that needs the
client key, which only a client's proof reveals. So a client's login gives `ScramKeys`, and
with them the proxy logs in to a server that has the same verifier, as PgBouncer does. They
are worth a password there, and are kept in memory alone.

Channel binding (the mechanism's name ends in PLUS) covers the hash of the server's
certificate with the proof: somebody in between, who has another certificate, is noticed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import NamedTuple

from scramp import ScramException, ScramMechanism

from proxy.errors import AuthenticationFailed, ProtocolViolation
from proxy.wire.frames import encode

MECHANISM = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
END_POINT = "tls-server-end-point"
PREFIX = "SCRAM-SHA-256$"
_ITERATIONS_COUNT = 4096  # what scramp, like PostgreSQL, takes unless told otherwise
_SALT_BYTES = 16  # as PostgreSQL's: whoever sees one cannot tell where the verifier is from
_DECOY_SECRET = secrets.token_bytes(32)
_FAILED = "password authentication failed"


class ScramKeys(NamedTuple):
    """What a login at a server needs in place of a password."""

    client_key: bytes
    server_key: bytes


class ScramVerifier(NamedTuple):
    """What is kept to check one user's password: salt and keys."""

    salt: bytes
    stored_key: bytes
    server_key: bytes
    iterations_count: int

    @classmethod
    def of(cls, password: str) -> ScramVerifier:
        """Return the verifier of a password.

        Raises:
            AuthenticationFailed: SASLprep forbids a character in it; the configuration must change.
        """
        try:
            return cls(
                *ScramMechanism(MECHANISM).make_auth_info(password, salt=secrets.token_bytes(_SALT_BYTES))
            )
        except ScramException as error:
            raise AuthenticationFailed("the configured password cannot be used with SCRAM") from error

    @classmethod
    def parse(cls, text: str) -> ScramVerifier:
        """Return a verifier as `pg_authid.rolpassword` shows it.

        Raises:
            AuthenticationFailed: It is none.
        """
        try:
            iterations, _, rest = text.removeprefix(PREFIX).partition(":")
            salt, _, keys = rest.partition("$")
            stored, _, server = keys.partition(":")
            decoded = [base64.b64decode(part) for part in (salt, stored, server)]
            found = cls(decoded[0], decoded[1], decoded[2], int(iterations))
        except ValueError:
            raise AuthenticationFailed("the stored password is no SCRAM verifier") from None
        if not text.startswith(PREFIX) or {len(found.stored_key), len(found.server_key)} != {32}:
            raise AuthenticationFailed("the stored password is no SCRAM verifier")
        return found

    @classmethod
    def decoy(cls, user: str) -> ScramVerifier:
        """Return one that no password satisfies.

        Its salt is the same each time, as a real user's is: names cannot be probed.
        """
        salt = hmac.digest(_DECOY_SECRET, user.encode(errors="surrogatepass"), "sha256")
        return cls(salt[:_SALT_BYTES], secrets.token_bytes(32), secrets.token_bytes(32), _ITERATIONS_COUNT)

    def conversation(self, binding: bytes | None = None) -> ScramConversation:
        """Return the state of one login.

        Args:
            binding: Channel binding of our certificate; None: without TLS, or it has none.
        """
        return ScramConversation(self, binding)


class ScramConversation:
    """The server's side of one SCRAM exchange: two messages in, two out.

    The messages are read here, not by scramp, because libpq sends an empty user name (the
    startup packet has the real one), which scramp refuses, and which the proof covers.
    """

    def __init__(self, verifier: ScramVerifier, binding: bytes | None = None) -> None:
        self._verifier = verifier
        self._channel = binding
        self._binding = b""
        self._first_bare = ""
        self._server_first = ""
        self._nonce = ""
        self.keys: ScramKeys | None = None  # once the client has proved to know the password

    def request(self) -> bytes:
        """Return AuthenticationSASL: the mechanisms that we offer."""
        offered = [MECHANISM] if self._channel is None else [PLUS, MECHANISM]
        return encode(b"R", b"\0\0\0\x0a" + b"".join(name.encode() + b"\0" for name in offered) + b"\0")

    def first(self, body: bytes) -> bytes:
        """Take SASLInitialResponse, return AuthenticationSASLContinue.

        Raises:
            ProtocolViolation: The client chose a mechanism that was not offered, or somebody in
                between hid the one that binds to the channel.
            AuthenticationFailed: It is malformed.
        """
        name, _, rest = body.partition(b"\0")
        flag, _, behind = _text(rest[4:]).partition(",")
        authzid, _, bare = behind.partition(",")
        if name == PLUS.encode() and self._channel is not None:
            if flag != f"p={END_POINT}":
                raise ProtocolViolation("unsupported SCRAM channel-binding type")
        elif name != MECHANISM.encode():
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        elif flag == "y" and self._channel is not None:
            raise ProtocolViolation("SCRAM channel binding negotiation error: the client saw no offer of it")
        elif flag not in ("n", "y"):
            raise ProtocolViolation("malformed SCRAM message, or channel binding without TLS")
        if authzid or not bare.startswith("n="):
            raise ProtocolViolation("malformed SCRAM message")
        bound = self._channel if flag[0] == "p" and self._channel is not None else b""
        self._binding = base64.b64encode(f"{flag},,".encode() + bound)
        self._first_bare = bare
        self._nonce = _attribute(bare, "r") + secrets.token_urlsafe(18)
        salt = base64.b64encode(self._verifier.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={self._verifier.iterations_count}"
        return encode(b"R", b"\0\0\0\x0b" + self._server_first.encode())

    def final(self, body: bytes) -> bytes:
        """Take SASLResponse, return AuthenticationSASLFinal.

        Raises:
            AuthenticationFailed: The client does not know the password, or saw another certificate.
        """
        text = _text(body)
        without_proof, _, proof = text.rpartition(",p=")
        if (
            _attribute(without_proof, "r") != self._nonce
            or _attribute(without_proof, "c") != self._binding.decode()
        ):
            raise AuthenticationFailed(_FAILED)
        message = f"{self._first_bare},{self._server_first},{without_proof}".encode()
        signature = hmac.digest(self._verifier.stored_key, message, "sha256")
        try:
            sent = base64.b64decode(proof, validate=True)
        except ValueError:
            raise AuthenticationFailed(_FAILED) from None
        key = _xor(sent, signature)
        if len(sent) != len(signature) or not hmac.compare_digest(
            hashlib.sha256(key).digest(), self._verifier.stored_key
        ):
            raise AuthenticationFailed(_FAILED)
        self.keys = ScramKeys(key, self._verifier.server_key)
        answer = base64.b64encode(hmac.digest(self._verifier.server_key, message, "sha256"))
        return encode(b"R", b"\0\0\0\x0cv=" + answer)


class KeyClient:
    """The client's side of an exchange by keys; its methods are those of scramp's client.

    Args:
        header: The GS2 header: n, y or p=… and two commas.
        binding: What of the channel is bound; empty without PLUS.
    """

    def __init__(self, keys: ScramKeys, header: str, binding: bytes = b"") -> None:
        self._keys = keys
        self._header = header
        self._binding = base64.b64encode(header.encode() + binding).decode()
        self._first_bare = f"n=,r={secrets.token_urlsafe(18)}"
        self._message = b""
        self._without_proof = ""

    def get_client_first(self) -> str:
        """Return the first message."""
        return self._header + self._first_bare

    def set_server_first(self, text: str) -> None:
        """Take the server's nonce; its salt is that of the verifier the keys are from, or they are useless.

        Raises:
            AuthenticationFailed: It is malformed, or no answer to our message.
        """
        nonce = _attribute(text, "r")
        if not nonce.startswith(_attribute(self._first_bare, "r")):
            raise AuthenticationFailed("malformed SCRAM message")
        self._without_proof = f"c={self._binding},r={nonce}"
        self._message = f"{self._first_bare},{text},{self._without_proof}".encode()

    def get_client_final(self) -> str:
        """Return the message with the proof."""
        stored_key = hashlib.sha256(self._keys.client_key).digest()
        proof = _xor(self._keys.client_key, hmac.digest(stored_key, self._message, "sha256"))
        return f"{self._without_proof},p={base64.b64encode(proof).decode()}"

    def set_server_final(self, text: str) -> None:
        """Check that the server knows the verifier.

        Raises:
            AuthenticationFailed: It does not.
        """
        expected = base64.b64encode(hmac.digest(self._keys.server_key, self._message, "sha256"))
        if not hmac.compare_digest(_attribute(text, "v").encode(), expected):
            raise AuthenticationFailed("the server does not know the password")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise AuthenticationFailed("malformed SCRAM message") from None


def _attribute(message: str, name: str) -> str:
    """Return an attribute of a SCRAM message, for example the nonce, `r`."""
    for part in message.split(","):
        if part.startswith(name + "="):
            return part[2:]
    raise AuthenticationFailed("malformed SCRAM message")
