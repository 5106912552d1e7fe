"""The target's disk is full: nothing is cleared, nothing is put aside, and it goes on when there is room.

The disk is a tmpfs of a few megabytes, which takes the right to mount one. The same without:
a trigger that says what PostgreSQL says then.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.demo.clusters import Cluster
from proxy.errors import UpstreamLost
from tests.integration.mirrors import Mirror

ROWS = 20_000
TABLE = "CREATE TABLE notes (id int PRIMARY KEY, note text)"


@pytest.fixture
async def mirror(old_db: str, new_db: str) -> AsyncIterator[Mirror]:
    async with Mirror(old_db, new_db) as mirror:
        await mirror.start(TABLE)
        yield mirror


@pytest.fixture
def small_disk(pg18: Cluster) -> Iterator[Path]:
    """A folder of 4 MB, as the place of tablespace `small`."""
    # Not tmp_path: the account that the cluster runs as must be able to enter.
    with tempfile.TemporaryDirectory(prefix="crossfade-test-") as folder:
        Path(folder).chmod(0o755)
        place = Path(folder) / "small"
        place.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip("run as root, with the right to mount a tmpfs")
        try:
            account = pwd.getpwnam("nobody")
            os.chown(place, account.pw_uid, account.pw_gid)
            pg18.psql(f"CREATE TABLESPACE small LOCATION '{place}'")
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


async def fill(mirror: Mirror) -> None:
    """Write more than 4 MB."""
    await mirror.write(
        f"INSERT INTO notes SELECT n, repeat('x', 300) FROM generate_series(1, {ROWS}) n",
    )
    await mirror.old.execute(
        f"INSERT INTO crossfade.ledger (tbl, key) SELECT {mirror.table('notes').id}, ARRAY[n::text]"
        f" FROM generate_series(1, {ROWS}) n"
    )


async def require_nothing_was_given_up(mirror: Mirror) -> None:
    with pytest.raises(UpstreamLost, match="No space left on device"):
        await mirror.converger.converge_entries()
    assert await mirror.entries() == ROWS
    assert await mirror.old.fetchval("SELECT max(attempts) FROM crossfade.ledger") == 0


async def test_a_full_disk_stops_the_mirror_until_there_is_room(
    mirror: Mirror, pg18: Cluster, small_disk: Path
) -> None:
    await mirror.new.execute("ALTER TABLE notes SET TABLESPACE small")
    await fill(mirror)
    try:
        await require_nothing_was_given_up(mirror)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        assert (await mirror.converger.converge_entries()).is_complete
        assert await mirror.differences("notes") == []
    finally:
        await mirror.new.execute("ALTER TABLE notes SET TABLESPACE pg_default")
        await mirror.new.execute("DROP TABLESPACE small")


async def test_what_a_full_disk_says_is_no_fault_of_a_row(mirror: Mirror) -> None:
    await mirror.new.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;"
        "CREATE TRIGGER full_disk BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION full_disk();"
        "ALTER TABLE notes ENABLE ALWAYS TRIGGER full_disk"
    )
    await fill(mirror)
    await require_nothing_was_given_up(mirror)
    await mirror.new.execute("DROP TRIGGER full_disk ON notes")
    assert (await mirror.converger.converge_entries()).is_complete
    assert await mirror.differences("notes") == []
