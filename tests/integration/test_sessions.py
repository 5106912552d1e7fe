"""Sessions read their own writes wherever they read, and share few servers; operators see and steer it."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.demo.clusters import Cluster, VersionMissing
from proxy.metrics import COUNTERS, GAUGES, HISTOGRAMS
from tests.integration.through import Crossing, crossing
from tests.running import DATABASE

SCHEMA = """
CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO counter SELECT n, 0 FROM generate_series(1, 100) n;
"""
KEYS = {"counter": "id"}
CLIENTS_COUNT, PAIRS_COUNT = 8, 250
APPLY_DELAY_S = 0.2


@pytest.fixture(scope="module")
def replica(pg16: Cluster) -> Iterator[Cluster]:
    """A streaming replica that is always late, so that a read there too early would show."""
    try:
        cluster = Cluster(16, primary=pg16, settings={"recovery_min_apply_delay": f"{APPLY_DELAY_S}s"})
    except VersionMissing as missing:
        pytest.skip(str(missing))
    with cluster:
        yield cluster


@pytest.fixture
def make(
    pg16: Cluster, pg18: Cluster, tmp_path: Path, make_database: Callable[..., str]
) -> Iterator[Callable[..., Any]]:
    """Return a function that gives a proxy with the changes asked for."""

    def made(changes: dict[str, Any] | None = None, **top: Any) -> Any:
        return crossing(tmp_path, (pg16, pg18), make_database, SCHEMA, changes, **top)

    yield made


@asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    """Give that many connections."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(await asyncpg.connect(url, timeout=20, command_timeout=20))
            stack.push_async_callback(opened[-1].close)
        yield opened


def samples(through: Crossing) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what /metrics says."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{through.running.admin_port}/metrics", timeout=10
    ) as answer:
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert {f"{family.name}_total" if family.type == "counter" else family.name for family in families} == {
        *GAUGES, *COUNTERS, *HISTOGRAMS,
    }  # fmt: skip
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def reads(through: Crossing) -> dict[str, float]:
    """Return how many reads each destination has answered."""
    found = {}
    for (name, labels), value in samples(through).items():
        known = dict(labels)
        if name == "crossfade_statements_total" and known["kind"] == "read":
            found[known["destination"]] = value
    return found


def whole_status(through: Crossing) -> dict[str, Any]:
    """Return all of /api/status."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{through.running.admin_port}/api/status", timeout=10
    ) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


async def until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


async def write_and_read(connection: asyncpg.Connection, key: int) -> None:
    """Write and read the own row again and again, in every way that leaves a transaction behind."""
    for number in range(1, PAIRS_COUNT + 1):
        match number % 4:
            case 0:
                await connection.execute("UPDATE counter SET n = $1 WHERE id = $2", number, key)
            case 1:
                await connection.execute(f"UPDATE counter SET n = {number} WHERE id = {key}")
            case 2:
                async with connection.transaction():
                    await connection.execute("UPDATE counter SET n = $1 WHERE id = $2", number, key)
            case 3:
                text = "UPDATE counter SET n = $1 WHERE id = $2 RETURNING n"
                assert await connection.fetchval(text, number, key) == number
        seen = await connection.fetchval("SELECT n FROM counter WHERE id = $1", key)
        assert seen == number, f"read {seen} after writing {number}"


async def version(connection: asyncpg.Connection) -> int:
    """Return the version of the server that a session's reads go to."""
    text = "SELECT current_setting('server_version_num')::int FROM counter LIMIT 1"
    await connection.fetchval(text)  # the driver prepares it with a Flush: that goes to the authority
    return int(await connection.fetchval(text))


READERS_MAX = 40  # of so many, some read on either side at 50%
ROLLOUTS = {
    "a late replica": (True, "0%", "old_replica"),
    "the new cluster": (False, "100%", "new_primary"),
    "both": (True, "50%", "new_primary"),
}


