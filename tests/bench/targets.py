"""What the benchmarks measure: PostgreSQL itself, and what can stand in front of it.

All of them use the same database of the same cluster, the same pool size and no
encryption, and are started on free ports and removed at the end. PgBouncer and Pgpool-II
come from the system; whichever is missing is left out, and what to install is said.
Both refuse to run as root: there they run as `nobody`, like the clusters.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from proxy.demo.clusters import Cluster, die_with_parent, free_port

POOL_SIZE = 20
CLIENTS_MAX = 12_000
DATABASE = "bench"
DIRECT = "bench_direct"
USER = "bench"

_START_TIMEOUT_S = 120
_BACKFILL_TIMEOUT_S = 180
_SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
# The first release that keeps prepared statements under transaction pooling.
_PGBOUNCER_PREPARES = (1, 21)

_PGBOUNCER = """\
[databases]
{database} = host=127.0.0.1 port={server} dbname={database}
{database}_session = host=127.0.0.1 port={server} dbname={database} pool_mode=session
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {clients_max}
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
{prepared}
"""

# Streaming-replication mode is the one in which it does what Crossfade does: look at each
# statement and decide where it goes. It pools sessions; a child serves one client.
_PGPOOL = """\
backend_clustering_mode = 'streaming_replication'
sr_check_period = 0
backend_hostname0 = '127.0.0.1'
backend_port0 = {server}
backend_weight0 = 1
load_balance_mode = on
listen_addresses = '127.0.0.1'
port = {port}
socket_dir = '{folder}'
pcp_listen_addresses = '127.0.0.1'
pcp_port = {pcp_port}
pcp_socket_dir = '{folder}'
pid_file_name = '{folder}/pid'
logdir = '{folder}'
num_init_children = {pool_size}
max_pool = 1
connection_cache = on
"""

_CROSSFADE = """\
listen: 127.0.0.1:{port}
workers: {workers}
admin: {{listen: 127.0.0.1:{admin_port}}}
limits: {{max_clients: {clients_max}}}
databases:
  {database}:
    old: {{primary: "{old}"}}
    new: {{primary: "{new}"}}
    users: [{{name: {user}, auth: trust}}]
    pool: {{size: {pool_size}}}
    tables: {{include: ["public.pgbench_accounts"]}}
    mirror: {{enabled: true}}
    backfill: {{enabled: true}}
    rollout: {{reads_on_new: 0%, writes_on: old}}
