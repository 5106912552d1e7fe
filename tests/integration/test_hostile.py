"""Clients that are wrong, broken or hostile get an error or a closed connection, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from proxy.demo.clusters import Cluster
from tests.integration.conftest import Cross
from tests.integration.protocol import SYNC, Message, Raw, bind, execute, parse, query
from tests.integration.through import Crossing
from tests.roles import ensure_roles
from tests.running import DATABASE

LOGIN_TIMEOUT_S = 2
CLIENTS_MAX = 60
LIMITS = {"login_timeout": f"{LOGIN_TIMEOUT_S}s", "max_clients": CLIENTS_MAX, "message_bytes_max": "32MB"}
GIB = 1 << 30
MEMORY_GROWTH_MAX = 64 << 20
SESSION_BYTES_MAX = 2 << 20  # of a session whose client does not read, whatever the result is
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def through(pg16: Cluster, pg18: Cluster, cross: Cross) -> Crossing:
    """A proxy with tight limits, and a user with a password."""
    users = [{"name": "postgres"}, {"name": "nobody_there"}]
    changes = {"users": [*users, {"name": "guarded", "auth": "scram", "password": PASSWORD}]}
    for cluster in (pg16, pg18):
        ensure_roles(cluster, "guarded", options="LOGIN SUPERUSER")
    return cross(changes=changes, limits=LIMITS)


def worker(through: Crossing) -> psutil.Process:
    """Return the process that serves clients."""
    assert through.running.process is not None
    children = psutil.Process(through.running.process.pid).children(recursive=True)
    (found,) = [child for child in children if child.cmdline()[3:5] == ["worker", "0"]]
    return found


@asynccontextmanager
async def undisturbed(through: Crossing) -> AsyncIterator[None]:
    """Work as an ordinary client all the while; nothing may fail, or take 10 s."""
    connection = await asyncpg.connect(through.url, timeout=10, command_timeout=10)
    stopping = asyncio.Event()

    async def work() -> float:
        slowest_s = 0.0
        loop = asyncio.get_running_loop()
        number = 0
        while not stopping.is_set():
            begun_s = loop.time()
            number += 1
            key = await connection.fetchval(
                "INSERT INTO account (email, name) VALUES (gen_random_uuid()::text, $1) RETURNING id",
                str(number),
            )
            assert await connection.fetchval("SELECT name FROM account WHERE id = $1", key) == str(number)
            slowest_s = max(slowest_s, loop.time() - begun_s)
            await asyncio.sleep(0.005)
        return slowest_s

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        stopping.set()
        slowest_s = await working
        await connection.close()
    print(f"a client that was not concerned waited for {slowest_s * 1000:.0f} ms at the most")


def connect(through: Crossing) -> socket.socket:
    """Return a socket to the proxy on which nothing has been said."""
    return socket.create_connection(("127.0.0.1", through.running.port), timeout=10)


def rest(client: socket.socket) -> bytes:
    """Return what the proxy says until it closes the connection."""
    said = b""
    try:
        while received := client.recv(65536):
            said += received
    except ConnectionResetError:
        pass
    return said


async def until_gone(through: Crossing) -> None:
    """Wait until no client is connected."""
    await through.running.wait_for(lambda told: told["clients"]["count"] == 0)


async def test_wrong_password_and_unknown_user_cannot_be_told_apart(through: Crossing) -> None:
    port = through.running.port
    async with undisturbed(through):
        told = []
        for user, password in (("guarded", "wrong"), ("guarded", ""), ("stranger", "wrong")):
            with pytest.raises(asyncpg.InvalidPasswordError) as refused:
                await asyncpg.connect(
                    host="127.0.0.1", port=port, user=user, password=password, database=DATABASE
                )
            assert refused.value.sqlstate == "28P01"
            told.append(str(refused.value).replace(user, "USER"))
        assert len(set(told)) == 1
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, user="guarded", password=PASSWORD, database=DATABASE
        )
        assert await connection.fetchval("SELECT current_user") == "guarded"
        await connection.close()


async def test_unknown_database_and_role_are_named(through: Crossing) -> None:
    port = through.running.port
    with pytest.raises(asyncpg.InvalidCatalogNameError, match='database "nowhere" does not exist'):
        await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="nowhere")
    with pytest.raises(
        asyncpg.InvalidAuthorizationSpecificationError, match='role "nobody_there" does not exist'
    ):
        await asyncpg.connect(host="127.0.0.1", port=port, user="nobody_there", database=DATABASE)
    with pytest.raises(asyncpg.InvalidParameterValueError, match='invalid value for parameter "TimeZone"'):
        await asyncpg.connect(through.url, server_settings={"TimeZone": "Nowhere/Land"})


def startup(body: bytes) -> bytes:
    """Return a startup packet."""
    return struct.pack("!II", 8 + len(body), 3 << 16) + body


NOISE = {
    "zeros": bytes(64),
    "http": b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
    "tls without asking": bytes.fromhex("1603010200010001fc0303") + os.urandom(64),
    "length of a gibibyte": struct.pack("!II", GIB, 3 << 16),
    "length of nothing": struct.pack("!II", 0, 3 << 16),
    "negative length": b"\xff\xff\xff\xff" + struct.pack("!I", 3 << 16),
    "another protocol": struct.pack("!II", 8, 2 << 16),
    "no terminator": startup(b"user\0postgres"),
    "no user": startup(b"\0"),
    "names that are no text": startup(b"user\0\xff\xfe\0\xfd\0\xff\0\0"),
    "cancel of nobody": struct.pack("!IIII", 16, 1234 << 16 | 5678, 1, 2),
    "cancel without a key": struct.pack("!II", 8, 1234 << 16 | 5678),
    "two requests for encryption": struct.pack("!II", 8, 1234 << 16 | 5679) * 2,
}  # fmt: skip


@pytest.mark.parametrize("noise", NOISE)
async def test_noise_in_the_place_of_a_login_ends_the_connection(through: Crossing, noise: str) -> None:
    async with undisturbed(through):
        with connect(through) as client:
            client.sendall(NOISE[noise])
            client.shutdown(socket.SHUT_WR) if noise.startswith("two") else None
            said = await asyncio.to_thread(rest, client)
        assert said == b"" or said in (b"N", b"NN") or said.startswith((b"E", b"NE", b"R")), said


AFTER_LOGIN = {
    "length of a gibibyte": b"Q" + struct.pack("!I", GIB),
    "length of a gibibyte and much of it": b"d" + struct.pack("!I", GIB) + bytes(1 << 20),
    "length below its own": b"Q" + struct.pack("!I", 3),
    "no such message": Message("!", b"what").encode(),
    "a server's message": Message("Z", b"I").encode(),
    "a query without its end": Message("Q", b"").encode(),
    "a parse without its end": Message("P", b"name\0SELECT 1").encode() + SYNC.encode(),
    "a parse with too many types": Message("P", b"\0SELECT 1\0\xff\xff").encode() + SYNC.encode(),
    "a bind without its end": Message("B", b"\0").encode() + SYNC.encode(),
    "an execute without its end": Message("E", b"").encode() + SYNC.encode(),
    "a describe of neither": Message("D", b"X\0").encode() + SYNC.encode(),
    "a describe without its end": Message("D", b"Sname").encode() + SYNC.encode(),
    "a close of nothing": Message("C", b"").encode() + SYNC.encode(),
    "a password when none was asked for": Message("p", b"secret\0").encode(),
}  # fmt: skip


@pytest.mark.parametrize("noise", AFTER_LOGIN)
async def test_noise_after_the_login_costs_that_session_alone(through: Crossing, noise: str) -> None:
    """As in PostgreSQL: an error, after which the session may go on, or its end."""
    async with undisturbed(through):
        with Raw(through.running.port, DATABASE) as client:
            said = await asyncio.to_thread(conversation, client, AFTER_LOGIN[noise])
    if said != ["closed"]:  # what was said before it was closed is lost when much was never read
        assert said[0].startswith("E") and "'C': '08P01'" in said[0], said
        assert said[-1] == "closed" or "D [b'still here']" in said, said
    else:
        assert len(AFTER_LOGIN[noise]) > 100_000


def conversation(client: Raw, noise: bytes) -> list[str]:
    """Return what is said until the connection ends, or the query behind the noise is answered."""
    said: list[str] = []
    try:
        client.socket.sendall(noise + query("SELECT 'still here'").encode())
        while not said or not said[-1].startswith("C"):
            said.append(client.line())
    except (EOFError, ConnectionResetError):
        said.append("closed")
    return said


async def test_client_that_says_nothing_is_shown_out(through: Crossing) -> None:
    async with undisturbed(through):
        clients = [connect(through) for _ in range(CLIENTS_MAX // 2)]
        clients[0].sendall(b"\0\0")  # half a length is as good as nothing
        said = await asyncio.gather(*(asyncio.to_thread(rest, client) for client in clients))
        assert all(b"login took too long" in each for each in said)
        for client in clients:
            client.close()
    await until_gone(through)


async def test_silence_in_the_middle_of_the_authentication_is_as_bad(through: Crossing) -> None:
    with connect(through) as client:
        client.sendall(startup(b"user\0guarded\0database\0app\0\0"))
        said = await asyncio.to_thread(rest, client)
    assert said.startswith(b"R")
    assert b"login took too long" in said


async def test_client_that_vanishes_leaves_no_transaction_behind(through: Crossing) -> None:
    async with undisturbed(through):
        with Raw(through.running.port, DATABASE) as client:
            client.ask([query("BEGIN; INSERT INTO account (email) VALUES ('vanished'); SELECT 1")])
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with Raw(through.running.port, DATABASE) as client:
            client.ask([query("BEGIN; INSERT INTO account (email) VALUES ('vanished')")])
            client.socket.sendall(query("SELECT pg_sleep(60)").encode())
        with Raw(through.running.port, DATABASE) as client:
            client.ask([query("BEGIN; INSERT INTO account (email) VALUES ('vanished')")])
            client.socket.sendall(query("COMMIT").encode()[:-3])  # never whole
        # It waits for the three that bear the same unique value: they must have ended.
        connection = await asyncpg.connect(through.url, command_timeout=20)
        assert await connection.execute("INSERT INTO account (email) VALUES ('vanished')") == "INSERT 0 1"
        await connection.close()
    await until_gone(through)
    await through.running.wait_for(lambda told: told["clients"]["active"] == 0)


async def test_a_cancel_that_overtakes_its_statement_is_said_again(through: Crossing) -> None:
    """The server's process has read nothing yet when the first cancel arrives: it cancels nothing."""
    watcher = await asyncpg.connect(through.side_url(0))
    with Raw(through.running.port, DATABASE) as client:
        client.ask([query("BEGIN; INSERT INTO account (email) VALUES ('overtaken')")])
        pid = await watcher.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in%' AND query LIKE '%overtaken%'"
        )
        os.kill(pid, signal.SIGSTOP)
        client.socket.sendall(query("SELECT pg_sleep(60)").encode())
    try:
        while not has_pending(pid, signal.SIGINT):
            await asyncio.sleep(0.01)
    finally:
        os.kill(pid, signal.SIGCONT)
    connection = await asyncpg.connect(through.url, command_timeout=20)
    assert await connection.execute("INSERT INTO account (email) VALUES ('overtaken')") == "INSERT 0 1"
    await connection.close()
    await watcher.close()
    await until_gone(through)


