"""What the subcommands do, apart from reading options and printing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import asyncpg
import uvloop

from proxy.admin import preflight
from proxy.admin.client import ask
from proxy.admin.status_model import GateStatus, Plan, Status
from proxy.app import checks, logs, ordering, retiring
from proxy.app.status import assemble
from proxy.app.supervisor import Supervisor
from proxy.capture.triggers import install_sql
from proxy.catalog.model import Catalog
from proxy.catalog.reader import read_catalog
from proxy.config import Config, changes_between, loads, read, shown
from proxy.config.model import Database as Configuration
from proxy.crossing import survey as surveys
from proxy.crossing import trial
from proxy.errors import ProxyError, SwitchRefused, UnknownTable
from proxy.ledger import schema
from proxy.ledger.connection import connect
from proxy.ledger.state import read_state
from proxy.routing.policy import Side
from proxy.verify.report import Report
from proxy.verify.verifier import verify as verify_tables


def serve(file: Path) -> int:
    """Run the proxy until it is told to stop; return the exit code."""
    logs.configure("supervisor")
    text = read(file)
    config = loads(text, os.environ, file=str(file), check=checks.problems)
    return uvloop.run(_serve(file, text, config))


async def _serve(file: Path, text: str, config: Config) -> int:
    return await Supervisor(file, text, config).run()


check = preflight.check
set_values = ordering.set_values
retire = retiring.retire


async def init(config: Config, *, remove: bool) -> list[str]:
    """Create or complete schema `crossfade` on both clusters, or remove it; return lines to show.

    Raises:
        ProxyError: A cluster refused, and what to do about it.
    """
    lines = []
    for name, configuration in config.databases.items():
        async with contextlib.AsyncExitStack() as stack:
            old = await connect(configuration.old.primary)
            stack.callback(old.terminate)
            new = await connect(configuration.new.primary)
            stack.callback(new.terminate)
            try:
                lines += await (_remove(name, old, new) if remove else _init(name, configuration, old, new))
            except asyncpg.PostgresError as error:
                hint = error.hint or "run it again when that is mended"
                raise ProxyError(f"{name}: {error}", hint=hint) from error
    return lines


async def _remove(name: str, old: asyncpg.Connection, new: asyncpg.Connection) -> list[str]:
    for side in (old, new):
        await schema.remove(side)
    return [f"{name}: schema crossfade removed from both clusters"]


async def _init(
    name: str, configuration: Configuration, old: asyncpg.Connection, new: asyncpg.Connection
) -> list[str]:
    if configuration.rollout.writes_on == "new" and not any(
        [await schema.is_installed(side) for side in (old, new)]
    ):
        raise ProxyError(
            f"{name}: a migration begins on old, and the file says writes_on: new",
            hint="name the cluster that takes the writes now `old`",
        )
    listed = await schema.init(old, new, configuration.tables)
    lines = [f"{name}: {len(listed)} tables are mirrored"]
    for side, connection in ((Side.OLD, old), (Side.NEW, new)):
        catalog = await read_catalog(connection, configuration.tables)
        if catalog.tables:
            async with connection.transaction():
                await connection.execute(install_sql(catalog.tables.values()))
        triggers = [table.name for table in catalog.tables.values() if table.capture == "trigger"]
        lines.append(
            f"{name}: {side} is ready" + (f", with triggers on {', '.join(triggers)}" if triggers else "")
        )
    return lines


async def status(config: Config, file: Path) -> Status:
    """Return the status from the running proxy, or else from the clusters themselves.

    Raises:
        ProxyError: Neither answers.
    """
    running = await ask(config.admin.listen) if config.admin is not None else None
    if running is not None:
        return running
    engine = {}
    for name, configuration in config.databases.items():
        engine[name] = await _survey(configuration)
    return assemble(config, str(file), engine=engine, workers=())


report = status


async def plan(config: Config, file: Path) -> Plan:
    """Return what a reload of the file would change, and which gates would refuse it."""
    running = await ask(config.admin.listen) if config.admin is not None else None
    told = running or await status(config, file)
    gates: dict[str, list[GateStatus]] = {}
    live, refused = [], []
    for name, configuration in config.databases.items():
        database = told["databases"].get(name)
        if database is None:
            continue  # it is new to the running proxy; the changes below say so
        rollout = configuration.rollout
        gates[name] = [{**gate, "is_forced": gate["name"] in rollout.force} for gate in database["gates"]]
        if database["authority"] is not None and rollout.writes_on != database["authority"]:
            live.append(f"{name}: switch, writes_on {database['authority']} -> {rollout.writes_on}")
            refused += [
                f"{name}: {gate['name']}: {gate['reason']}"
                for gate in gates[name]
                if not gate["passed"] and not gate["is_forced"]
            ]
    changes = changes_between(told["config"], shown(config))
    return Plan(
        is_running=running is not None,
        live=live + [str(change) for change in changes.live],
        needs_restart=[f"{change}: {change.reason}" for change in changes.needs_restart],
        refused=refused,
        gates=gates,
    )


async def verify(config: Config, table: str | None, *, repair: bool) -> dict[str, Report]:
    """Compare the mirrored tables of every database.

    Raises:
        UnknownTable: No database mirrors a table of that name.
    """
    reports = {}
    names = None
    if table is not None:
        parts = table.split(".", 1)
        names = {(parts[0], parts[1]) if len(parts) == 2 else ("public", table)}
    for name, configuration in config.databases.items():
        authority = await _authority(configuration)
        source = configuration.cluster(authority.value).primary
        target = configuration.cluster(authority.other.value).primary
        catalogs = await _catalogs(configuration, authority)
        if names is not None and not names & set(catalogs[0].tables):
            continue
        reports[name] = await verify_tables(source, target, catalogs, only=names, repair=repair)
    if not reports:
        raise UnknownTable(
            f'no mirrored table "{table}"', hint="see tables.include in the configuration, and run init"
        )
    return reports


async def _authority(configuration: Configuration) -> Side:
    """Return which cluster is the authority.

    Raises:
        SwitchRefused: Schema crossfade is missing, or a switch is under way.
    """
    for side in Side:
        connection = await connect(configuration.cluster(side.value).primary)
        try:
            if not await schema.is_installed(connection):
                raise SwitchRefused(f"{side} has no schema crossfade", hint="run crossfade init")
            if (await read_state(connection)).is_authority:
                return side
        finally:
            connection.terminate()
    raise SwitchRefused(
        "no cluster is the authority now", hint="start crossfade serve: it finishes the switch"
    )


async def _catalogs(configuration: Configuration, authority: Side) -> tuple[Catalog, Catalog]:
    async with contextlib.AsyncExitStack() as stack:
        source = await connect(configuration.cluster(authority.value).primary)
        stack.callback(source.terminate)
        target = await connect(configuration.cluster(authority.other.value).primary)
        stack.callback(target.terminate)
        return await surveys.read_catalogs(source, target, configuration.tables)


async def _survey(configuration: Configuration) -> dict[str, object]:
    """Return what an engine would report, read from the clusters."""
    authority = await _authority(configuration)
    async with contextlib.AsyncExitStack() as stack:
        source = await connect(configuration.cluster(authority.value).primary)
        stack.callback(source.terminate)
        target = await connect(configuration.cluster(authority.other.value).primary)
        stack.callback(target.terminate)
        catalogs = await surveys.read_catalogs(source, target, configuration.tables)
        users = [user.name for user in configuration.users]
        tried = await trial.run(source, target, catalogs, authority, users, sends_row=False)
        survey = await surveys.read(source, target, authority, configuration, None, catalogs, tried)
        state = await read_state(source)
    return {"authority": authority.value, "epoch": state.epoch, "survey": survey}
