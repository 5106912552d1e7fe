"""Where the demo plays: three clusters, the YAML file, and the `crossfade` processes.

Everything lives in one temporary folder and in children of this process; `close` ends
and deletes it all, at whatever point the building was interrupted.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, TypeVar

from proxy.demo.clusters import Cluster, die_with_parent, free_port

T = TypeVar("T")

DATABASE = "app"
PASSWORD = "crossfade-demo"

_FOLDER = Path(__file__).parent
_COMMAND = [sys.executable, "-m", "proxy"]
_STOP_TIMEOUT_S = 20
_LAST_LINES = 40
_COMMAND_TIMEOUT_S = 120

_ROLES = f"""
CREATE ROLE app LOGIN PASSWORD '{PASSWORD}';
CREATE ROLE crossfade LOGIN SUPERUSER;
CREATE DATABASE {DATABASE} OWNER crossfade;
"""

_YAML = """\
# The crossing of the shop's database. Edit a line and save: it takes effect at once.
listen: 127.0.0.1:{port}
admin: {{listen: 127.0.0.1:{admin_port}}}

databases:
  {database}:
    old:
      primary: "{old}"
      replicas: ["{replica}"]
    new:
      primary: "{new}"
      replicas: []
    users: [{{name: app, password_env: APP_PASSWORD}}]
    pool: {{size: 20, wait: 10s}}
    tables:
      include: ["public.*"]
      capture: {{order_lines: trigger}}     # its rows go with their order's: ON DELETE CASCADE
      order_by: {{users: "last_login DESC NULLS LAST"}}
    mirror: {{enabled: {mirror}}}
    backfill: {{enabled: {backfill}}}
    rollout:
      reads_on_new: {reads_on_new}
      sticky_by: session
      writes_on: {writes_on}
      max_pause: 5s
      gates: {{mirror_success: 95%, verified_within: 1h, max_lag: 1s}}
"""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of the YAML file that an operator edits during a crossing."""

    mirror: bool = False
    backfill: bool = False
    reads_on_new: str = "0%"
    writes_on: str = "old"


class Places(NamedTuple):
    """Where everything of the demo is: ports of the proxy, URLs of the servers."""

    port: int
    admin_port: int
    old: str
    replica: str
    new: str


class Finished(NamedTuple):
    """A `crossfade` command that ended."""

    code: int
    output: str
    errors: str


def configuration(places: Places, lines: Lines) -> str:
    """Return the text of the YAML file."""
    return _YAML.format(
        **places._asdict(),
        database=DATABASE,
        mirror=str(lines.mirror).lower(),
        backfill=str(lines.backfill).lower(),
        reads_on_new=lines.reads_on_new,
        writes_on=lines.writes_on,
    )


class StageFailed(Exception):
    """Something of the stage could not be built, or died."""


