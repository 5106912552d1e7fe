"""The clusters that a campaign fights on: started once, with fresh databases for every seed.

The source has a standby, which the proxies read from. The target's databases lie on a small
disk that can be filled, where this account may mount one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from proxy.demo.clusters import Cluster
from tests.integration.nodes import three_nodes

_DISK = "256m"
_numbers = itertools.count(1)


class Arena:
    """A source with its standby, and a target.

    Args:
        disk: Where the target's tablespace `small` lies; None: there is none.
        coordinator: Where the target is spread over nodes, the cluster that clients of it see.
    """

    def __init__(
        self, source: Cluster, target: Cluster, disk: Path | None, coordinator: Cluster | None = None
    ) -> None:
        self.source = source
        self.target = target
        self.is_spread = coordinator is not None
        self.standby: Cluster | None = None
        self.is_promoted = False
        self.disk = disk
        self._coordinator = coordinator
        self._made: list[tuple[Cluster, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.make_room()
        self._lose_standby()
        self._drop()

    def databases(self, source: str, target: str, keys: Mapping[str, str]) -> tuple[str, str]:
        """Return the URLs of two fresh databases; those of the seed before are gone."""
        self.make_room()
        if not self.target.is_running:
            self.target.start()
        self._drop()
        if self.is_promoted:
            self._lose_standby()
        if self.standby is None:
            self.standby = Cluster(self.source.version, primary=self.source).create().start()
        elif not self.standby.is_running:
            self.standby.start()
        url = self._make(self.source, source)
        if self._coordinator is None:
            return url, self._make(self.target, target)
        return url, three_nodes(self._coordinator, self.target, self._make, target, keys)

    def promote_standby(self) -> None:
        """Make the standby a primary of its own; the next seed gets a new one."""
        if self.standby is not None and not self.is_promoted:
            self.standby.psql("SELECT pg_promote()")
            self.is_promoted = True

    def stop_promoted(self) -> None:
        """End the standby that is none any more."""
        if self.standby is not None:
            crash(self.standby)

    def fill(self) -> None:
        """Leave no byte on the target's disk."""
        assert self.disk is not None
        left = os.statvfs(self.disk)
        with (self.disk / "full").open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, left.f_bavail * left.f_frsize))

    def make_room(self) -> None:
        """Take back what `fill` did."""
        if self.disk is not None:
            (self.disk / "full").unlink(missing_ok=True)

    def _make(self, cluster: Cluster, schema: str) -> str:
        name = f"arena{os.getpid()}_{next(_numbers)}"
        place = " TABLESPACE small" if cluster is self.target and self.disk is not None else ""
        cluster.psql(f"CREATE DATABASE {name}{place}")
        self._made.append((cluster, name))
        if schema:
            cluster.psql(schema, name)
        return cluster.url(name)

    def _drop(self) -> None:
        for cluster, name in self._made:
            prepared = f"SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'"
            for gid in cluster.psql(prepared).splitlines():  # of a client that was lost in the end
                cluster.psql(f"ROLLBACK PREPARED '{gid}'", name)
            cluster.psql(f"DROP DATABASE {name} WITH (FORCE)")
        self._made = []

    def _lose_standby(self) -> None:
        if self.standby is not None:
            self.standby.remove()
        self.standby, self.is_promoted = None, False


@contextlib.contextmanager
def small_disk(cluster: Cluster) -> Iterator[Path | None]:
    """A tmpfs as tablespace `small`; None where none can be mounted."""
    # Not a test's own folder: the account that the cluster runs as must be able to enter.
    with tempfile.TemporaryDirectory(prefix="crossfade-test-") as folder:
        Path(folder).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            yield None
            return
        try:
            place = Path(folder) / "small"
            place.mkdir()
            Path(folder).chmod(0o755)
            os.chown(place, pwd.getpwnam("nobody").pw_uid, -1)
            cluster.psql(f"CREATE TABLESPACE small LOCATION '{place}'")
            try:
                yield Path(folder)
            finally:
                cluster.psql("DROP TABLESPACE small")
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def crash(cluster: Cluster) -> None:
    """Stop a cluster as a power failure does."""
    cluster.stop(signal.SIGQUIT)
