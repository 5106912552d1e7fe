"""Connection URLs survive a round trip and never show their password."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Address, Dsn

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda word: "/" not in word
)


@given(words, words, words, st.sampled_from(["db.example.com", "127.0.0.1", "::1"]), st.integers(1, 65535))
def test_urls_survive_a_round_trip(user: str, password: str, database: str, host: str, port: int) -> None:
    dsn = Dsn(host, port, user, database, password, {"sslmode": "prefer"})
    assert Dsn.parse(dsn.url()) == dsn


def test_defaults() -> None:
    dsn = Dsn.parse("postgres://me@db/app")
    assert dsn == Dsn(host="db", port=5432, user="me", database="app", password=None, options={})


@pytest.mark.parametrize("show", [str, repr, "{}".format])
def test_a_password_is_never_shown(show) -> None:
    assert "secret" not in show(Dsn.parse("postgresql://me:secret@db/app"))


def test_logging_in_as_somebody_else_keeps_the_place() -> None:
    dsn = Dsn.parse("postgresql://me:secret@db:1/app?sslmode=prefer")
    other = dsn.as_user("you", None)
    assert other.url() == "postgresql://you@db:1/app?sslmode=prefer"
    assert other.place() == dsn.place() == ("db", 1, "app")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("app", "not a connection URL"),
        ("mysql://u:secret@h/d", "not a connection URL"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://u:secret@/d", "names no host"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:x/d", "host or port is wrong"),
        ("postgresql://u:secret@h:99999/d", "host or port is wrong"),
        ("postgresql://u:secret@[::1/d", "host or port is wrong"),
        ("postgresql://u:secret@a,b/d", "one host"),
        ("postgresql://u:secret@h/d/e", "one database"),
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Dsn.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6432", ("127.0.0.1", 6432)),
        ("[::1]:6432", ("::1", 6432)),
        ("*:0", ("0.0.0.0", 0)),
        ("db.example.com:1", ("db.example.com", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(Address.parse(text))) == address


@pytest.mark.parametrize(
    "text", ["", "6432", ":6432", "host", "host:", "host:x", "host:65536", "host:-1", "host:²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=always", "sslmode must be one of disable, prefer, require, verify-ca, verify-full"),
        ("sslmode=verify-full", "sslmode=verify-full needs sslrootcert"),
        ("sslmode=require&sslrootcert=system", "proves nothing without sslmode=verify-full"),
        ("sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require"),
        ("sslmode=require&sslcert=a.crt", "belong together"),
        ("application_name=x", "unknown option application_name; valid in a URL: host, port, sslmode"),
        ("channel_binding=maybe", "channel_binding must be one of"),
    ],
)
def test_options_that_would_not_do_what_they_say_are_refused(query: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Dsn.parse(f"postgresql://me@db/app?{query}")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("postgresql://me@/app?host=/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
        ("postgresql://me@/app?host=/run/Pg/&port=5433", "/run/Pg/.s.PGSQL.5433"),
        ("postgresql://me@:5434/app?host=/tmp", "/tmp/.s.PGSQL.5434"),
    ],
)
def test_a_unix_socket_is_written_as_libpq_writes_it(url: str, path: str) -> None:
    dsn = Dsn.parse(url)
    assert (dsn.is_local, dsn.socket_path, dsn.is_encrypted) == (True, path, False)
    assert Dsn.parse(dsn.url()) == dsn


@pytest.mark.parametrize("port", ["0", "65536", "x", "²"])
def test_a_unix_socket_has_a_port_that_can_be(port: str) -> None:
    with pytest.raises(ValueError, match="host or port is wrong"):
        Dsn.parse(f"postgresql://me@/app?host=/tmp&port={port}")


def test_encryption_is_asked_for_unless_it_is_unwanted() -> None:
    assert Dsn.parse("postgresql://me@db/app").tls_mode == "prefer"
    assert not Dsn.parse("postgresql://me@db/app?sslmode=disable").is_encrypted
    direct = Dsn.parse("postgresql://me@db/app?sslmode=require&sslnegotiation=direct&channel_binding=require")
    assert direct.is_direct and "channel_binding" not in direct.url()
