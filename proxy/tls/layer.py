"""Encryption between a transport and a protocol that know nothing of it.

    socket <-> transport <-> TlsLayer <-> protocol

To the transport the layer is the protocol, to the protocol it is the transport. It can be
put in at any time, with bytes that were read already: PostgreSQL's TLS begins in the
middle of a connection, or is recognised by its first byte.

Rule 1: nothing that arrived before the handshake reaches the protocol as if it had been
encrypted, and nothing is written before the handshake is complete.
Rule 2: the layer holds no plaintext. What a chunk decrypts to is handed on in one call;
what is written is encrypted at once, and the transport's buffer limits count it.
Rule 3: the end is announced (close_notify) and not waited for: every message of the
protocol has a length, so a truncated stream is noticed anyway.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

_RECORD_BYTES_MAX = 16 * 1024


class TlsLayer(asyncio.Protocol):
    """One encrypted connection.

    Args:
        inner: The protocol that the connection belongs to; it has the transport already.
        hostname: Of the server, when we are its client; None: we are the server.
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        transport: asyncio.Transport,
        context: ssl.SSLContext,
        *,
        hostname: str | None = None,
    ) -> None:
        self._inner = inner
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=hostname is None, server_hostname=hostname
        )
        self._is_established = False
        self._has_ended = False
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_closing = transport.is_closing
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.set_write_buffer_limits = transport.set_write_buffer_limits
        self.pause_writing, self.resume_writing = inner.pause_writing, inner.resume_writing  # type: ignore[method-assign]

    def start(self, received: bytes = b"") -> asyncio.Transport:
        """Begin the handshake; return what the protocol writes to from now on.

        `established` is done when it is complete, and fails with an OSError when it fails.

        Args:
            received: The peer's first bytes, if they have been read.
        """
        self._transport.set_protocol(self)
        self.data_received(received)
        return cast(asyncio.Transport, self)

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """The peer's certificate as far as it was verified; empty if it was not."""
        return self._tls.getpeercert() or {}

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The peer's certificate, verified or not."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def application_protocol(self) -> str | None:
        """What ALPN agreed on."""
        return self._tls.selected_alpn_protocol()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Take bytes from the peer: more of the handshake, or records."""
        self._incoming.write(data)
        try:
            plaintext = self._read() if self._is_established or self._shake_hands() else b""
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()  # an answer of TLS itself
        if plaintext:
            self._inner.data_received(plaintext)
        if self._has_ended and not self._transport.is_closing():
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.established.done():
            self.established.set_exception(
                exc or ConnectionResetError("the connection ended during the TLS handshake")
            )
        self._inner.connection_lost(exc)

    # What the protocol calls.

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if not self._is_established or self._transport.is_closing():
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:
            self._transport.abort()
            return
        self._flush()

    def close(self) -> None:
        """Send what is buffered, say goodbye, and end the connection."""
        if self._is_established and not self._transport.is_closing():
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's goodbye, which nobody waits for
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()

    def _shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self._is_established = True
        if not self.established.done():
            self.established.set_result(None)
        return True

    def _read(self) -> bytes:
        """Return what can be decrypted by now."""
        parts: list[bytes] = []
        try:
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(_RECORD_BYTES_MAX)
                if not part:
                    self._has_ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:  # a record that is not whole yet
            pass
        except ssl.SSLZeroReturnError:
            self._has_ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._transport.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """End a connection whose peer breaks TLS, or whom we do not accept; it gets an alert."""
        self._flush()
        if not self.established.done():
            self.established.set_exception(error)
        self._transport.close()
