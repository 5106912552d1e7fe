"""The server that works for one session, and the flow between the two sockets.

Flow control passes through: a client that reads too slowly stops the reading from its
server, a server that reads too slowly stops the reading from its client. Both end when
the session gives the server back.
"""

from __future__ import annotations

from proxy.server.client import Client
from proxy.server.hold import Hold
from proxy.server.request import Request
from proxy.session.settings import Settings
from proxy.upstream.connection import Owner, ServerConnection
from proxy.upstream.pool import Pool, Waiter

_SERVER = "server reads slowly"


class Link:
    """At most one server, and the pool it is from or that is being waited for."""

    def __init__(self, owner: Owner, client: Client, hold: Hold[Request]) -> None:
        self.server: ServerConnection | None = None
        self.pool: Pool | None = None
        self._owner = owner
        self._client = client
        self._hold = hold
        self._is_server_paused = False
        self._is_client_paused = False

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancel is on its way to the server."""
        return self.server is not None and self.server.cancels_count > 0

    def take(self, pool: Pool, wanted: Settings, drawer: object = None) -> ServerConnection | None:
        """Take an idle connection of a pool at once, or return None; otherwise as `Pool.take`."""
        server = pool.take(wanted, drawer)
        if server is not None:
            self.pool, self.server, server.owner = pool, server, self._owner
        return server

    def take_or_wait(
        self, pool: Pool, wanted: Settings, waiter: Waiter, drawer: object = None
    ) -> ServerConnection | None:
        """Take an idle connection of a pool, or return None and wait for one."""
        server = self.take(pool, wanted, drawer)
        if server is None:
            self.pool = pool
            pool.wait(waiter)
        return server

    def attach(self, server: ServerConnection) -> None:
        """Own a connection that `pool` has lent."""
        server.owner = self._owner
        self.server = server

    def begins_write(self) -> None:
        """Note that a write transaction is in flight until the server is given back."""
        self._hold.enter(self._owner)

    def stop_waiting(self, waiter: Waiter) -> None:
        """Leave the queue of the pool, if there is no server yet."""
        if self.pool is not None and self.server is None:
            self.pool.leave(waiter)
            self.pool = None

    def release(self, *, is_usable: bool = True) -> None:
        """Give the server back; the pool closes it if it is not usable by anybody else."""
        server, pool = self.server, self.pool
        self.server = self.pool = None
        if server is None or pool is None:
            return
        server.is_usable &= is_usable
        self._hold.leave(self._owner)
        if self._is_server_paused:
            self._is_server_paused = False
            server.resume_reading()
        if self._is_client_paused:
            self.server_writable(True)
        pool.release(server)

    def server_writable(self, is_writable: bool) -> None:
        """The server reads too slowly (False), or again (True)."""
        self._is_client_paused = not is_writable
        if is_writable:
            self._client.resume_reading(_SERVER)
        else:
            self._client.pause_reading(_SERVER)

    def client_writable(self, is_writable: bool) -> None:
        """The client reads too slowly (False), or again (True)."""
        if self.server is not None and is_writable == self._is_server_paused:
            self._is_server_paused = not is_writable
            if is_writable:
                self.server.resume_reading()
            else:
                self.server.pause_reading()
