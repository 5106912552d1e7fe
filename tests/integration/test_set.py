"""`crossfade set` against the whole `crossfade serve`: done, refused and taken back, or wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.running import Running

SCHEMA = "CREATE TABLE users (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0)"
COMMENT = "# the night shift edits below\n"


@pytest.fixture
async def running(old_db: str, new_db: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A proxy before two equal databases, with a comment in its file."""
    for url in (old_db, new_db):
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
    with Running(tmp_path, old_db, new_db) as running:
        running.file.write_text(COMMENT + running.file.read_text())
        running.command("init")
        yield running


async def test_a_percentage_is_in_force_when_the_command_returns(running: Running) -> None:
    running.start()
    before = running.file.read_text()
    done = running.command("set", "app.reads_on_new=5%", "max_staleness=2s")
    assert done.stdout == "in force\n"
    told = running.status()
    assert told["rollout"]["reads_on_new_ratio"] == 0.05
    assert running.file.read_text().startswith(before.rstrip())
    wrong = running.command("set", "reads_on_new=500%", check=False)
    assert (wrong.returncode, "more than 100%" in wrong.stderr) == (2, True)
    assert running.status()["rollout"]["reads_on_new_ratio"] == 0.05


async def test_writes_have_moved_when_the_command_returns(running: Running) -> None:
    running.start()
    await running.wait_converged()
    await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
    done = running.command("set", "writes_on=new", "--timeout", "60")
    assert done.stdout == "app: writes are on new, epoch 2\n"
    assert running.status()["authority"] == "new"
    # The way back is refused for a gate, and the file is as it was: nothing moves later.
    target = await asyncpg.connect(running.database["old"]["primary"])
    await target.execute("SET session_replication_role = replica; ALTER TABLE users ADD extra int")
    await running.wait_for(lambda told: not all(gate["passed"] for gate in told["gates"]))
    text = running.file.read_text()
    refused = running.command("set", "writes_on=old", "--timeout", "3", check=False)
    assert refused.returncode == 1, refused
    assert "refused: app: schema_equal: schemas differ" in refused.stdout
    assert refused.stdout.endswith("the file is as it was\n")
    assert running.file.read_text() == text
    await target.execute("ALTER TABLE users DROP extra")
    await target.close()
    told = await running.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
    assert (told["authority"], told["rollout"]["writes_on"]) == ("new", "new")


async def test_writes_cannot_be_ordered_to_move_where_nobody_listens(running: Running) -> None:
    before = running.file.read_text()
    refused = running.command("set", "writes_on=new", check=False)
    assert (refused.returncode, running.file.read_text()) == (1, before)
    assert "no proxy answers" in refused.stderr
    # A proxy that runs with another file is not told by this one.
    running.start()
    running.file.with_name("other.yaml").write_text(before + "\n")
    other = Path(running.file.with_name("other.yaml"))
    running.file, serving = other, running.file
    refused = running.command("set", "writes_on=new", check=False)
    assert refused.returncode == 1
    assert f"has read another file, or another version of it: {serving}" in refused.stderr
