"""Two generations on one port: the next takes over, and no client is refused or lost."""

from __future__ import annotations

import asyncio
import copy
import threading
from pathlib import Path

import psycopg

from tests.running import DATABASE, Running


class Arrivals(threading.Thread):
    """Clients that come one after the other, ask something and leave, until told to stop."""

    def __init__(self, conninfo: str) -> None:
        super().__init__()
        self._conninfo = conninfo
        self._stopping = threading.Event()
        self.count = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True) as client:
                    assert client.execute("SELECT 1").fetchone() == (1,)
                self.count += 1
            except psycopg.Error as error:
                self.failures.append(str(error))

    def stop(self) -> None:
        self._stopping.set()
        self.join()


async def test_the_next_generation_takes_over_without_a_refused_client(
    old_db: str, new_db: str, tmp_path: Path
) -> None:
    changes = {"mirror": {"enabled": False}}
    top = {"unix_socket_dir": str(tmp_path), "workers": 2}
    with Running(tmp_path, old_db, new_db, changes, **top) as first, copy.copy(first) as second:
        first.start()
        common = f"port={first.port} user=postgres dbname={DATABASE} sslmode=disable"
        arrivals = [Arrivals(f"host={host} {common}") for host in ("127.0.0.1", "127.0.0.1", tmp_path)]
        for each in arrivals:
            each.start()
        try:
            second.log = tmp_path / "second.log"
            second.start()
            while "new clients come here" not in second.log.read_text():
                await asyncio.sleep(0.05)
            with psycopg.connect(second.url()) as open_one:
                open_one.execute("CREATE TABLE kept (id int)")
                assert await asyncio.to_thread(first.stop) == 0
                counts = [each.count for each in arrivals]
                while any(each.count < count + 20 for each, count in zip(arrivals, counts, strict=True)):
                    assert [each.failures for each in arrivals] == [[], [], []]
                    await asyncio.sleep(0.05)
                open_one.execute("SELECT * FROM kept")
        finally:
            for each in arrivals:
                each.stop()
        assert [each.failures for each in arrivals] == [[], [], []]
        await second.wait_for(lambda told: told["authority"] == "old")  # its own admin side
        assert second.stop() == 0
        assert not (tmp_path / f".s.PGSQL.{first.port}").exists()
