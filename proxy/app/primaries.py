"""Find the primary of a cluster, should one of its replicas have been promoted.

The file says who is the primary. When it does not answer, and one of the replicas listed is no
replica any more, that one is the primary from then on: somebody has failed the cluster over.

Rule 1: a primary that answers is never left. A replica that was promoted beside it is a fork,
and only a person can say what it is for.
Rule 2: whoever is followed has a newer timeline than the primary before it, and is of the same
cluster. A former primary that comes back has an old one: it is never followed again.
Rule 3: at the start nothing is known of the past. If two servers of a cluster are primaries then,
nobody is served until the file names the right one and not the other.

What was committed on the old primary and had not reached the promoted one is lost to the
cluster; the engine finds out by itself that the ledger is of another timeline, and compares
every table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from typing import NamedTuple

import asyncpg
import structlog

from proxy.config.dsn import Dsn
from proxy.config.model import Cluster, Config
from proxy.errors import ProxyError, UpstreamRefused
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.routing.policy import Side

_log = structlog.get_logger()
_TIMEOUT_S = 3.0
_QUERY = """
SELECT pg_is_in_recovery() AS is_replica, system_identifier,
       CASE WHEN NOT pg_is_in_recovery()
            THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline
  FROM pg_control_system()
"""


class Seen(NamedTuple):
    """A primary: the cluster it is of, and how often that was failed over."""

    system_identifier: int
    timeline: int


class SeveralPrimaries(ProxyError):
    """Two servers of one cluster take writes; a person must say which of them is right."""

    sqlstate = "55000"


def leader(seen: Sequence[Seen | None], known: Seen | None) -> int | None:
    """Return the number of the server to follow from now on; None: stay with whom we have.

    Args:
        seen: The servers in the order of the configuration; None: a replica, or no answer.
        known: The primary as it was when it answered last; None: it never has.

    Raises:
        SeveralPrimaries: Nothing is known, and more than one is a primary.
    """
    if seen[0] is not None and known is not None:
        return None
    primaries = [number for number, each in enumerate(seen) if each is not None]
    if known is None:
        if len(primaries) > 1:
            raise SeveralPrimaries(f"servers {', '.join(map(str, primaries))} are primaries")
        return primaries[0] if primaries and primaries[0] else None
    newer = {
        each.timeline: number
        for number, each in enumerate(seen)
        if each is not None
        and each.system_identifier == known.system_identifier
        and each.timeline > known.timeline
    }
    return newer[max(newer)] if newer else None


class Primaries:
    """Who leads each cluster; empty where it is whom the file names."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Side], Seen] = {}
        self._leaders: dict[tuple[str, Side], Dsn] = {}

    async def settle(self, config: Config) -> Config:
        """Return the configuration with the primaries as they are.

        Raises:
            SeveralPrimaries: A cluster has two.
        """
        for name in config.databases:
            await self.follow(config, name)
        return self.apply(config, config)

    async def follow(self, config: Config, name: str) -> bool:
        """Look who leads the two clusters of a database; return whether one has a new leader.

        Raises:
            SeveralPrimaries: A cluster has two.
        """
        is_new = False
        for side in Side:
            cluster = config.databases[name].cluster(side.value)
            if not cluster.replicas:
                continue
            seen = await asyncio.gather(*map(_look, cluster.servers()))
            try:
                number = leader(seen, self._known.get((name, side)))
            except SeveralPrimaries as several:
                places = ", ".join(f"{dsn.host}:{dsn.port}" for dsn in cluster.servers())
                raise SeveralPrimaries(
                    f"{name}: of {side} ({places}) {several}", hint="name one of them in the file, not both"
                ) from several
            found = seen[number or 0]
            if found is not None:
                self._known[name, side] = found
            if number is not None:
                promoted = self._leaders[name, side] = cluster.servers()[number]
                _log.warning(
                    "a promoted replica is followed",
                    database=name,
                    cluster=side.value,
                    primary=f"{promoted.host}:{promoted.port}",
                    instead_of=str(cluster.primary),
                )
                is_new = True
        return is_new

    def forget(self, names: Set[str]) -> None:
        """Know nothing of some databases: should they come again, the file says who leads."""
        for known in (self._known, self._leaders):
            for key in [key for key in known if key[0] in names]:
                del known[key]

    def apply(self, config: Config, file: Config) -> Config:
        """Return a configuration with the leaders in their places.

        Args:
            file: The configuration as the file has it.
        """
        for (name, side), promoted in self._leaders.items():
            if name in config.databases and name in file.databases:
                cluster = file.databases[name].cluster(side.value)
                config = _led(config, name, side, cluster.led_by(promoted))
        return config


def _led(config: Config, name: str, side: Side, cluster: Cluster) -> Config:
    database = config.databases[name].model_copy(update={side.value: cluster})
    return config.model_copy(update={"databases": {**config.databases, name: database}})


async def _look(dsn: Dsn) -> Seen | None:
    """Return a primary; None: it is none, or does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            connection: asyncpg.Connection = await connect(dsn, application_name="crossfade supervisor")
            try:
                row = await connection.fetchrow(_QUERY)
            finally:
                connection.terminate()
    except (UpstreamRefused, *DRIVER_FAILURES):
        return None
    if row is None or row["is_replica"]:
        return None
    return Seen(row["system_identifier"], int(row["timeline"], 16))
