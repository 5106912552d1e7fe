"""`crossfade set`: edit the file, and wait for what the running proxy makes of it.

    1  the new text is validated; a mistake leaves the file alone
    2  a proxy that answers must have read the very text that is about to change
    3  the file is replaced in one step
    4  done: the proxy has read it, and writes are where it says

Rule: an order to move writes that is not carried out in time is taken back, so that nothing
moves after the operator was told that nothing did. (An edit by hand stands until it can be
carried out.) It is never taken back in the middle of a switch: that would be another one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from proxy.admin.client import ask
from proxy.admin.status_model import Status
from proxy.app import checks
from proxy.config import Config, digest, loads, read
from proxy.config.dsn import Address
from proxy.config.edit import Assignment, edited, resolved
from proxy.errors import ConfigError, ConfigProblem, SwitchRefused

_POLL_S = 0.1


class Outcome(NamedTuple):
    """What became of the edit, in lines for the operator."""

    is_done: bool
    lines: list[str]


class _Edit(NamedTuple):
    file: Path
    before: str
    after: str
    config: Config  # what `after` says
    moves: frozenset[str]  # databases whose writes_on is set


async def set_values(
    file: Path,
    assignments: Sequence[Assignment],
    *,
    timeout_s: float,
    tell: Callable[[str], None],
    needs_proxy: bool = True,
) -> Outcome:
    """Set values in the file and return what came of it.

    Args:
        timeout_s: Longest to wait for the running proxy.
        tell: Shows what is waited for, each time it changes.
        needs_proxy: Whether writes_on is an order; False where writes are there already.

    Raises:
        ConfigError: A key or the result is wrong; the file is as it was.
        SwitchRefused: No proxy could carry it out; the file is as it was.
    """
    edit = _prepared(file.resolve(), assignments)
    address = edit.config.admin.listen if edit.config.admin is not None else None
    running = await ask(address) if address is not None else None
    if running is None:
        if edit.moves and needs_proxy:
            raise SwitchRefused(
                "no proxy answers, and only one that runs can move writes",
                hint="start crossfade serve with an admin section, then set writes_on",
            )
        _replace(edit.file, edit.after)
        return Outcome(True, ["saved; no proxy answers: it is in force from the next start on"])
    if running["config_digest"] != digest(edit.before):
        raise SwitchRefused(
            f"the proxy at {address} has read another file, or another version of it: "
            f"{running['config_file']}",
            hint="nothing was changed; edit the file that this proxy runs with",
        )
    assert address is not None
    _replace(edit.file, edit.after)
    return await _carried_out(edit, address, timeout_s, tell)


def _prepared(file: Path, assignments: Sequence[Assignment]) -> _Edit:
    before = read(file)
    after = edited(before, assignments, file=str(file))
    config = loads(after, os.environ, file=str(file), check=checks.problems)
    paths = [resolved(after, assignment.key) for assignment in assignments]
    for path in paths:
        if path[0] == "databases" and path[2:-1] == ("rollout",):
            flags = config.databases[path[1]].rollout.flags
            key = {"reads_on_new": flags.reads, "writes_on": flags.writes}.get(path[-1])
            if key is not None:
                message = f"its value comes from the flag {key}"
                raise ConfigError([ConfigProblem(str(file), 1, ".".join(path), message)])
    return _Edit(file, before, after, config, frozenset(path[1] for path in paths if path[-1] == "writes_on"))


async def _carried_out(
    edit: _Edit, address: Address, timeout_s: float, tell: Callable[[str], None]
) -> Outcome:
    """Wait until the proxy has done what the file says; take a switch back that it has not done."""
    waits: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                told = await ask(address)
                found = _waits(told, edit)
                if told is not None and not found:
                    return _taken(told, edit)
                for line in found:
                    if line not in waits:
                        tell(f"waiting: {line}")
                waits = found
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    except ConfigError as error:
        _restore(edit)
        raise error from None
    if not edit.moves:
        return Outcome(False, [f"not in force after {timeout_s:g} s", *waits])
    return await _take_back(edit, address, waits)


def _waits(told: Status | None, edit: _Edit) -> list[str]:
    """Return what is still waited for, empty when all is done.

    Raises:
        ConfigError: The proxy refuses the file.
    """
    if told is None:
        return ["the proxy does not answer"]
    if told["config_digest"] != digest(edit.after):
        return ["the proxy has not read the file yet"]
    if told["config_problems"]:
        raise ConfigError(
            [ConfigProblem(str(edit.file), 1, "file", text) for text in told["config_problems"]]
        )
    waits = []
    for name in sorted(edit.moves):
        wanted, found = edit.config.databases[name].rollout.writes_on, told["databases"].get(name)
        if found is None or found["authority"] != wanted or found["switching"]:
            reason = found["rollout"]["refused"] if found is not None else None
            waits.append(f"{name}: {reason or 'the switch is under way'}")
    return waits


def _taken(told: Status, edit: _Edit) -> Outcome:
    lines = [
        f"{name}: writes are on {edit.config.databases[name].rollout.writes_on}, "
        f"epoch {told['databases'][name]['epoch']}"
        for name in sorted(edit.moves)
    ]
    lines += [f"saved, but needs a restart: {change}" for change in told["needs_restart"]]
    return Outcome(not told["needs_restart"], lines or ["in force"])


async def _take_back(edit: _Edit, address: Address, waits: list[str]) -> Outcome:
    """Write the old text again once no switch is under way."""
    while True:
        told = await ask(address)
        if told is None or not any(told["databases"][name]["switching"] for name in edit.moves):
            break
        await asyncio.sleep(_POLL_S)
    if told is not None and not _waits(told, edit):
        return _taken(told, edit)  # it was done at the last moment
    is_restored = _restore(edit)
    end = "the file is as it was" if is_restored else "the file was edited meanwhile: the order stands"
    return Outcome(False, [*(f"refused: {line}" for line in waits), end])


def _restore(edit: _Edit) -> bool:
    """Write the old text, unless somebody else has edited the file meanwhile."""
    if read(edit.file) != edit.after:
        return False
    _replace(edit.file, edit.before)
    return True


def _replace(file: Path, text: str) -> None:
    """Replace the file in one step, so that nobody ever reads half of it."""
    there = file.stat()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as partial:
        try:
            partial.write(text)
            partial.flush()
            os.fsync(partial.fileno())
            os.fchmod(partial.fileno(), there.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(partial.fileno(), there.st_uid, there.st_gid)
            os.replace(partial.name, file)
        except BaseException:
            os.unlink(partial.name)
            raise
