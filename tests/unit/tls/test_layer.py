"""Two layers that talk to each other in memory: every cut of the stream, and every way to end."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import cast

import pytest

from proxy.config.dsn import Dsn
from proxy.config.serving import Tls
from proxy.tls.contexts import ALPN, binding_of, for_clients, for_server
from proxy.tls.layer import TlsLayer
from tests.certificates import Authority
from tests.unit.upstream.sample import Transport


class Wire(Transport):
    """A transport whose protocol may be exchanged."""

    protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol


class Inner(asyncio.Protocol):
    """A protocol that notes what it is given."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class End:
    """One side of a connection."""

    def __init__(self, context: ssl.SSLContext, hostname: str | None = None) -> None:
        self.inner, self.wire = Inner(), Wire()
        self.layer = TlsLayer(self.inner, cast(asyncio.Transport, self.wire), context, hostname=hostname)


class Pair:
    """A server with a certificate of its own, and a client; the handshake has not begun."""

    def __init__(self, folder: Path, query: str = "", ca: str | None = None) -> None:
        self.authority = Authority(folder)
        signed = self.authority.sign("server", host="127.0.0.1")
        self.offered = for_clients(Tls(cert=str(signed.cert), key=str(signed.key), ca=ca))
        query = query or f"sslmode=verify-full&sslrootcert={self.authority.cert}"
        context = for_server(Dsn.parse(f"postgresql://me@127.0.0.1/app?{query}"))
        assert context is not None
        self.server, self.client = End(self.offered.context), End(context, "127.0.0.1")

    def exchange(self, piece_bytes: int = 1 << 20) -> None:
        """Deliver what both have written, in pieces, until there is nothing more."""
        while self.client.wire.written or self.server.wire.written:
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                sent = sender.wire.take_written()
                for at in range(0, len(sent), piece_bytes):
                    receiver.layer.data_received(sent[at : at + piece_bytes])

    def begin(self, piece_bytes: int = 1 << 20) -> None:
        """Complete the handshake."""
        self.client.layer.start()
        self.server.layer.start()
        self.exchange(piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 1 << 20])
async def test_what_is_written_arrives_however_it_is_cut(tmp_path: Path, piece_bytes: int) -> None:
    pair = Pair(tmp_path)
    pair.begin(piece_bytes)
    await pair.client.layer.established
    await pair.server.layer.established
    large = bytes(range(256)) * 200
    pair.client.layer.write(b"hello")
    pair.server.layer.write(large)
    pair.exchange(piece_bytes)
    assert b"".join(pair.server.inner.received) == b"hello"
    assert b"".join(pair.client.inner.received) == large
    assert pair.client.wire.protocol is pair.client.layer


async def test_a_chunk_of_several_records_is_handed_on_in_one_call(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.client.layer.write(bytes(100_000))
    pair.exchange()
    assert [len(each) for each in pair.server.inner.received] == [100_000]


async def test_the_first_bytes_may_have_been_read_already(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.client.layer.start()
    pair.server.layer.start(pair.client.wire.take_written())
    pair.exchange()
    assert pair.server.layer.application_protocol == pair.client.layer.application_protocol == ALPN


async def test_both_sides_bind_to_the_same_certificate(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    assert pair.offered.binding is not None
    assert pair.offered.binding == binding_of(pair.client.layer.peer_certificate_der)
    assert pair.server.layer.peer_certificate == {}


async def test_bytes_that_are_not_tls_never_reach_the_protocol(tmp_path: Path) -> None:
    """They may have been put there before the handshake by somebody in between."""
    pair = Pair(tmp_path)
    pair.server.layer.start(b"\0\0\0\x08\x04\xd2\x16\x2f")
    with pytest.raises(ssl.SSLError):
        await pair.server.layer.established
    assert pair.server.inner.received == [] and pair.server.wire.is_closed


async def test_a_record_that_was_tampered_with_ends_the_connection(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.client.layer.write(b"hello")
    sent = bytearray(pair.client.wire.take_written())
    sent[-1] ^= 1
    pair.server.layer.data_received(bytes(sent))
    assert pair.server.inner.received == [] and pair.server.wire.is_closed
    pair.server.layer.write(b"too late")


async def test_an_unknown_authority_is_refused_by_the_client_and_the_server_learns_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    pair = Pair(tmp_path, f"sslmode=verify-ca&sslrootcert={other.cert}")
    pair.begin()
    with pytest.raises(ssl.SSLCertVerificationError):
        await pair.client.layer.established
    with pytest.raises(ssl.SSLError):
        await pair.server.layer.established


async def test_nothing_is_written_before_the_handshake(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.server.layer.write(b"secret")
    assert pair.server.wire.written == b""
    pair.server.layer.close()
    assert pair.server.wire.is_closed


async def test_a_goodbye_ends_both_sides(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.begin()
    pair.client.layer.write(b"bye")
    pair.client.layer.close()
    pair.client.layer.close()
    pair.exchange()
    assert pair.server.inner.received == [b"bye"]
    assert pair.server.wire.is_closed and pair.client.wire.is_closed


async def test_a_peer_that_goes_away_during_the_handshake_is_an_error(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.client.layer.start()
    pair.client.layer.connection_lost(None)
    with pytest.raises(ConnectionResetError):
        await pair.client.layer.established
    assert pair.client.inner.lost == [None]


async def test_the_flow_passes_through(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.server.layer.pause_reading()
    assert pair.server.wire.is_paused
    pair.server.layer.resume_reading()
    assert not pair.server.wire.is_paused and not pair.server.layer.is_closing()
    pair.server.layer.abort()
    assert pair.server.wire.is_aborted
