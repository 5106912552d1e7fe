"""Entry point of the supervisor's children: `python -m proxy.app.child KIND NUMBER FD [LISTENING]`.

The first frame on the socket is a pickled `calls.Start`; after it, the channel.
LISTENING is the Unix socket of clients, if there is one.

A child never outlives its supervisor: the channel's end tells it, and should its loop be
stuck, the kernel kills it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import pickle
import resource
import signal
import socket
import sys

import uvloop

from proxy.app import logs
from proxy.app.engine import EngineProcess
from proxy.app.worker import Worker

_PR_SET_PDEATHSIG = 1


def main(kind: str, number: int, descriptor: int, *listening: int) -> None:
    """Run one child until it is told to end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C reaches the whole process group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(f"{kind}-{number}" if kind == "worker" else kind)
    _raise_files_max()
    end = socket.socket(fileno=descriptor)
    start = pickle.loads(_first_frame(end))
    end.setblocking(False)
    if kind == "worker":
        local = socket.socket(fileno=listening[0]) if listening else None
        uvloop.run(Worker(number, start.config, local).run(end))
    else:
        uvloop.run(EngineProcess(start).run(end))


def _raise_files_max() -> None:
    """Allow as many sockets as the system lets us: the usual 1,024 are fewer than `max_clients`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _first_frame(end: socket.socket) -> bytes:
    length = int.from_bytes(_exactly(end, 4), "big")
    return _exactly(end, length)


def _exactly(end: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = end.recv(size - len(received))
        if not chunk:
            raise SystemExit("the supervisor has ended")
        received += chunk
    return received


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
