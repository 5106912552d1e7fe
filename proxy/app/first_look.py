"""What a worker must know of a database before it can serve it: who reigns, and its catalog."""

from __future__ import annotations

import asyncio

import structlog

from proxy.catalog.reader import read_catalog
from proxy.config.model import Database as Configuration
from proxy.errors import UpstreamRefused
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.ledger.schema import is_installed
from proxy.ledger.state import State, read_state
from proxy.routing.policy import Side
from proxy.server.database import Database

_log = structlog.get_logger()
_RETRY_S = 1.0


async def first_look(configuration: Configuration) -> Database:
    """Return the database as the clusters describe it; wait for them for as long as it takes."""
    while True:
        try:
            return await _look(configuration)
        except (UpstreamRefused, *DRIVER_FAILURES) as error:
            _log.warning("waiting for the clusters", database=configuration.name, error=str(error))
            await asyncio.sleep(_RETRY_S)


async def _look(configuration: Configuration) -> Database:
    """Return the database as the authority describes it; the other cluster may be down.

    Raises:
        UpstreamRefused: A cluster is down that may be the authority.
    """
    states = await asyncio.gather(*(_state(configuration, side) for side in Side), return_exceptions=True)
    found = dict(zip(Side, states, strict=True))
    authority = Side.NEW if _reigns(found[Side.NEW]) else Side.OLD
    if not _reigns(found[authority]):
        for state in states:
            if isinstance(state, BaseException):
                raise state
        if not configuration.mirror.enabled and not any(states):
            authority = Side(configuration.rollout.writes_on)  # retired: the file alone knows
    source = await connect(configuration.cluster(authority.value).primary)
    try:
        catalog = await read_catalog(source, configuration.tables)
    finally:
        source.terminate()
    database = Database(configuration, authority, catalog)
    told = [state.epoch for state in states if isinstance(state, State)]
    database.has_state = bool(told)
    database.epoch = max(told, default=0)
    return database


async def _state(configuration: Configuration, side: Side) -> State | None:
    """Return what a cluster says about the reign; None: `init` has not run there."""
    connection = await connect(configuration.cluster(side.value).primary)
    try:
        return await read_state(connection) if await is_installed(connection) else None
    finally:
        connection.terminate()


def _reigns(state: State | BaseException | None) -> bool:
    return isinstance(state, State) and state.is_authority
