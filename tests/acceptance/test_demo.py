"""`crossfade demo` is the product's main promise, so it is a test: the exit code, the table,
and that nothing of it is left behind, also when it is interrupted.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

DEMO = [sys.executable, "-m", "proxy", "demo"]


@asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the demo with its temporary files in a folder of the test's own."""
    folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *DEMO, *arguments, env={"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, preexec_fn=_as_in_a_terminal,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _as_in_a_terminal() -> None:
    """In the child: a shell starts its background jobs with SIGINT ignored, and these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def folder() -> AsyncIterator[Path]:
    # Not tmp_path: a cluster that runs as another account must be able to enter.
    with tempfile.TemporaryDirectory(prefix="crossfade-test-") as path:
        yield Path(path)


def left_behind(folder: Path) -> list[str]:
    """Return what still exists of a demo: its files, and processes that mention them."""
    # A copy of the PostgreSQL programs is kept on purpose, for the next run.
    files = [path.name for path in folder.iterdir() if not path.name.startswith("crossfade-postgres-")]
    processes = [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]
    return files + processes


def cell(output: str, name: str) -> str:
    """Return the value of one line of the table."""
    found = re.search(rf"│ {re.escape(name)} +│ (.*?) +│", output)
    assert found, f"{name!r} is not in the table:\n{output}"
    return found[1]


@pytest.mark.timeout(240)
async def test_demo_crosses_back_and_forth_and_loses_nothing(folder: Path) -> None:
    async with demo(folder) as process:
        async with asyncio.timeout(180):
            output = (await process.communicate())[0].decode()
    print(output)
    assert process.returncode == 0, output
    assert int(cell(output, "statements").replace(",", "")) > 5000
    assert cell(output, "failures") == "0"
    assert int(cell(output, "rows verified").replace(",", "")) > 800_000
    assert cell(output, "differences (crossfade verify)") == "0"
    assert int(cell(output, "rows compared").replace(",", "")) > 800_000
    assert cell(output, "differences (own comparison)") == "0"
    assert cell(output, "of these missing") == "0"
    for switch in ("switch to new", "rollback to old", "switch again to new"):
        assert re.match(r"\d+ ms ", cell(output, f"longest wait, {switch}"))
    assert left_behind(folder) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["clusters", "proxy"])
async def test_interrupted_demo_leaves_nothing_behind(folder: Path, how: signal.Signals, after: str) -> None:
    async with demo(folder) as process:
        async with asyncio.timeout(60):
            if after == "proxy":
                await printed(process, "crossfade serve")
            else:
                await first_postmaster(process.pid)
            process.send_signal(how)
            output = (await process.communicate())[0].decode()
    assert process.returncode == 130, output
    assert left_behind(folder) == []


@pytest.mark.timeout(240)
async def test_kept_demo_says_how_to_connect_and_ends_with_ctrl_c(folder: Path) -> None:
    async with demo(folder, "--keep", "--users", "20000") as process:
        async with asyncio.timeout(200):
            output = await printed(process, "  log  ")
            assert "psql -h 127.0.0.1 -p " in output
            assert "http://127.0.0.1:" in output
            yaml = re.search(r"YAML +(\S+)", output)
            assert yaml
            assert "writes_on: new" in Path(yaml[1]).read_text()
            process.send_signal(signal.SIGINT)
            await process.communicate()
    assert process.returncode == 130
    assert left_behind(folder) == []


async def printed(process: asyncio.subprocess.Process, words: str) -> str:
    """Return what the demo printed up to the line with these words."""
    assert process.stdout is not None
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        if words in lines[-1]:
            return "".join(lines)
    raise AssertionError(f"{words!r} was never printed:\n{''.join(lines)}")


async def first_postmaster(pid: int) -> None:
    """Wait until the demo has started a program of PostgreSQL."""
    while not psutil.Process(pid).children(recursive=True):
        await asyncio.sleep(0.05)
