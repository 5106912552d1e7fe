"""Find out about peers that are gone without a word: their machine died, or a firewall forgot them.

TCP says nothing on an idle connection for as long as it lives. With keepalive a dead peer is
noticed after about two minutes, instead of holding a transaction, or a place among
`max_clients`, for ever.
"""

from __future__ import annotations

import socket

_IDLE_S, _INTERVAL_S, _PROBES_COUNT = 60, 15, 4


def keep_alive(found: socket.socket | None) -> None:
    """Have the kernel probe the peer of a TCP connection, or of all that a listening socket accepts."""
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has its own name for it, and two hours by default
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES_COUNT)