@pytest.mark.parametrize("rollout", ROLLOUTS)
async def test_session_reads_its_own_writes(
    make: Callable[..., Any], pg16: Cluster, replica: Cluster, rollout: str
) -> None:
    has_replica, on_new, destination = ROLLOUTS[rollout]
    with make({"rollout": {"reads_on_new": on_new}}) as through:
        if has_replica:
            name = through.running.database["old"]["primary"].rsplit("/", 1)[1]
            through.running.database["old"]["replicas"] = [replica.url(name)]
            through.running.write()
            await through.running.wait_for(
                lambda told: any(
                    server["role"] == "replica" and server["is_up"] for server in told["servers"]
                )
            )
        await through.running.wait_converged()
        async with clients(through.url, CLIENTS_COUNT + READERS_MAX) as opened:
            writers = opened[:CLIENTS_COUNT]
            # Where a session reads is drawn when it logs in.
            versions = [await version(connection) for connection in opened[CLIENTS_COUNT:]]
            idle = opened[CLIENTS_COUNT + versions.index(min(versions))]
            late = opened[CLIENTS_COUNT + len(versions) - 1 - versions[::-1].index(max(versions))]
            before = reads(through)

            async def only_read(connection: asyncpg.Connection) -> int:
                count = 0
                while not all(task.done() for task in writing):
                    assert await connection.fetchval("SELECT count(*) FROM counter") == 100
                    count += 1
                return count

            writing = [
                asyncio.create_task(write_and_read(connection, key))
                for key, connection in enumerate(writers, 1)
            ]
            counts = await asyncio.gather(only_read(idle), only_read(late))
            await asyncio.gather(*writing)
            after = reads(through)
            assert sum(after.values()) - sum(before.values()) == CLIENTS_COUNT * PAIRS_COUNT + sum(counts)
            # Those who have written nothing never wait for anybody's writes to arrive.
            assert after.get(destination, 0) - before.get(destination, 0) > min(counts) / 2
            if rollout != "both":
                assert after[destination] - before.get(destination, 0) >= sum(counts) * 0.9
        await through.assert_equal(KEYS)


async def test_write_is_seen_at_once_by_who_wrote_it_and_later_by_others(
    make: Callable[..., Any], pg16: Cluster, replica: Cluster
) -> None:
    with make() as through:
        name = through.running.database["old"]["primary"].rsplit("/", 1)[1]
        through.running.database["old"]["replicas"] = [replica.url(name)]
        through.running.write()

        async def reads_on(connection: asyncpg.Connection) -> int:
            port: int = await connection.fetchval("SELECT inet_server_port()")
            return port

        async def until_it_reads_on_the_replica(connection: asyncpg.Connection) -> None:
            async with asyncio.timeout(20):
                while await reads_on(connection) != replica.port:
                    await asyncio.sleep(0.02)

        async with clients(through.url, 2) as (writer, reader):
            await until_it_reads_on_the_replica(reader)
            await writer.execute("UPDATE counter SET n = 1 WHERE id = 1")
            assert await reads_on(writer) == pg16.port
            assert await writer.fetchval("SELECT n FROM counter WHERE id = 1") == 1
            assert await reads_on(reader) == replica.port
            # Once it has arrived the writer reads there again, and still sees it.
            await until_it_reads_on_the_replica(writer)
            assert await writer.fetchval("SELECT n FROM counter WHERE id = 1") == 1


async def test_many_sessions_share_few_servers(make: Callable[..., Any]) -> None:
    with make({"pool": {"size": 3, "wait": "20s"}}) as through:
        async with clients(through.url, 40) as opened:

            async def work(connection: asyncpg.Connection, key: int) -> None:
                await connection.execute(f"SET my.own = '{key}'")
                for _ in range(10):
                    async with connection.transaction():
                        await connection.execute("UPDATE counter SET n = n + 1 WHERE id = $1", key)
                    assert await connection.fetchval("SELECT current_setting('my.own')") == str(key)

            async with asyncio.TaskGroup() as group:
                for key, connection in enumerate(opened, 1):
                    group.create_task(work(connection, key))
            assert await opened[0].fetchval("SELECT sum(n) FROM counter") == 400
            told = through.running.status()
            busy = sum(
                server["active"] + server["idle"] for server in told["servers"] if server["cluster"] == "old"
            )
            assert busy <= 3
        await through.assert_equal(KEYS)


async def test_wait_for_a_server_ends_with_an_error_and_the_session_goes_on(make: Callable[..., Any]) -> None:
    with make({"pool": {"size": 1, "wait": "300ms"}}) as through:
        async with clients(through.url, 2) as (first, second):
            transaction = first.transaction()
            await transaction.start()
            await first.execute("UPDATE counter SET n = 1 WHERE id = 1")
            with pytest.raises(asyncpg.TooManyConnectionsError, match="no server connection became free"):
                await second.fetchval("SELECT 1")
            await transaction.commit()
            assert await second.fetchval("SELECT n FROM counter WHERE id = 1") == 1


async def test_cancel_finds_its_session_in_another_worker(make: Callable[..., Any]) -> None:
    with make(workers=2) as through:
        async with clients(through.url, 12) as opened:
            # The kernel spreads both the sessions and the cancels over the workers.
            for connection in opened:
                with pytest.raises(TimeoutError):
                    await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
            assert [await connection.fetchval("SELECT 1") for connection in opened] == [1] * 12
            told = await through.running.wait_for(lambda told: told["clients"]["active"] == 0)
            assert told["clients"]["count"] == 12