class Stage:
    """The clusters and processes of one demo.

    Args:
        users_count: Users of the shop; every other table follows from it.
    """

    def __init__(self, users_count: int) -> None:
        self._users_count = users_count
        self._folder = Path(tempfile.mkdtemp(prefix="crossfade-demo-"))
        self._clusters: list[Cluster] = []
        self._threads: set[asyncio.Future[Any]] = set()
        self._server: asyncio.subprocess.Process | None = None
        self._lines = Lines()
        self.port = free_port()
        self.admin_port = free_port()

    @property
    def yaml(self) -> Path:
        """The configuration file."""
        return self._folder / "crossfade.yaml"

    @property
    def log(self) -> Path:
        """What the proxy wrote."""
        return self._folder / "crossfade.log"

    @property
    def url(self) -> str:
        """Where the application connects."""
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def admin_url(self) -> str:
        """The dashboard, and the root of the admin API."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def old_url(self) -> str:
        """The old primary itself, past the proxy, as a superuser."""
        return self._clusters[0].url(DATABASE)

    @property
    def new_url(self) -> str:
        """The new primary itself, past the proxy, as a superuser."""
        return self._clusters[1].url(DATABASE)

    async def build(self, tell: Callable[[str], None]) -> None:
        """Start the clusters and load the shop; the new cluster gets its tables, but no row."""
        tell("starting PostgreSQL 16 and 18")
        for version in (16, 18):
            self._clusters.append(Cluster(version))
        old, new = self._clusters
        await asyncio.gather(self._in_thread(old.create), self._in_thread(new.create))
        for cluster in (old, new):
            cluster.start()
            await self._in_thread(cluster.psql, _ROLES)
        await self._in_thread(old.psql, (_FOLDER / "schema.sql").read_text(), DATABASE)
        ddl = await self._in_thread(old.run, "pg_dump", "--schema-only", old.url(DATABASE))
        await self._in_thread(new.psql, ddl, DATABASE)

        tell(f"making {self._users_count:,} users with their orders, sessions and events")
        seed = f"\\set users {self._users_count}\n" + (_FOLDER / "seed.sql").read_text()
        await self._in_thread(old.psql, seed, DATABASE)

        tell("starting the old cluster's streaming replica")
        replica = Cluster(16, primary=old)
        self._clusters.append(replica)
        await self._in_thread(replica.create)
        replica.start()
        self.edit()

    def edit(self, **lines: bool | str) -> None:
        """Change lines of the YAML file, in one step as an editor saves it."""
        self._lines = replace(self._lines, **lines)  # type: ignore[arg-type]
        old, new, replica = (cluster.url(DATABASE, "crossfade") for cluster in self._clusters)
        places = Places(self.port, self.admin_port, old=old, replica=replica, new=new)
        saved = self.yaml.with_suffix(".saved")
        saved.write_text(configuration(places, self._lines))
        saved.replace(self.yaml)

    def last_words(self) -> str:
        """Return how the proxy's log ends; the log itself goes with the folder."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(["the proxy's log ends:", *lines[-_LAST_LINES:]])

    async def crossfade(self, command: str, *arguments: str) -> Finished:
        """Run a `crossfade` command on the YAML file to its end.

        Raises:
            StageFailed: It did not end in two minutes.
        """
        process = await self._start([command, "-c", str(self.yaml), *arguments], asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                output, errors = await process.communicate()
        except TimeoutError:
            raise StageFailed(f"crossfade {command} did not end in {_COMMAND_TIMEOUT_S} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Finished(process.returncode, output.decode(), errors.decode())

    async def serve(self) -> None:
        """Start `crossfade serve`; it is ready when its admin API says so."""
        with self.log.open("ab") as log:
            self._server = await self._start(["serve", "-c", str(self.yaml)], log.fileno())

    async def wait_server_end(self) -> None:
        """Return never, unless the proxy ends by itself.

        Raises:
            StageFailed: It did; the message has its last words.
        """
        assert self._server is not None
        code = await self._server.wait()
        raise StageFailed(f"crossfade serve ended with exit code {code}:\n{self.log.read_text()[-3000:]}")

    async def close(self) -> None:
        """End every process and delete every file."""
        if self._server is not None and self._server.returncode is None:
            self._server.terminate()
            try:
                await asyncio.wait_for(self._server.wait(), _STOP_TIMEOUT_S)
            except TimeoutError:
                self._server.kill()
                await self._server.wait()
        # A cluster that stops ends whatever thread waits for an answer of it, and only
        # then can no file appear any more in a folder that is being deleted.
        for cluster in reversed(self._clusters):
            cluster.stop(signal.SIGQUIT)
        if self._threads:
            await asyncio.wait(self._threads)
        for cluster in self._clusters:
            cluster.remove()
        rmtree(self._folder, ignore_errors=True)

    async def _start(self, arguments: list[str], output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *_COMMAND,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "APP_PASSWORD": PASSWORD},
            preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
        )

    async def _in_thread(self, function: Callable[..., T], *arguments: str) -> T:
        """Run what blocks in a thread, which `close` waits for when this is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Its cluster is about to be stopped under it: how it fails is of no interest.
            future.add_done_callback(lambda ended: ended.exception())
            raise
