"""Two proxies with different files: nothing moves, and each says whose file is different."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from proxy.config import digest
from tests.running import Running

SCHEMA = "CREATE TABLE users (id int PRIMARY KEY)"


async def test_nothing_moves_until_both_files_say_so(old_db: str, new_db: str, tmp_path: Path) -> None:
    for url in (old_db, new_db):
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        await connection.close()
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    with Running(folders[0], old_db, new_db) as here, Running(folders[1], old_db, new_db) as there:
        here.command("init")
        here.start()
        there.start()
        told = await here.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]))
        name = (await there.wait_for(lambda told: bool(told["engine"]["proxy"])))["engine"]["proxy"]
        known = await here.wait_for(lambda told: [p["state"] for p in told["proxies"]] == ["serving"] * 2)
        assert [proxy["digest"] for proxy in known["proxies"]] == [
            digest(running.file.read_text()) for running in (here, there)
        ]
        owner, other = (here, there) if told["engine"]["owner"] else (there, here)
        assert owner is here, "it has started first"
        refused = owner.command("set", "writes_on=new", "--timeout", "2", check=False)
        assert refused.returncode == 1
        assert f"files_agree: the file of {name} wants writes elsewhere" in refused.stdout
        # An order that is edited by hand stands until the other file says the same.
        owner.database["rollout"] = {"writes_on": "new"}
        owner.write()
        await owner.wait_for(lambda told: "files_agree" in (told["rollout"]["refused"] or ""))
        assert owner.status()["authority"] == "old"
        other.database["rollout"] = {"writes_on": "new"}
        other.write()
        await owner.wait_for(lambda told: told["authority"] == "new")
        # Carried out is carried out: who takes over with the same file orders nothing again.
        owner.kill()
        told = await other.wait_for(lambda told: told["engine"]["owner"] is not None)
        assert (told["authority"], told["rollout"]["refused"]) == ("new", None)
        await other.wait_for(lambda told: [p["state"] for p in told["proxies"]] == ["silent", "serving"])