async def test_metrics_tell_what_happened(make: Callable[..., Any]) -> None:
    with make() as through:
        await through.running.wait_converged()
        async with clients(through.url, 3) as (first, *_):
            await first.execute("UPDATE counter SET n = 5 WHERE id < 11")
            await first.fetch("SELECT * FROM counter")
            await through.running.wait_converged()
            found = samples(through)
            app = ("database", DATABASE)
            table = ("table", "public.counter")
            assert found["crossfade_clients", frozenset()] == 3
            write = frozenset({app, ("kind", "write"), ("destination", "old_primary")})
            assert found["crossfade_statements_total", write] == 1
            assert found["crossfade_statement_seconds_count", write] == 1
            assert found["crossfade_ledger_entries", frozenset({app, table})] == 0
            live = frozenset({app, table, ("origin", "live")})
            assert found["crossfade_converged_rows_total", live] >= 10
            assert found["crossfade_backfill_progress_ratio", frozenset({app, table})] == 1
            assert found["crossfade_authority", frozenset({app, ("cluster", "old")})] == 1
            assert found["crossfade_authority", frozenset({app, ("cluster", "new")})] == 0
            idle = frozenset({("cluster", "old"), ("role", "primary"), ("state", "idle")})
            assert found["crossfade_servers", idle] >= 1


async def test_reload_by_signal_and_by_file(make: Callable[..., Any]) -> None:
    with make() as through:
        applied = frozenset({("result", "applied")})

        def reloads() -> float:
            return samples(through)["crossfade_config_reloads_total", applied]

        async with clients(through.url, 1) as (connection,):
            assert through.running.process is not None
            assert reloads() == 0
            through.running.process.send_signal(signal.SIGHUP)
            await until(lambda: reloads() == 1)
            through.running.database["rollout"] = {"reads_on_new": "100%"}
            through.running.write()
            await through.running.wait_for(lambda told: told["rollout"]["reads_on_new_ratio"] == 1.0)
            await through.running.wait_converged()
            async with asyncio.timeout(20):
                while not (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 18"):
                    await asyncio.sleep(0.02)
            # What cannot change live is named, and the rest of the same file is applied.
            through.running.config["workers"] = 2
            through.running.database["rollout"] = {"reads_on_new": "0%"}
            through.running.write()
            await until(lambda: any("workers" in each for each in whole_status(through)["needs_restart"]))
            assert (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 16")


async def test_bad_configuration_leaves_the_old_one_in_force(make: Callable[..., Any]) -> None:
    with make() as through:
        async with clients(through.url, 1) as (connection,):
            good = through.running.file.read_text()
            through.running.database["rollout"] = {"reads_on_new": "100%", "reads_on_old": "0%"}
            through.running.write()
            await until(lambda: bool(whole_status(through)["config_problems"]))
            told = whole_status(through)
            (problem,) = told["config_problems"]
            line = next(
                number
                for number, text in enumerate(through.running.file.read_text().splitlines(), 1)
                if "reads_on_old" in text
            )
            assert problem.startswith(f"{through.running.file}:{line}: ") and "reads_on_old" in problem
            assert told["databases"][DATABASE]["rollout"]["reads_on_new_ratio"] == 0.0
            refused = ("crossfade_config_reloads_total", frozenset({("result", "refused")}))
            assert samples(through)[refused] == 1
            for word in ("status", "plan", "check"):
                done = through.running.command(word, check=False)
                assert done.returncode == 2 and f":{line}: " in done.stderr, done
            assert await connection.execute("UPDATE counter SET n = 1 WHERE id = 1") == "UPDATE 1"
            through.running.file.write_text("listen: [")
            await until(lambda: samples(through)[refused] == 2)
            through.running.file.write_text(good)
            await until(lambda: not whole_status(through)["config_problems"])
            assert await connection.fetchval("SELECT n FROM counter WHERE id = 1") == 1


async def test_sigterm_drains(make: Callable[..., Any]) -> None:
    with make() as through:
        async with clients(through.url, 2) as (idle, busy):
            transaction = busy.transaction()
            await transaction.start()
            await busy.execute("UPDATE counter SET n = 1 WHERE id = 1")
            process = through.running.process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            await until(idle.is_closed)
            with pytest.raises((OSError, asyncpg.PostgresError)):
                await asyncpg.connect(through.url, timeout=5)
            assert process.poll() is None, "it must wait for the transaction"
            await busy.execute("UPDATE counter SET n = 2 WHERE id = 2")
            await transaction.commit()
            assert await asyncio.to_thread(process.wait, 30) == 0
            through.running.process = None
        assert through.rows(0, "counter", "id").splitlines()[:2] == ["1\t1", "2\t2"]


async def test_sigterm_does_not_wait_for_ever(make: Callable[..., Any]) -> None:
    with make(limits={"drain_timeout": "500ms"}) as through:
        async with clients(through.url, 1) as (busy,):
            transaction = busy.transaction()
            await transaction.start()
            await busy.execute("UPDATE counter SET n = 1 WHERE id = 1")
            assert await asyncio.to_thread(through.running.stop) == 0
            await until(busy.is_closed)
        assert through.rows(0, "counter", "id").splitlines()[0] == "1\t0"
