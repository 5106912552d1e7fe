"""`crossfade retire`: end the migration, and leave a plain proxy in front of the authority.

    1  nothing is under way, and the mirror has everything: else the way back, which is given up
       here, would have lost it (`force` goes on, and names what)
    2  the file says `mirror: {enabled: false}` and where writes are; a running proxy takes that
       into force everywhere, so that no statement is captured any more
    3  schema crossfade goes, with its triggers and grants: first on the mirror, then on the
       authority, so that whoever starts in between still learns who reigns

Whatever breaks off in the middle is finished by the same command. A proxy that runs goes on
running: it has no engine any more, and nothing is read from the other cluster. One that starts
later finds no state, and goes by `writes_on`. Fences (`fence: read_only`, `nologin`) stay:
the side that was left must not take writes that nobody would carry over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import asyncpg

from proxy.admin.client import ask
from proxy.app import ordering
from proxy.config import Config
from proxy.config.edit import Assignment
from proxy.config.model import Database as Configuration
from proxy.crossing import survey as surveys
from proxy.crossing import trial
from proxy.crossing.gates import refusals
from proxy.crossing.machine import Situation, read
from proxy.errors import ProxyError, SwitchRefused
from proxy.ledger import proxies, schema
from proxy.ledger.connection import connect
from proxy.ledger.state import read_state
from proxy.routing.policy import Side

_TAKE_TIMEOUT_S = 30.0
_ABOUT_DATA = frozenset(
    {"ledger_drained", "lag", "no_quarantine", "backfill_complete", "verified", "schema_equal"}
)


async def retire(config: Config, file: Path, *, force: bool, tell: Callable[[str], None]) -> list[str]:
    """End the migration of every database of the file; return lines to show.

    Raises:
        ProxyError: It is refused, and why; what was not yet done is left as it was.
    """
    authorities = {
        name: await _ready(configuration, force=force, tell=tell)
        for name, configuration in config.databases.items()
    }
    left = {name: authority for name, authority in authorities.items() if authority is not None}
    if left:
        await _no_other_proxies(config, force=force, tell=tell)
        await _stop_capturing(file, left, tell)
    lines = []
    for name, configuration in config.databases.items():
        authority = authorities[name]
        if authority is not None:
            await _remove(configuration, authority)
            lines.append(f"{name}: the migration has ended; a plain proxy to {authority} is left")
            if configuration.fence != "none":
                lines.append(f"{name}: the fence ({configuration.fence}) on {authority.other} stays")
        else:
            lines.append(f"{name}: nothing to retire")
    return lines


async def _ready(configuration: Configuration, *, force: bool, tell: Callable[[str], None]) -> Side | None:
    """Return the authority, once it is sure that nothing is lost; None: there is no schema."""
    async with contextlib.AsyncExitStack() as stack:
        sides = await _connected(configuration, stack)
        installed = [side for side in Side if await schema.is_installed(sides[side])]
        if len(installed) < 2:
            return await _half_retired(sides, installed)
        found = read(*[await read_state(sides[side]) for side in Side])
        if found.situation is not Situation.SETTLED:
            raise SwitchRefused(
                f"{configuration.name}: a switch is under way", hint="start crossfade serve: it finishes it"
            )
        if found.authority is Side.NEW:  # before the switch nothing but the old side counts
            await _nothing_lost(configuration, sides, found.authority, force=force, tell=tell)
        return found.authority


async def _half_retired(sides: dict[Side, asyncpg.Connection], installed: list[Side]) -> Side | None:
    """Return the side that still has the schema: the authority, as it is the last to lose it."""
    if not installed:
        return None
    (side,) = installed
    if not (await read_state(sides[side])).is_authority:
        raise SwitchRefused(
            f"{side} has schema crossfade and is not the authority, {side.other} has none",
            hint="crossfade init completes it, crossfade init --remove takes it away",
        )
    return side


async def _nothing_lost(
    configuration: Configuration,
    sides: dict[Side, asyncpg.Connection],
    authority: Side,
    *,
    force: bool,
    tell: Callable[[str], None],
) -> None:
    source, target = sides[authority], sides[authority.other]
    catalogs = await surveys.read_catalogs(source, target, configuration.tables)
    users = [user.name for user in configuration.users]
    tried = await trial.run(source, target, catalogs, authority, users, sends_row=False)
    survey = await surveys.read(source, target, authority, configuration, None, catalogs, tried)
    lost = [
        f"{configuration.name}: {name}: {verdict.reason}"
        for name, verdict in refusals(survey.verdicts).items()
        if name in _ABOUT_DATA
    ]
    if lost and not force:
        raise SwitchRefused(
            f"the way back would lose data: {'; '.join(lost)}",
            hint="wait until the mirror has everything, or --force: the old side is given up as it is",
        )
    for line in lost:
        tell(f"given up: {line}")


async def _no_other_proxies(config: Config, *, force: bool, tell: Callable[[str], None]) -> None:
    """Refuse while proxies live that this command cannot tell to stop capturing."""
    running = await ask(config.admin.listen) if config.admin is not None else None
    for name, configuration in config.databases.items():
        async with contextlib.AsyncExitStack() as stack:
            sides = await _connected(configuration, stack)
            found: set[str] = set()
            for connection in sides.values():
                if await schema.is_installed(connection):
                    found |= set(await proxies.living(connection))
        told = running["databases"].get(name) if running is not None else None
        others = sorted(found - {told["engine"]["proxy"] if told is not None else None})
        if others and not force:
            raise SwitchRefused(
                f"{name}: other proxies run: {', '.join(others)}",
                hint="stop them, or set mirror.enabled: false in their files and use --force",
            )
        for other in others:
            tell(f"{name}: not told to stop capturing: {other}")


async def _stop_capturing(file: Path, authorities: dict[str, Side], tell: Callable[[str], None]) -> None:
    wanted = []
    for name, authority in authorities.items():
        wanted.append(Assignment(f"{name}.mirror.enabled", "false"))
        wanted.append(Assignment(f"{name}.rollout.writes_on", authority.value))
    outcome = await ordering.set_values(file, wanted, timeout_s=_TAKE_TIMEOUT_S, tell=tell, needs_proxy=False)
    if not outcome.is_done:
        raise ProxyError("; ".join(outcome.lines), hint="run it again when that is mended")


async def _remove(configuration: Configuration, authority: Side) -> None:
    async with contextlib.AsyncExitStack() as stack:
        sides = await _connected(configuration, stack)
        for side in (authority.other, authority):
            try:
                await schema.remove(sides[side])
            except asyncpg.PostgresError as error:
                raise ProxyError(
                    f"{configuration.name}: {side}: {error}", hint="run it again when that is mended"
                ) from error


async def _connected(
    configuration: Configuration, stack: contextlib.AsyncExitStack
) -> dict[Side, asyncpg.Connection]:
    sides = {}
    for side in Side:
        sides[side] = await connect(configuration.cluster(side.value).primary)
        stack.callback(sides[side].terminate)
    return sides
