"""Steering new connections to some of the sockets of a port, in a real kernel."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.app import generations, sockets
from proxy.config.dsn import Address

COUNT = 60


@pytest.fixture
def four() -> Iterator[list[socket.socket]]:
    """Four sockets on one port, in the order in which they began to listen."""
    with ExitStack() as stack:
        first = stack.enter_context(sockets.tcp(Address("127.0.0.1", 0)))
        first.listen(COUNT)
        address = Address(*first.getsockname()[:2])
        others = [stack.enter_context(sockets.tcp(address)) for _ in range(3)]
        for each in others:
            each.listen(COUNT)
        yield [first, *others]


def arrivals(listening: list[socket.socket]) -> list[int]:
    """Connect many times; return how many each socket got."""
    with ExitStack() as stack:
        for _ in range(COUNT):
            stack.enter_context(socket.create_connection(listening[-1].getsockname()[:2]))
        counts = []
        for each in listening:
            each.setblocking(False)
            accepted = generations.queued(each)
            counts.append(len(accepted))
            for client in accepted:
                client.close()
    return counts


def test_new_connections_go_where_they_are_steered(four: list[socket.socket]) -> None:
    if not generations.steer(four[3], 2, 2):
        pytest.skip("this kernel cannot steer: Linux 4.5 or newer is needed")
    counts = arrivals(four)
    assert counts[:2] == [0, 0] and sum(counts) == COUNT and all(counts[2:])


def test_without_steering_the_generation_that_ends_gets_new_clients(four: list[socket.socket]) -> None:
    generations.steer(four[3], 2, 2)
    generations.steer(four[3], 0, 0)
    assert all(arrivals(four))


def test_whoever_is_queued_is_served_after_the_socket_is_closed(four: list[socket.socket]) -> None:
    with socket.create_connection(four[0].getsockname()) as client:
        accepted = take_queued(four)
        for each in four:
            each.close()
        (served,) = accepted
        with served:
            served.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_without_taking_the_queue_its_client_is_lost(four: list[socket.socket]) -> None:
    with socket.create_connection(four[0].getsockname()) as client:
        for each in four:
            each.close()
        with pytest.raises(ConnectionResetError):
            client.recv(5)


def take_queued(listening: list[socket.socket]) -> list[socket.socket]:
    """Accept whatever waits at any of some sockets."""
    for each in listening:
        each.setblocking(False)
    return [accepted for each in listening for accepted in generations.queued(each)]


def test_when_the_generation_before_is_gone_its_successors_get_everything(four: list[socket.socket]) -> None:
    if not generations.steer(four[3], 2, 2):
        pytest.skip("this kernel cannot steer: Linux 4.5 or newer is needed")
    for each in four[:2]:
        each.close()
    assert sum(arrivals(four[2:])) == COUNT


def test_the_sockets_that_listen_are_counted(four: list[socket.socket]) -> None:
    address = Address(*four[0].getsockname()[:2])
    assert generations.listeners_count(address) == 4
    four[0].close()
    assert generations.listeners_count(address) == 3
    assert generations.listeners_count(Address(address.host, 1)) == 0


def test_addresses_are_found_as_the_kernel_prints_them() -> None:
    printed = {
        (socket.AF_INET, "127.0.0.1"): bytes([127, 0, 0, 1]),
        (socket.AF_INET6, "::1"): bytes(15) + b"\1",
    }
    for (family, host), packed in printed.items():
        found = generations._hexadecimal(family, host)
        words = [int(found[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(found), 8)]
        assert b"".join(words) == packed
