"""What a failed run leaves behind: a folder with all that is needed to find out why.

failure.txt      the seed, the faults with their times, the failure
journal-N.txt    what each composing client tried last, and what became of it
proxy-N.log      and the configuration beside it
ledger-SIDE.txt  the tables of schema crossfade
differing.txt    the rows that differ
postgres-*.log   the ends of the clusters' logs
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from pathlib import Path

import asyncpg

from tests.chaos.battle import LINK_LOST, Battle
from tests.chaos.workload import Composer

_LOG_BYTES = 200_000


async def leave(battle: Battle, name: str, composers: list[Composer], error: BaseException) -> Path:
    """Write everything down; return the folder."""
    folder = Path(os.environ.get("TRACES", "chaos-failures")).absolute() / f"{name}-{time.strftime('%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    told = "".join(traceback.format_exception(error))
    (folder / "failure.txt").write_text("\n".join([name, *battle.done, "", told]))
    for composer in composers:
        (folder / f"journal-{composer.number}.txt").write_text("\n".join(composer.journal))
    for number, running in enumerate(battle.proxies):
        shutil.copy(running.file, folder / f"proxy-{number}.yaml")
        if running.log.exists():
            shutil.copy(running.log, folder / f"proxy-{number}.log")
    for side, url in zip(("old", "new"), battle.urls, strict=True):
        with contextlib.suppress(*LINK_LOST):
            (folder / f"ledger-{side}.txt").write_text(await _contents(url))
    with contextlib.suppress(*LINK_LOST):
        (folder / "differing.txt").write_text("\n".join(await battle.differences()))
    for cluster in (battle.arena.source, battle.arena.target, battle.arena.standby):
        if cluster is not None:
            (folder / f"postgres-{cluster.port}.log").write_bytes(cluster.log.read_bytes()[-_LOG_BYTES:])
    return folder


async def _contents(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        lines = []
        present = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'crossfade'::regnamespace AND relkind = 'r'"
        )
        for (table,) in present:
            lines += [f"-- {table}"]
            lines += [str(dict(row)) for row in await connection.fetch(f'SELECT * FROM crossfade."{table}"')]
        lines += ["-- activity"]
        activity = "SELECT pid, application_name, state, wait_event, query FROM pg_stat_activity"
        lines += [str(dict(row)) for row in await connection.fetch(activity)]
        lines += [str(dict(row)) for row in await connection.fetch("SELECT * FROM pg_prepared_xacts")]
        return "\n".join(lines)
    finally:
        connection.terminate()