"""


class Target(NamedTuple):
    """Something that pgbench can be pointed at."""

    name: str
    port: int
    database: str = DATABASE
    prepared_database: str = DATABASE
    note: str = ""


class Process:
    """A child that listens on a port, with a folder of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"crossfade-bench-{name}-"))
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the program; what it has started itself are its children."""
        assert self._child is not None
        return self._child.pid

    def start(self, command: list[str], *, as_nobody: bool = True) -> None:
        """Start the program and wait until it takes connections."""
        account = self._account if as_nobody else None
        if account is not None:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)

        def before_exec() -> None:
            if account is not None:
                os.setgroups([])
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            die_with_parent(signal.SIGTERM)

        with (self.folder / "output").open("ab") as output:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.folder, preexec_fn=before_exec,
            )  # fmt: skip
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_listening():
            if self._child.poll() is not None or time.monotonic() > deadline_s:
                words = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start:\n{words}")
            time.sleep(0.05)

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def remove(self) -> None:
        """Stop the program and delete its folder."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Bench:
    """The clusters and everything in front of them.

    Args:
        scale: pgbench's: 100,000 accounts each.
        workers: Of Crossfade.
    """

    def __init__(self, scale: int, workers: int = 1) -> None:
        self._scale = scale
        self._workers = workers
        self._clusters: list[Cluster] = []
        self.processes: list[Process] = []
        self.targets: list[Target] = []
        self.missing: list[str] = []

    def build(self) -> None:
        """Start all that there is."""
        for version in (16, 18):
            # As PostgreSQL is set up in earnest: a commit waits for the disk.
            self._clusters.append(Cluster(version, settings={"fsync": "on", "full_page_writes": "on"}))
            self._clusters[-1].create().start()
            self._clusters[-1].psql(f"CREATE ROLE {USER} LOGIN; CREATE ROLE crossfade SUPERUSER LOGIN")
            self._clusters[-1].psql(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        old, new = self._clusters
        old.run("pgbench", "-i", "-q", "-s", str(self._scale), "-F", "90", old.url(DATABASE, USER))
        new.psql(old.run("pg_dump", "--schema-only", old.url(DATABASE)), DATABASE)
        # Direct writes would go past Crossfade's capture, so they have a copy of their own.
        old.psql(f"CREATE DATABASE {DIRECT} TEMPLATE {DATABASE} OWNER {USER}")
        self.targets.append(Target("direct", old.port, DIRECT, DIRECT))
        self._add_crossfade(old, new)
        self._add_pgbouncer(old)
        self._add_pgpool(old)

    def pgbench(self, target: Target, *arguments: str, is_prepared: bool, script: str | None) -> float:
        """Run pgbench; return its transactions per second.

        Raises:
            RuntimeError: A transaction failed, or pgbench did.
        """
        database = target.prepared_database if is_prepared else target.database
        mode = "prepared" if is_prepared else "simple"
        arguments += ("-n", "-M", mode, "-h", "127.0.0.1", "-p", str(target.port), "-U", USER)
        if script is not None:
            arguments += ("-f", "-", "-D", f"scale={self._scale}")
        output = self._clusters[0].run("pgbench", *arguments, database, text=script)
        failed = re.search(r"number of failed transactions: (\d+)", output)
        if failed is None or failed[1] != "0" or "aborted" in output:
            raise RuntimeError(f"{target.name}: transactions failed:\n{output}")
        tps = re.search(r"tps = ([\d.]+)", output)
        assert tps is not None, output
        return float(tps[1])

    def verify(self) -> str:
        """Return what `crossfade verify` says of both clusters after all this."""
        (crossfade,) = (process for process in self.processes if process.name == "crossfade")
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "verify", "-c", str(crossfade.folder / "crossfade.yaml")],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        words = {0: "both sides are equal", 1: "DIFFERENCES"}.get(done.returncode, "could not compare")
        return words if done.returncode == 0 else f"{words}\n{done.stdout}{done.stderr}"

    def remove(self) -> None:
        """Stop and delete everything."""
        for process in reversed(self.processes):
            process.remove()
        for cluster in self._clusters:
            cluster.remove()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.remove()

    def _process(self, name: str) -> Process:
        process = Process(name)
        self.processes.append(process)
        return process

    def _add_crossfade(self, old: Cluster, new: Cluster) -> None:
        process = self._process("crossfade")
        admin_port = free_port()
        yaml = process.folder / "crossfade.yaml"
        yaml.write_text(
            _CROSSFADE.format(
                port=process.port, admin_port=admin_port, database=DATABASE, user=USER, pool_size=POOL_SIZE,
                old=old.url(DATABASE, "crossfade"), new=new.url(DATABASE, "crossfade"),
                clients_max=CLIENTS_MAX, workers=self._workers,
            )
        )  # fmt: skip
        command = [sys.executable, "-m", "proxy"]
        done = subprocess.run(
            [*command, "init", "-c", str(yaml)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"crossfade init failed:\n{done.stdout}{done.stderr}")
        process.start([*command, "serve", "-c", str(yaml)], as_nobody=False)
        _wait_backfill(f"http://127.0.0.1:{admin_port}/api/status")
        self.targets.append(Target("crossfade", process.port))

    def _add_pgbouncer(self, old: Cluster) -> None:
        program = shutil.which("pgbouncer", path=_SYSTEM_PATH)
        if program is None:
            self.missing.append("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
            return
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"(\d+)\.(\d+)", shown)
        assert version is not None, shown
        prepares = (int(version[1]), int(version[2])) >= _PGBOUNCER_PREPARES
        process = self._process("pgbouncer")
        (process.folder / "users").write_text(f'"{USER}" ""\n')
        (process.folder / "ini").write_text(
            _PGBOUNCER.format(
                database=DATABASE, server=old.port, port=process.port, folder=process.folder,
                pool_size=POOL_SIZE, clients_max=CLIENTS_MAX,
                prepared="max_prepared_statements = 200" if prepares else "",
            )
        )  # fmt: skip
        process.start([program, str(process.folder / "ini")])
        note = f"PgBouncer {version[0]}"
        if not prepares:
            note += ": prepared statements only with session pooling, so that is what is measured"
        database = DATABASE if prepares else f"{DATABASE}_session"
        self.targets.append(Target("pgbouncer", process.port, prepared_database=database, note=note))

    def _add_pgpool(self, old: Cluster) -> None:
        program = shutil.which("pgpool", path=_SYSTEM_PATH)
        if program is None:
            self.missing.append("Pgpool-II is not installed (Debian: apt-get install pgpool2)")
            return
        process = self._process("pgpool")
        configuration = process.folder / "pgpool.conf"
        (process.folder / "pcp.conf").touch()
        configuration.write_text(
            _PGPOOL.format(
                server=old.port, port=process.port, pcp_port=free_port(), folder=process.folder,
                pool_size=POOL_SIZE,
            )
        )  # fmt: skip
        process.start([program, "-n", "-f", str(configuration), "-F", str(process.folder / "pcp.conf")])
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        note = (shown.stdout + shown.stderr).strip().splitlines()[0] + ": pools sessions only"
        self.targets.append(Target("pgpool", process.port, note=note))


def _wait_backfill(url: str) -> None:
    """Wait until the new cluster holds every row, so that a captured write finds its row there."""
    deadline_s = time.monotonic() + _BACKFILL_TIMEOUT_S
    state = "unknown"
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError, KeyError), urllib.request.urlopen(url, timeout=5) as answer:
            state = json.load(answer)["databases"][DATABASE]["backfill"]["state"]
        if state == "complete":
            return
        time.sleep(0.2)
    raise RuntimeError(f"the backfill was not complete in {_BACKFILL_TIMEOUT_S} s: {state}")
