"""Two generations that listen on the same path and the same port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.app import sockets
from proxy.app.sockets import UnixSocket
from proxy.config.dsn import Address


def published(folder: Path) -> UnixSocket:
    made = UnixSocket(str(folder), 6432)
    made.publish()
    return made


def test_the_path_always_leads_to_somebody_who_listens(tmp_path: Path) -> None:
    first = published(tmp_path)
    assert first.path == tmp_path / ".s.PGSQL.6432"
    second = published(tmp_path)
    second.publish()
    first.close()  # it has lost the path, and leaves it alone
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(second.path))
    assert [path.name for path in tmp_path.iterdir()] == [".s.PGSQL.6432"]
    second.close()
    assert not list(tmp_path.iterdir())
    second.close()


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    published(tmp_path).socket.close()
    published(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_generation_that_never_became_ready_takes_nothing(tmp_path: Path) -> None:
    first = published(tmp_path)
    UnixSocket(str(tmp_path), 6432).close()
    assert [path.name for path in tmp_path.iterdir()] == [".s.PGSQL.6432"]
    first.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        UnixSocket(str(tmp_path / "nowhere"), 6432)


def test_two_sockets_listen_on_one_port() -> None:
    with sockets.tcp(Address("127.0.0.1", 0)) as first:
        first.listen()
        with sockets.tcp(Address(*first.getsockname())) as second:
            second.listen()
