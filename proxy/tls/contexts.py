"""What a handshake accepts and proves, made from files.

Towards clients a context is made at the start and at each reload: a new certificate is
in force for the next client, and one that cannot be used leaves the old one in force.
Towards servers it is made when a connection is opened and the files have changed.

Modes towards servers are libpq's: `prefer` encrypts where the server can, and proves
nothing; `require` too, unless there is a root certificate; `verify-ca` and `verify-full`
check the chain, and the latter the host's name as well.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from asn1crypto.x509 import Certificate

from proxy.config.dsn import Dsn
from proxy.config.load import KeyPath
from proxy.config.model import Config
from proxy.config.serving import Tls

ALPN = "postgresql"
_CONTEXTS_MAX = 64
_END = "-----END CERTIFICATE-----"


class ClientTls(NamedTuple):
    """What clients are offered."""

    context: ssl.SSLContext
    binding: bytes | None  # of our certificate, for SCRAM-SHA-256-PLUS; None: it has no known hash


def for_clients(tls: Tls) -> ClientTls:
    """Return what is needed to encrypt connections of clients.

    Raises:
        OSError: A file is missing, unreadable or no certificate (ssl.SSLError is one), or the
            key belongs to another certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    context.num_tickets = 0  # as PostgreSQL: a client that comes back shows its certificate again
    context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED if tls.mode == "verify-ca" else ssl.CERT_OPTIONAL
    with open(tls.cert, encoding="ascii", errors="replace") as file:
        first = file.read().partition(_END)[0] + _END
    return ClientTls(context, binding_of(ssl.PEM_cert_to_DER_cert(first[first.index("-----BEGIN") :])))


def for_server(dsn: Dsn) -> ssl.SSLContext | None:
    """Return the context for a connection to a server; None: it is not encrypted.

    Raises:
        OSError: As for clients.
    """
    if not dsn.is_encrypted:
        return None
    files = tuple((name, dsn.options[name]) for name in ("sslrootcert", "sslcert", "sslkey")
                  if name in dsn.options)  # fmt: skip
    changed = tuple(os.stat(path).st_mtime_ns for _, path in files if path != "system")
    return _for_server(dsn.tls_mode, files, changed)


def for_driver(dsn: Dsn) -> ssl.SSLContext | Literal["prefer", False]:
    """Return the same for asyncpg's argument `ssl`.

    Raises:
        OSError: As for clients.
    """
    if dsn.tls_mode == "prefer":
        return "prefer"
    return for_server(dsn) or False


@lru_cache(_CONTEXTS_MAX)
def _for_server(
    mode: str, files: tuple[tuple[str, str], ...], _changed_ns: tuple[int, ...]
) -> ssl.SSLContext:
    named = dict(files)
    root, cert = named.get("sslrootcert"), named.get("sslcert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    context.check_hostname = mode == "verify-full"
    if root == "system":
        context.load_default_certs()
    elif root is not None:
        context.load_verify_locations(root)
    is_checked = mode.startswith("verify") or (mode == "require" and root is not None)
    context.verify_mode = ssl.CERT_REQUIRED if is_checked else ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(cert, named.get("sslkey"), password=_no_password)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([ALPN])


def _no_password() -> str:
    """Instead of asking the terminal; an encrypted key is an error of the file."""
    return ""


def binding_of(certificate: bytes | None) -> bytes | None:
    """Return the channel binding `tls-server-end-point` of a server's certificate (RFC 5929).

    It is the certificate's hash by the algorithm of its signature, SHA-256 for the broken ones.
    None: the signature has none (Ed25519), and nothing can be bound.
    """
    if certificate is None:
        return None
    algorithm = Certificate.load(certificate)["signature_algorithm"]
    try:
        name: str = algorithm.hash_algo
    except ValueError:
        return None
    if algorithm["algorithm"].native.startswith("ed"):
        return None
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, certificate).digest()


def problems(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys whose certificates cannot be used, and why."""
    if config.tls is not None:
        try:
            for_clients(config.tls)
        except (OSError, ValueError) as error:
            yield ("tls",), f"these files cannot be used: {_reason(error)}"
    for name, database in config.databases.items():
        for side in ("old", "new"):
            servers = database.cluster(side).servers()
            for number, dsn in enumerate(servers):
                try:
                    for_server(dsn)
                except (OSError, ValueError) as error:
                    key = ("primary",) if not number else ("replicas", number - 1)
                    yield ("databases", name, side, *key), f"a file of its TLS options: {_reason(error)}"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}".replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    return str(error)
