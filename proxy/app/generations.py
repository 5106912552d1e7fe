"""Online restart: the next generation takes the port over without refusing anybody.

Both generations listen on the same port (SO_REUSEPORT), each of their sockets with a queue of
its own. A connection in the queue of a socket that is closed is lost, and so is one whose
handshake is not complete; so a socket must get no new connections for a while before it is
closed. The steps:

    1  the next generation listens, when it is ready to serve
    2  it steers the kernel: new connections go to its sockets alone
    3  the generation before gets SIGTERM, from whoever started the next one: it accepts what its
       queues hold, closes them, and drains
    4  the next generation is alone, and steers no more

The kernel keeps the sockets of a port in the order in which they began to listen. The steering
is a program of classic BPF that returns an index into that order, at random among ours; an
index that does not exist means the kernel's own choice (reuseport_select_sock in
net/core/sock_reuseport.c). Where there is no such thing (not Linux), step 2 is left out, and a
connection that arrives in the instant of step 3 may be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys
from pathlib import Path

from proxy.config.dsn import Address

_SO_ATTACH_REUSEPORT_CBPF, _SO_DETACH_REUSEPORT_BPF = 51, 68
_LOAD_WORD, _MODULO, _ADD, _RETURN_A = 0x20, 0x94, 0x04, 0x16
_RANDOM = 0xFFFF_F000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_INSTRUCTION = struct.Struct("=HBBI")
_LISTENING = "0A"
_TABLES = {socket.AF_INET: "/proc/net/tcp", socket.AF_INET6: "/proc/net/tcp6"}


def program(first: int, count: int) -> bytes:
    """Return the program that chooses among `count` sockets, beginning with number `first`."""
    steps = [(_LOAD_WORD, _RANDOM), (_MODULO, count), (_ADD, first), (_RETURN_A, 0)]
    return b"".join(_INSTRUCTION.pack(code, 0, 0, operand) for code, operand in steps)


def steer(listening: socket.socket, first: int, count: int) -> bool:
    """Send new connections of a socket's port to some of its sockets; return whether that is possible.

    Args:
        count: 0: to all of them again.
    """
    if sys.platform != "linux":
        return False
    try:
        if not count:
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
            return True
        code = program(first, count)
        buffer = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, header)
    except OSError:
        return False
    return True


def listeners_count(address: Address) -> int:
    """Return how many sockets listen on an address; 0 where the kernel does not say."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        place = f"{_hexadecimal(found[0], str(found[4][0]))}:{address.port:04X}"
        rows = [line.split() for line in Path(_TABLES[found[0]]).read_text().splitlines()[1:]]
        return sum(row[1] == place and row[3] == _LISTENING for row in rows)
    return 0


def _hexadecimal(family: socket.AddressFamily, host: str) -> str:
    """Return an address as the kernel prints it: words of four bytes, each as a native number."""
    packed = socket.inet_pton(family, host)
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def queued(listening: socket.socket) -> list[socket.socket]:
    """Return the connections that wait to be accepted."""
    accepted = []
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted.append(listening.accept()[0])
    return accepted
