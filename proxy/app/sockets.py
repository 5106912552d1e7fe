"""The sockets that clients connect to.

TCP: each worker has a socket of its own on the same port (SO_REUSEPORT), and so has the next
generation of us. The kernel spreads new connections over them.

Unix: one socket, made by the supervisor and inherited by every worker. It is made under
another name, and renamed over the one before when the workers are ready: at any instant the
path leads to somebody who listens. Whoever ends removes the path only while it is still its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from proxy.config.dsn import Address
from proxy.upstream.keepalive import keep_alive

BACKLOG = 4096  # the default of asyncio, 100, makes bursts of logins wait for SYN retransmission
_MODE = 0o777  # who may log in is decided by the log-in, as over TCP


def tcp(address: Address) -> socket.socket:
    """Return a socket that other workers, and the next generation of us, can listen on too."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keep_alive(listening)
    listening.bind((address.host, address.port))
    return listening


class UnixSocket:
    """A Unix socket that listens where libpq looks for it.

    Args:
        folder: Of the configuration, `unix_socket_dir`.
        port: Of `listen`; it is part of the name.
    """

    def __init__(self, folder: str, port: int) -> None:
        self.path = Path(folder) / f".s.PGSQL.{port}"
        self._partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        self._partial.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.bind(str(self._partial))
            self.socket.listen(BACKLOG)
            self._partial.chmod(_MODE)
            self._inode = self._partial.stat().st_ino
        except BaseException:
            self.socket.close()
            raise

    def publish(self) -> None:
        """Be found from now on."""
        if self._partial.exists():
            self._partial.rename(self.path)

    def close(self) -> None:
        """Stop listening, and remove the path unless the next generation has it."""
        self.socket.close()
        self._partial.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
