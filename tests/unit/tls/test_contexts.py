"""What the files of the configuration prove, and how a file that proves nothing is named."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from proxy.config.dsn import Dsn
from proxy.config.load import loads
from proxy.config.serving import Tls
from proxy.errors import ConfigError
from proxy.tls.contexts import binding_of, for_clients, for_driver, for_server, problems
from tests.certificates import Authority

TEXT = """\
listen: 127.0.0.1:6432
tls: {{cert: "{cert}", key: "{key}"{ca}}}
databases:
  app:
    old:
      primary: "postgresql://a@h/app"
      replicas: ["postgresql://a@r/app?sslmode=verify-ca&sslrootcert={root}"]
    new: {{primary: "postgresql://a@g/app"}}
    auth: trust
"""


def dsn(query: str) -> Dsn:
    return Dsn.parse(f"postgresql://me@db/app?{query}")


def test_a_configuration_whose_files_can_be_used_has_no_problem(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.sign("server", host="127.0.0.1")
    text = TEXT.format(cert=cert, key=key, ca=f', ca: "{authority.cert}"', root=authority.cert)
    assert loads(text, check=problems).tls is not None


def test_files_that_cannot_be_used_are_named_with_line_and_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.sign("server")[0], authority.sign("other")[1]
    with pytest.raises(ConfigError) as caught:
        loads(TEXT.format(cert=cert, key=key, ca="", root=tmp_path / "nowhere"), check=problems)
    first, second = caught.value.problems
    assert (first.line, first.key) == (2, "tls") and "key values mismatch" in first.message
    assert (second.line, second.key) == (7, "databases.app.old.replicas[0]")
    assert "nowhere: No such file" in second.message


def test_a_key_that_wants_a_password_is_refused_instead_of_asking_the_terminal(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = Authority(tmp_path).sign("server")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, locked))
    with pytest.raises(ssl.SSLError):
        for_clients(Tls(cert=str(cert), key=str(key)))


@pytest.mark.parametrize(("mode", "wanted"), [("allow", ssl.CERT_OPTIONAL), ("verify-ca", ssl.CERT_REQUIRED)])
def test_certificates_of_clients_are_asked_for_where_somebody_can_sign_them(
    tmp_path: Path, mode: str, wanted: ssl.VerifyMode
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.sign("server")
    tls = Tls.model_validate({"mode": mode, "cert": str(cert), "key": str(key), "ca": str(authority.cert)})
    assert for_clients(tls).context.verify_mode is wanted
    assert for_clients(Tls(cert=str(cert), key=str(key))).context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("query", "is_checked", "knows_host"),
    [
        ("sslmode=prefer", False, False),
        ("sslmode=require", False, False),
        ("sslmode=require&sslrootcert=ROOT", True, False),
        ("sslmode=verify-ca&sslrootcert=ROOT", True, False),
        ("sslmode=verify-full&sslrootcert=ROOT", True, True),
        ("sslmode=verify-full&sslrootcert=system", True, True),
    ],
)
def test_a_servers_certificate_is_checked_as_in_libpq(
    tmp_path: Path, query: str, is_checked: bool, knows_host: bool
) -> None:
    context = for_server(dsn(query.replace("ROOT", str(Authority(tmp_path).cert))))
    assert context is not None
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (is_checked, knows_host)


def test_a_renewed_certificate_is_used_for_the_next_connection(tmp_path: Path) -> None:
    import os

    authority = Authority(tmp_path)
    where = dsn(f"sslmode=verify-ca&sslrootcert={authority.cert}")
    first = for_server(where)
    assert for_server(where) is first
    os.utime(authority.cert, ns=(1, 1))
    assert for_server(where) is not first


def test_the_driver_of_the_engine_gets_the_same() -> None:
    assert for_driver(dsn("sslmode=disable")) is False
    assert for_driver(dsn("sslmode=prefer")) == "prefer"
    assert for_driver(dsn("sslmode=require")) is for_server(dsn("sslmode=require"))
    assert for_driver(Dsn.parse("postgresql://me@/app?host=/run/postgresql")) is False


def test_a_binding_is_the_hash_that_signed_the_certificate(tmp_path: Path) -> None:
    import hashlib

    authority = Authority(tmp_path)
    for algorithm, name in ((hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384")):
        path = authority.sign("server", algorithm=algorithm).cert
        der = ssl.PEM_cert_to_DER_cert(path.read_text())
        assert binding_of(der) == hashlib.new(name, der).digest()
    assert binding_of(ssl.PEM_cert_to_DER_cert(authority.sign_ed25519("odd").cert.read_text())) is None
    assert binding_of(None) is None
