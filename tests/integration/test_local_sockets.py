"""Unix sockets on both sides, and PostgreSQL 18's protocol with its longer cancel keys."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.demo.clusters import Cluster
from proxy.wire.frames import FrameDecoder
from tests.running import DATABASE, Running

_PROTOCOL_3_2 = 3 << 16 | 2


@pytest.fixture(scope="module")
def local(pg16: Cluster, pg18: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A proxy that listens in a folder and finds its servers in folders; no TCP but for the tests."""
    folder = tmp_path_factory.mktemp("local")
    urls = [f"postgresql://postgres@/postgres?host={cluster.log.parent}&port={cluster.port}"
            for cluster in (pg18, pg16)]  # fmt: skip
    urls[0] += "&max_protocol_version=3.2"
    with Running(folder, *urls, {"mirror": {"enabled": False}}, unix_socket_dir=str(folder)) as running:
        yield running.start()


def conninfo(local: Running) -> str:
    return f"host={local.file.parent} port={local.port} user=postgres dbname={DATABASE}"


def test_libpq_finds_the_proxy_and_the_proxy_its_server(local: Running) -> None:
    with psycopg.connect(conninfo(local), autocommit=True) as client:
        row = client.execute(
            "SELECT version() LIKE '%18.%', client_addr IS NULL FROM pg_stat_activity"
            " WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert row == (True, True)


@pytest.mark.parametrize(("version", "key_bytes"), [(3 << 16, 8), (_PROTOCOL_3_2, 36), (3 << 16 | 99, 36)])
def test_a_cancel_key_is_as_long_as_the_client_understands(
    local: Running, version: int, key_bytes: int
) -> None:
    body = struct.pack("!I", version) + f"user\0postgres\0database\0{DATABASE}\0\0".encode()
    with socket.create_connection(("127.0.0.1", local.port), timeout=20) as raw:
        raw.sendall(struct.pack("!I", len(body) + 4) + body)
        frames, decoder = [], FrameDecoder()
        while not frames or frames[-1].code != ord("Z"):
            frames += decoder.feed(raw.recv(65536))
    (key,) = [frame.body for frame in frames if frame.code == ord("K")]
    assert len(key) == key_bytes
    told = [frame.body for frame in frames if frame.code == ord("v")]
    assert told == ([struct.pack("!II", _PROTOCOL_3_2, 0)] if version > _PROTOCOL_3_2 else [])


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_a_cancel_finds_its_statement_by_either_kind_of_key(local: Running, version: str) -> None:
    with psycopg.connect(conninfo(local), autocommit=True, max_protocol_version=version) as client:
        timer = threading.Timer(0.3, client.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(60)")
        timer.join()
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_the_path_is_gone_when_the_proxy_is(old_db: str, new_db: str, tmp_path: Path) -> None:
    with Running(
        tmp_path, old_db, new_db, {"mirror": {"enabled": False}}, unix_socket_dir=str(tmp_path)
    ) as running:
        running.start()
        path = tmp_path / f".s.PGSQL.{running.port}"
        assert path.is_socket()
        assert running.stop() == 0
        assert not path.exists()


def test_a_folder_that_is_not_there_is_named(old_db: str, new_db: str, tmp_path: Path) -> None:
    running = Running(tmp_path, old_db, new_db, unix_socket_dir=str(tmp_path / "nowhere"))
    done = running.command("serve", check=False)
    assert done.returncode == 1 and "cannot listen in" in done.stderr
