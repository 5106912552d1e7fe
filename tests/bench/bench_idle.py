"""What an idle client costs, and how fast clients log in: Crossfade beside PgBouncer in one run.

    python tests/bench/bench_idle.py [--clients 10000] [--burst 200] [--rounds 3]

Clients come in bursts: as many at once as `--burst`, and the next when all of these are logged in.
Memory is what the program's processes have in use by themselves (USS) with all clients connected,
less what they had before, divided by the clients. Each round begins with fresh connections to
programs that go on running. The median time counts, and the most memory: what was taken once is kept.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import struct
import sys
import time
from typing import NamedTuple

import psutil
from targets import DATABASE, USER, Bench, Process

_STARTUP = b"user\0%s\0database\0%s\0\0" % (USER.encode(), DATABASE.encode())
_LOGIN = struct.pack("!II", 8 + len(_STARTUP), 3 << 16) + _STARTUP
_READY = b"Z\0\0\0\5I"
_SETTLE_S = 1.0


class Round(NamedTuple):
    """What one round measured."""

    login_s: float
    cpu_s: float
    client_bytes: float


def log_in(port: int, count: int) -> list[socket.socket]:
    """Return the connections of clients that have logged in, all at the same time."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
    for client in clients:
        client.sendall(_LOGIN)
    for client in clients:
        said = b""
        while not said.endswith(_READY):
            received = client.recv(4096)
            if not received:
                raise RuntimeError(f"a login was refused: {said!r}")
            said += received
    return clients


def used(process: Process) -> tuple[float, int]:
    """Return the CPU time and the memory that a program and its children have taken."""
    root = psutil.Process(process.pid)
    every = (root, *root.children(recursive=True))
    cpu = (each.cpu_times() for each in every)
    return sum(each.user + each.system for each in cpu), sum(each.memory_full_info().uss for each in every)


def measure(process: Process, clients_count: int, burst: int) -> Round:
    """Log clients in, look, and let them go."""
    cpu_before_s, before = used(process)
    began_s = time.perf_counter()
    clients: list[socket.socket] = []
    while len(clients) < clients_count:
        clients += log_in(process.port, min(burst, clients_count - len(clients)))
    login_s = time.perf_counter() - began_s
    cpu_s = used(process)[0] - cpu_before_s
    time.sleep(_SETTLE_S)
    taken = used(process)[1] - before
    for client in clients:
        client.close()
    time.sleep(_SETTLE_S)
    return Round(login_s, cpu_s, taken / clients_count)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the programs inherit it
    with Bench(1) as bench:
        bench.build()
        measured: dict[str, list[Round]] = {}
        for _ in range(arguments.rounds):
            for process in bench.processes:
                if process.name in ("crossfade", "pgbouncer"):
                    round_ = measure(process, arguments.clients, arguments.burst)
                    measured.setdefault(process.name, []).append(round_)
        for name, rounds in measured.items():
            login_s = statistics.median(each.login_s for each in rounds)
            cpu_us = min(each.cpu_s for each in rounds) / arguments.clients * 1e6
            # Memory once taken is kept, so only the first round sees all of it.
            client_bytes = max(each.client_bytes for each in rounds)
            print(
                f"{name:<10} {arguments.clients:,} clients in bursts of {arguments.burst}: {login_s:.2f} s"
                f" to log in ({arguments.clients / login_s:,.0f}/s; {cpu_us:,.0f} us of CPU each),"
                f" {client_bytes:,.0f} bytes each"
            )
        for line in bench.missing:
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
