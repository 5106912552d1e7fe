"""Drivers of other languages: the programs of tests/drivers, each run once through the proxy.

What they are built from comes from the registries of their languages and stays in .drivers, so
that only the first run on a machine takes long. Without a toolchain its test is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.integration.through import Crossing

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/drivers"
BUILT = ROOT / ".drivers"
_BUILD_TIMEOUT_S, _RUN_TIMEOUT_S = 280, 120


def need(command: str, what: str) -> str:
    """Return the path of a tool, or skip and say what to install."""
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"install {what} ({command} is not in PATH)")
    return found


def build(folder: Path, *command: str, **environment: str) -> None:
    """Run a build; where its registry cannot be reached the test is skipped."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S,
        env={**os.environ, **environment},
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command)} failed: {(done.stderr + done.stdout).strip()[-2000:]}")


def go() -> Sequence[str]:
    tool, program = need("go", "Go"), BUILT / "go/driver"
    if is_stale(program, PROGRAMS / "go"):
        folder = BUILT / "go/source"
        shutil.copytree(PROGRAMS / "go", folder, dirs_exist_ok=True)
        build(folder, tool, "mod", "tidy")
        build(folder, tool, "build", "-o", str(program), ".")
    return [str(program)]


def rust() -> Sequence[str]:
    tool, program = need("cargo", "Rust"), BUILT / "rust/debug/driver"
    if is_stale(program, PROGRAMS / "rust"):
        folder = BUILT / "rust/source"
        shutil.copytree(PROGRAMS / "rust", folder, dirs_exist_ok=True)
        build(
            folder,
            tool,
            "build",
            "--quiet",
            CARGO_TARGET_DIR=str(BUILT / "rust"),
            CARGO_PROFILE_DEV_DEBUG="0",
        )
    return [str(program)]


def java() -> Sequence[str]:
    tool, run = need("mvn", "Maven"), need("java", "a JDK of version 17 or newer")
    compiler = need("javac", "a JDK of version 17 or newer")
    folder = BUILT / "java"
    if is_stale(folder / "Driver.class", PROGRAMS / "java"):
        folder.mkdir(parents=True, exist_ok=True)
        output = f"-DoutputDirectory={folder}"
        build(PROGRAMS / "java", tool, "-q", "-B", "dependency:copy-dependencies", output)
        build(
            folder, compiler, "-encoding", "UTF-8", "-cp", "*", "-d", ".", str(PROGRAMS / "java/Driver.java")
        )
    return [run, "-Dfile.encoding=UTF-8", "-cp", f"{folder}/*:{folder}", "Driver"]


def postgres_js() -> Sequence[str]:
    run, tool = need("node", "Node.js"), need("npm", "Node.js with npm")
    program = BUILT / "node/postgres.mjs"
    if is_stale(program, PROGRAMS / "node"):
        program.parent.mkdir(parents=True, exist_ok=True)
        build(program.parent, tool, "install", "--no-audit", "--no-fund", "--prefix", ".", "postgres@3")
        shutil.copy(PROGRAMS / "node/postgres.mjs", program)
    return [run, str(program)]


def is_stale(program: Path, sources: Path) -> bool:
    """Return whether a program must be built: it is missing, or older than its sources."""
    if not program.exists():
        return True
    newest = max(file.stat().st_mtime for file in sources.rglob("*") if file.is_file())
    return program.stat().st_mtime < newest


@pytest.mark.timeout(600)
@pytest.mark.parametrize("make", [go, rust, java, postgres_js])
async def test_driver(through: Crossing, make: Callable[[], Sequence[str]]) -> None:
    command = make()
    url = through.url
    if make is java:
        url = url.replace("postgresql://postgres@", "jdbc:postgresql://") + "?user=postgres"
    done = subprocess.run(
        [*command, url], capture_output=True, text=True, check=False, timeout=_RUN_TIMEOUT_S
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr + done.stdout
    await through.assert_equal({"account": "id", "entry": "account, number"})