def has_pending(pid: int, number: int) -> bool:
    """Return whether a signal waits for a process (that is stopped)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (pending,) = [int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:")]
    return bool(pending >> (number - 1) & 1)


async def test_dead_peers_are_noticed_by_keepalive(through: Crossing) -> None:
    """A peer that is gone without a word cannot be made here; the timer that finds it can be seen."""
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs /proc/net/tcp (Linux)")
    with Raw(through.running.port, DATABASE) as client:
        ends = f":{through.running.port:04X}", f":{client.socket.getsockname()[1]:04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        (timer,) = [words[5] for words in lines if (words[1][8:], words[2][8:]) == ends]
        kind, when = timer.split(":")
        assert kind == "02", "no keepalive timer"
        assert int(when, 16) / os.sysconf("SC_CLK_TCK") <= 60


async def test_client_that_never_reads_costs_no_memory(through: Crossing) -> None:
    process = worker(through)
    async with undisturbed(through):
        before = process.memory_info().rss
        clients = [Raw(through.running.port, DATABASE) for _ in range(12)]
        for client in clients:
            # 400 MB each, in rows of 1 MB: to keep even a tenth of it would show.
            client.socket.sendall(query("SELECT repeat('x', 1000000) FROM generate_series(1, 400)").encode())
        peak = 0
        for _ in range(30):
            await asyncio.sleep(0.1)
            peak = max(peak, process.memory_info().rss)
        assert peak - before < len(clients) * SESSION_BYTES_MAX
        told = through.running.status()
        assert told["clients"]["active"] >= len(clients)
        for client in clients[1:]:
            client.socket.close()
        # One changes its mind: it gets everything.
        received = await asyncio.to_thread(
            lambda: sum(len(body) for code, body in read_result(clients[0]) if code == "D")
        )
        assert received == 400 * (1000000 + 6)
        clients[0].close()
        assert process.memory_info().rss - before < MEMORY_GROWTH_MAX
    await until_gone(through)


def read_result(client: Raw) -> Iterator[tuple[str, bytes]]:
    """Yield the messages of one answer."""
    code = ""
    while code != "Z":
        code, body = client.receive()
        yield code, body


async def test_giant_query_is_served_or_refused_and_forgotten(through: Crossing) -> None:
    process = worker(through)
    before = process.memory_info().rss
    async with undisturbed(through):
        with Raw(through.running.port, DATABASE) as client:
            for text in (
                "SELECT length('" + "x" * (10 << 20) + "')",
                "SELECT count(*) FROM account WHERE id IN (" + ", ".join(map(str, range(500_000))) + ")",
                "SELECT " + "+".join(["1"] * 3000),
                "UPDATE account SET name = '" + "y" * (8 << 20) + "' WHERE id = -1",
                "INSERT INTO account (email, name) VALUES "
                + ", ".join(f"('giant{n}', 'g')" for n in range(20_000)) + " ON CONFLICT DO NOTHING",
            ):  # fmt: skip
                answer = await asyncio.to_thread(client.ask, [query(text)])
                assert answer[-1] == "Z b'I'" and not answer[0].startswith("E"), answer[:1]
            bound = [parse("SELECT length($1)"), bind("z" * (10 << 20)), execute(), SYNC]
            answer = await asyncio.to_thread(client.ask, bound)
            assert "D [b'10485760']" in answer
            client.close()
        with Raw(through.running.port, DATABASE) as client:
            client.socket.sendall(b"Q" + struct.pack("!I", 33 << 20))
            said = await asyncio.to_thread(rest, client.socket)
            assert b"C08P01\0" in said and b"limits.message" in said
    assert process.memory_info().rss - before < 3 * MEMORY_GROWTH_MAX
    await until_gone(through)
    await through.assert_equal()


async def test_one_client_too_many_is_told_so(through: Crossing) -> None:
    await until_gone(through)
    clients = [Raw(through.running.port, DATABASE) for _ in range(CLIENTS_MAX)]
    with pytest.raises(asyncpg.TooManyConnectionsError) as refused:
        await asyncpg.connect(through.url)
    assert refused.value.sqlstate == "53300"
    assert clients[0].ask([query("SELECT 1")])[-1] == "Z b'I'"
    for client in clients:
        client.close()
    await until_gone(through)
    connection = await asyncpg.connect(through.url)
    await connection.close()
