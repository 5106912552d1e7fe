"""Certificates made for a test: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from typing import NamedTuple

import pytest

x509 = pytest.importorskip("cryptography.x509", reason="pip install cryptography")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402


class Signed(NamedTuple):
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority whose files stand in a folder.

    Args:
        folder: Where certificates are written, readable to everybody; keys to the owner alone.
    """

    def __init__(self, folder: Path, name: str = "root") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        cert = _builder(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.cert = self._write(f"{name}.crt", cert.sign(self._key, hashes.SHA256()))

    def sign(self, name: str, *, host: str | None = None, owner: int | None = None,
             algorithm: hashes.HashAlgorithm | None = None) -> Signed:  # fmt: skip
        """Return a certificate for a client's name or, with `host`, for a server.

        Args:
            owner: User id that must be able to read the key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), self._name, key.public_key())
        if host is not None:
            alternative = x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
            )
            builder = builder.add_extension(alternative, critical=False)
        cert = self._write(f"{name}.crt", builder.sign(self._key, algorithm or hashes.SHA256()))
        return Signed(cert, self._write_key(f"{name}.key", key, owner))

    def sign_ed25519(self, name: str) -> Signed:
        """Return a self-signed certificate whose signature names no hash."""
        key = ed25519.Ed25519PrivateKey.generate()
        cert = _builder(_named(name), _named(name), key.public_key()).sign(key, None)
        return Signed(self._write(f"{name}.crt", cert), self._write_key(f"{name}.key", key, None))

    def _write(self, name: str, cert: x509.Certificate) -> Path:
        path = self.folder / name
        path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return path

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
                   owner: int | None) -> Path:  # fmt: skip
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, owner, -1)
        return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: object) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    )  # fmt: skip
