"""Encryption on both sides, with libpq, psycopg and asyncpg as clients and a cluster that demands it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from proxy.config.dsn import Dsn
from proxy.demo.clusters import Cluster, VersionMissing
from proxy.errors import UpstreamRefused
from proxy.routing.policy import Place, Side
from proxy.upstream.connection import open_connection
from proxy.wire import startup
from tests.certificates import Authority
from tests.running import DATABASE, Running

OLD = Place(Side.OLD, 0)
SCHEMA = "CREATE TABLE item (id int PRIMARY KEY, name text)"
ACCESS = """\
local all all trust
hostssl all crossfade 127.0.0.1/32 cert
hostssl all bound 127.0.0.1/32 scram-sha-256
hostssl all clear 127.0.0.1/32 password
hostssl all all 127.0.0.1/32 trust
"""
ROLES = """\
CREATE ROLE crossfade SUPERUSER LOGIN;
CREATE ROLE bound LOGIN PASSWORD 'of bound';
CREATE ROLE clear LOGIN PASSWORD 'of clear';
"""


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A folder that the account of the clusters can enter."""
    with tempfile.TemporaryDirectory(prefix="crossfade-tls-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def authority(readable: Path) -> Authority:
    return Authority(readable)


@pytest.fixture(scope="module")
def offering(
    authority: Authority, pg16: Cluster, pg18: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A proxy with a certificate, in front of two clusters without."""
    signed = authority.sign("server", host="127.0.0.1")
    tls = {"cert": str(signed.cert), "key": str(signed.key), "ca": str(authority.cert)}
    folder = tmp_path_factory.mktemp("offering")
    with Running(folder, pg16.url(), pg18.url(), {"mirror": {"enabled": False}}, tls=tls) as running:
        yield running.start()


def connected(running: Running, authority: Authority, **options: str) -> str:
    """Log in with libpq; return what its TLS says."""
    defaults = {"sslmode": "verify-full", "sslrootcert": str(authority.cert)}
    with psycopg.connect(running.url(), **{**defaults, **options}, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return "TLS" if connection.pgconn.ssl_in_use else "plain"


def is_refused(running: Running, authority: Authority, **options: str) -> bool:
    """Return whether a login fails."""
    try:
        connected(running, authority, **options)
    except psycopg.OperationalError:
        return True
    return False


def test_clients_of_both_kinds_are_served(offering: Running, authority: Authority) -> None:
    assert connected(offering, authority) == "TLS"
    assert connected(offering, authority, sslnegotiation="direct") == "TLS"
    assert connected(offering, authority, sslmode="disable") == "plain"
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        connected(offering, authority, sslrootcert="system")


async def test_asyncpg_streams_large_results_through_tls(offering: Running, authority: Authority) -> None:
    context = ssl.create_default_context(cafile=str(authority.cert))
    connection = await asyncpg.connect(offering.url(), ssl=context)
    rows = await connection.fetch("SELECT repeat(i::text, 100) AS text FROM generate_series(1, 20000) i")
    assert [row["text"] for row in rows] == [str(i) * 100 for i in range(1, 20001)]
    sent = "x" * 3_000_000
    assert await connection.fetchval("SELECT $1::text", sent) == sent
    await connection.close()


def test_a_cancel_request_comes_encrypted_too(offering: Running, authority: Authority) -> None:
    """As libpq 17 and newer send it; it finds the statement all the same."""
    with psycopg.connect(
        offering.url(), sslmode="verify-full", sslrootcert=str(authority.cert), autocommit=True
    ) as client:
        timer = threading.Timer(0.3, client.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(60)")
        timer.join()


def test_bytes_behind_a_request_for_tls_are_refused(offering: Running) -> None:
    """A login that somebody in between sends ahead of the client's own."""
    login = startup.packet({"user": "postgres", "database": DATABASE})
    with socket.create_connection(("127.0.0.1", offering.port), timeout=20) as raw:
        raw.sendall(startup.request(startup.Request.SSL) + login)
        answer = raw.makefile("rb").read()
    assert b"unencrypted data after SSL request" in answer and answer[:1] == b"E"


async def test_what_is_demanded_of_clients_changes_live(offering: Running, authority: Authority) -> None:
    own = authority.sign("somebody")
    proof = {"sslcert": str(own.cert), "sslkey": str(own.key)}
    offering.config["tls"]["mode"] = "require"
    offering.write()
    await offering.wait_for(lambda _: is_refused(offering, authority, sslmode="disable"))
    with pytest.raises(psycopg.OperationalError, match="encrypted connections only"):
        connected(offering, authority, sslmode="disable")
    assert connected(offering, authority) == "TLS"
    offering.config["tls"]["mode"] = "verify-ca"
    offering.write()
    await offering.wait_for(lambda _: is_refused(offering, authority))
    assert connected(offering, authority, **proof) == "TLS"
    offering.config["tls"]["mode"] = "allow"
    offering.write()
    await offering.wait_for(lambda _: not is_refused(offering, authority, sslmode="disable"))


async def test_a_renewed_certificate_is_in_force_after_a_reload(
    offering: Running, authority: Authority, tmp_path: Path
) -> None:
    following = Authority(tmp_path)
    tls = offering.config["tls"]
    with psycopg.connect(
        offering.url(), sslmode="verify-full", sslrootcert=str(authority.cert), autocommit=True
    ) as before:
        signed = following.sign("server", host="127.0.0.1")
        kept = {name: Path(tls[name]).read_bytes() for name in ("cert", "key")}
        Path(tls["cert"]).write_bytes(signed.cert.read_bytes())
        assert offering.process is not None
        offering.process.send_signal(signal.SIGHUP)  # in the middle of a renewal: no pair, no change
        await offering.wait_for(lambda _: "configuration refused" in offering.log.read_text())
        assert connected(offering, authority) == "TLS"
        Path(tls["key"]).write_bytes(signed.key.read_bytes())
        offering.process.send_signal(signal.SIGHUP)
        await offering.wait_for(lambda _: not is_refused(offering, following))
        assert before.execute("SELECT 1").fetchone() == (1,)  # who is connected stays so
    for name, content in kept.items():
        Path(tls[name]).write_bytes(content)
    offering.process.send_signal(signal.SIGHUP)
    await offering.wait_for(lambda _: not is_refused(offering, authority))


@pytest.fixture(scope="module")
def demanding(authority: Authority) -> Iterator[Cluster]:
    """A cluster that takes encrypted connections only, and ours only with a certificate."""
    owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    signed = authority.sign("cluster", host="127.0.0.1", owner=owner)
    settings = {"ssl": "on", "ssl_cert_file": str(signed.cert), "ssl_key_file": str(signed.key),
                "ssl_ca_file": str(authority.cert)}  # fmt: skip
    try:
        cluster = Cluster(15, settings=settings).create()
    except VersionMissing as missing:
        pytest.skip(f"{missing}: PostgreSQL 16 and 18 of the wheel have no TLS")
    (cluster.log.parent / "data" / "pg_hba.conf").write_text(ACCESS)
    yield cluster.start()
    cluster.remove()


async def test_every_connection_to_a_server_is_encrypted_and_proved(
    pg15: Cluster, demanding: Cluster, authority: Authority, tmp_path: Path
) -> None:
    """Pools, engine, monitor and catalog: what is not, the cluster refuses."""
    cluster = demanding
    signed = authority.sign("crossfade")
    psql = [f"dbname={{}} user=postgres host={cluster.log.parent} port={cluster.port}"]
    for name in ("tls_old", "tls_new"):
        cluster.run("psql", "-Xq", psql[0].format("postgres"), "-c", f"CREATE DATABASE {name}")
        cluster.run("psql", "-Xq", psql[0].format(name), "-c", SCHEMA)
    cluster.run("psql", "-Xq", psql[0].format("postgres"), "-c", ROLES)
    options = f"sslmode=verify-full&sslrootcert={authority.cert}&sslcert={signed.cert}&sslkey={signed.key}"
    urls = [
        f"postgresql://crossfade@127.0.0.1:{cluster.port}/{name}?{options}" for name in ("tls_old", "tls_new")
    ]
    users = [{"name": name, "password": f"of {name}"} for name in ("bound", "clear")]
    users.append({"name": "crossfade", "auth": "trust"})
    bound = Dsn.parse(urls[0].partition("?")[0] + "?sslmode=require&channel_binding=require")
    (await open_connection(OLD, bound.as_user("bound", "of bound"), {})).close()
    with pytest.raises(UpstreamRefused, match="channel_binding=require"):
        await open_connection(OLD, bound.as_user("clear", "of clear"), {})
    with Running(tmp_path, urls[0], urls[1], {"auth": "scram", "users": users}) as running:
        running.command("init")
        running.start()
        for user in ("bound", "clear"):
            with psycopg.connect(running.url(user), password=f"of {user}", autocommit=True) as client:
                assert client.execute("SELECT session_user::text").fetchone() == (user,)
        with psycopg.connect(running.url("crossfade"), autocommit=True) as client:
            client.execute("INSERT INTO item SELECT i, i::text FROM generate_series(1, 100) i")
            assert client.execute("SELECT count(*) FROM item").fetchone() == (100,)
            await running.wait_converged()
            found = client.execute(
                "SELECT count(*) FILTER (WHERE ssl AND client_dn = '/CN=crossfade'), count(*)"
                " FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'crossfade'"
            ).fetchone()
            assert found is not None and found[0] == found[1] >= 4
    counted = cluster.run("psql", "-XAtq", psql[0].format("tls_new"), "-c", "SELECT count(*) FROM item")
    assert counted.strip() == "100"
