"""Who gets in, by what, and that the servers let the same user in: passwords the proxy never knew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.demo.clusters import Cluster
from tests.certificates import Authority
from tests.running import Running

ACCESS = """\
local all all trust
host all postgres,crossfade 127.0.0.1/32 trust
host all old_hand 127.0.0.1/32 md5
host all by_certificate,by_trust 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
ROLES = """\
CREATE ROLE crossfade SUPERUSER LOGIN;
SET password_encryption = 'scram-sha-256';
CREATE ROLE listed LOGIN PASSWORD 'of listed';
CREATE ROLE verified LOGIN PASSWORD 'of verified';
CREATE ROLE queried LOGIN PASSWORD 'of queried';
CREATE ROLE nologin PASSWORD 'of nologin';
CREATE ROLE by_certificate LOGIN;
SET password_encryption = 'md5';
CREATE ROLE old_hand LOGIN PASSWORD 'of old_hand';
"""
QUERY = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Cluster, Authority]]:
    """A cluster that asks for passwords, and a proxy that was told few of them."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder)
    signed = authority.sign("server", host="127.0.0.1")
    with Cluster(16) as cluster:
        (cluster.log.parent / "data" / "pg_hba.conf").write_text(ACCESS)
        cluster.psql("SELECT pg_reload_conf(); CREATE DATABASE other")
        cluster.psql(ROLES)
        verifier = cluster.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'verified'").strip()
        users: list[dict[str, Any]] = [
            {"name": "listed", "password": "of listed"},
            {"name": "verified", "verifier": verifier},
            {"name": "by_certificate", "auth": "cert"},
        ]
        changes = {"mirror": {"enabled": False}, "auth": "scram", "users": users, "auth_query": QUERY}
        urls = [cluster.url(name, "crossfade") for name in ("postgres", "other")]
        tls = {"cert": str(signed.cert), "key": str(signed.key), "ca": str(authority.cert)}
        with Running(folder, urls[0], urls[1], changes, tls=tls) as running:
            yield running.start(), cluster, authority


def user_of(running: Running, user: str, password: str = "", **options: str) -> str:
    """Log in through the proxy, once; return who the server says one is."""
    options = {"sslmode": "disable", **options}  # libpq's default is a second attempt without TLS
    with psycopg.connect(running.url(user), password=password, autocommit=True, **options) as connection:
        row = connection.execute("SELECT session_user::text").fetchone()
        assert row is not None
        return str(row[0])


Guarded = tuple[Running, Cluster, Authority]


@pytest.mark.parametrize("user", ["listed", "verified", "queried", "old_hand"])
def test_the_right_password_opens_proxy_and_server(guarded: Guarded, user: str) -> None:
    running, _, _ = guarded
    assert user_of(running, user, f"of {user}") == user
    for wrong in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError):
            user_of(running, user, wrong)


@pytest.mark.parametrize("user", ["nobody", "nologin", "by_trust", "x' OR rolname = 'queried"])
def test_a_name_that_may_not_log_in_fails_like_a_wrong_password(guarded: Guarded, user: str) -> None:
    running, _, _ = guarded
    with pytest.raises(psycopg.OperationalError, match="password authentication failed for user"):
        user_of(running, user.replace(" ", "%20").replace("'", "%27"), "of queried")


def test_a_login_is_bound_to_the_certificate_it_saw(guarded: Guarded) -> None:
    running, _, authority = guarded
    options = {"sslmode": "verify-full", "sslrootcert": str(authority.cert), "channel_binding": "require"}
    for user in ("listed", "verified", "queried"):
        assert user_of(running, user, f"of {user}", **options) == user
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        user_of(running, "listed", "wrong", **options)


def test_a_certificate_opens_to_the_user_it_names_alone(guarded: Guarded) -> None:
    running, _, authority = guarded
    options = {"sslmode": "require"}
    own, other = authority.sign("by_certificate"), authority.sign("somebody")
    proof = {"sslcert": str(own.cert), "sslkey": str(own.key)}
    assert user_of(running, "by_certificate", **options, **proof) == "by_certificate"
    with pytest.raises(psycopg.OperationalError, match="valid client certificate"):
        user_of(running, "by_certificate", **options)
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
        user_of(running, "by_certificate", **options, sslcert=str(other.cert), sslkey=str(other.key))


def test_a_changed_password_is_known_after_one_refusal_at_most(guarded: Guarded) -> None:
    running, cluster, _ = guarded
    assert user_of(running, "queried", "of queried") == "queried"
    cluster.psql("SET password_encryption = 'scram-sha-256'; ALTER ROLE queried PASSWORD 'of late'")
    with pytest.raises(psycopg.OperationalError):
        user_of(running, "queried", "of late")
    assert user_of(running, "queried", "of late") == "queried"
    with pytest.raises(psycopg.OperationalError):
        user_of(running, "queried", "of queried")
    cluster.psql("SET password_encryption = 'scram-sha-256'; ALTER ROLE queried PASSWORD 'of queried'")


def test_new_server_connections_are_opened_with_the_newest_proof(guarded: Guarded) -> None:
    """Those of the pool were opened with keys that are worth nothing any more."""
    running, cluster, _ = guarded
    assert user_of(running, "queried", "of queried") == "queried"
    cluster.psql("SET password_encryption = 'scram-sha-256'; ALTER ROLE queried PASSWORD 'of late'")
    with pytest.raises(psycopg.OperationalError):
        user_of(running, "queried", "of late")
    cluster.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'queried'")
    assert user_of(running, "queried", "of late") == "queried"
