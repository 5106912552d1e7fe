"""Authentication from both chairs: as the server of clients, as the client of servers.

    server chair    `proxy.wire.scram`, Md5Challenge
    client chair    Login: fed with the server's Authentication messages

Authentication codes: 0 ok, 3 clear text, 5 md5, 10 SASL, 11 SASL continue, 12 SASL final.

What a user's password is known by is a *secret*, in the forms of `pg_authid.rolpassword`: a
SCRAM verifier, `md5` and 32 hexadecimal digits, or the password itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any, NamedTuple

from scramp import ScramClient, ScramException

from proxy.errors import AuthenticationFailed, UpstreamRefused
from proxy.wire.frames import encode
from proxy.wire.scram import END_POINT, MECHANISM, PLUS, PREFIX, KeyClient, ScramKeys

_MD5 = re.compile(r"md5[0-9a-f]{32}")


class Proof(NamedTuple):
    """What opens a server in place of a password: learned from a client, or the hash itself."""

    scram: ScramKeys | None = None
    md5: str | None = None  # "md5" and the hash of password and user


NO_PROOF = Proof()


def is_verifier(secret: str) -> bool:
    """Return whether a secret is a SCRAM verifier."""
    return secret.startswith(PREFIX)


def is_md5(secret: str) -> bool:
    """Return whether a secret is an md5 hash."""
    return _MD5.fullmatch(secret) is not None


def md5_secret(password: str, user: str) -> str:
    """Return the md5 form of a password."""
    return "md5" + hashlib.md5(password.encode() + user.encode()).hexdigest()


def _md5_answer(secret: str, salt: bytes) -> bytes:
    """Return the answer to an md5 request; see the protocol chapter, AuthenticationMD5Password."""
    return b"md5" + hashlib.md5(secret[3:].encode() + salt).hexdigest().encode() + b"\0"


class Md5Challenge:
    """The server's side of an md5 login, for clients that speak nothing better.

    Args:
        secret: The md5 form of the password.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._salt = secrets.token_bytes(4)

    def request(self) -> bytes:
        """Return AuthenticationMD5Password."""
        return encode(b"R", b"\0\0\0\5" + self._salt)

    def check(self, body: bytes) -> None:
        """Take PasswordMessage.

        Raises:
            AuthenticationFailed: The client does not know the password.
        """
        if not hmac.compare_digest(body, _md5_answer(self._secret, self._salt)):
            raise AuthenticationFailed("password authentication failed")


class Login:
    """The client's side of logging in to a server.

    Args:
        user: Name to log in as.
        password: None when the configuration has none; needed only if the server asks.
        proof: What else may open the server.
        channel_binding: libpq's option: disable, prefer or require.
    """

    def __init__(
        self, user: str, password: str | None, proof: Proof = NO_PROOF, *, channel_binding: str = "prefer"
    ) -> None:
        self._user = user
        self._password = password
        self._proof = proof
        self._channel_binding = channel_binding
        self._is_private = False
        self._binding: bytes | None = None
        self._scram: Any = None
        self._is_bound = False
        self._is_proved = True  # by the server, that it knows the password, once SCRAM has begun

    def private(self, binding: bytes | None) -> None:
        """Note that nobody listens: the connection is encrypted, or a Unix socket.

        Args:
            binding: Channel binding of the server's certificate, if there is any.
        """
        self._is_private = True
        self._binding = None if self._channel_binding == "disable" else binding

    def answer(self, body: bytes) -> bytes:
        """Take an Authentication message, return what to send back, possibly nothing.

        Raises:
            UpstreamRefused: We cannot satisfy what the server asks for, or must not.
        """
        code = int.from_bytes(body[:4], "big")
        if self._channel_binding == "require" and not self._is_bound and code != 10:
            raise UpstreamRefused(
                "channel_binding=require, and the server authenticates without it",
                hint="scram-sha-256 in pg_hba.conf there, over TLS",
            )
        if code == 0:
            if not self._is_proved:
                raise UpstreamRefused("the server broke off SCRAM without proving that it knows the password")
            return b""
        if code == 3:
            return self._answer_clear_text()
        if code == 5:
            return encode(b"p", _md5_answer(self._md5(), body[4:8]))
        try:
            return self._answer_sasl(code, body[4:])
        except (ScramException, AuthenticationFailed, UnicodeDecodeError) as error:
            raise UpstreamRefused("SCRAM exchange with the server failed") from error

    def _answer_clear_text(self) -> bytes:
        if self._password is None:
            raise self._no_password()
        if not self._is_private:
            raise UpstreamRefused(
                "server asks for the password in clear text over an unencrypted connection",
                hint="scram-sha-256 in pg_hba.conf there, or sslmode=require in the URL",
            )
        return encode(b"p", self._password.encode() + b"\0")

    def _md5(self) -> str:
        if self._password is not None:
            return md5_secret(self._password, self._user)
        if self._proof.md5 is None:
            raise self._no_password()
        return self._proof.md5

    def _answer_sasl(self, code: int, body: bytes) -> bytes:
        if code == 10:
            return self._begin_scram([name.decode() for name in body.split(b"\0") if name])
        if code == 11 and self._scram is not None:
            self._scram.set_server_first(body.decode())
            return encode(b"p", self._scram.get_client_final().encode())
        if code == 12 and self._scram is not None:
            self._scram.set_server_final(body.decode())
            self._is_proved = True
            return b""
        raise UpstreamRefused(f"server asks for authentication method {code}, which the proxy does not speak")

    def _begin_scram(self, offered: list[str]) -> bytes:
        self._is_bound = PLUS in offered and self._binding is not None
        mechanism = PLUS if self._is_bound else MECHANISM
        if mechanism not in offered:
            raise UpstreamRefused(f"server offers only {', '.join(offered)}")
        if self._channel_binding == "require" and not self._is_bound:
            raise UpstreamRefused("channel_binding=require, and the server or its certificate has none")
        if self._password is not None:
            channel = None if self._binding is None else (END_POINT, self._binding)
            self._scram = ScramClient([mechanism], self._user, self._password, channel_binding=channel)
        elif self._proof.scram is not None:
            flag = f"p={END_POINT}" if self._is_bound else "n" if self._binding is None else "y"
            bound = self._binding if self._is_bound else None
            self._scram = KeyClient(self._proof.scram, f"{flag},,", bound or b"")
        else:
            raise self._no_password()
        self._is_proved = False
        first = self._scram.get_client_first().encode()
        return encode(b"p", mechanism.encode() + b"\0" + len(first).to_bytes(4, "big") + first)

    def _no_password(self) -> UpstreamRefused:
        return UpstreamRefused(
            f'server asks for a password of user "{self._user}" and the configuration has none',
            hint="set password or password_env for that user",
        )
