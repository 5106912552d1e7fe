"""Points before every line of a proxy's part in a switch; at one of them the whole proxy dies or stops.

Python itself loads this file in every process of a proxy that a test starts with this folder on
PYTHONPATH. It compiles the modules below with a call before every statement; all else is as it is.
What the call does is in the file CROSSFADE_TRAP/trap:

    none           nothing
    record         the point's name is added to CROSSFADE_TRAP/seen, once
    NAME SIGNAL    at the point of this name all processes of the proxy get the signal, and
                   CROSSFADE_TRAP/reached says so

A point counts only while a switch is under way: from one of the `BEGINNINGS` on.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

MODULES = {
    "proxy.crossing.conductor": None,
    "proxy.crossing.peers": None,
    "proxy.server.hold": None,
    "proxy.app.opened": {"hold", "release", "_authority_is"},  # None: all functions
}
BEGINNINGS = {"conductor.switch", "conductor.recover", "peers._keep", "hold.begin"}


class Trap:
    """The trap of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_begun = False
        self._seen: set[str] = set()

    def pass_by(self, name: str) -> None:
        """Do at a point what the trap says."""
        try:
            wanted = (self._folder / "trap").read_text()
        except FileNotFoundError:
            self._has_begun = False
            return
        self._has_begun = self._has_begun or name.partition(":")[0] in BEGINNINGS
        if not self._has_begun:
            return
        if wanted == "record":
            self._note(name)
        elif wanted.rpartition(" ")[0] == name:
            self._spring(signal.Signals[wanted.rpartition(" ")[2]])

    def _note(self, name: str) -> None:
        if name not in self._seen:
            self._seen.add(name)
            with (self._folder / "seen").open("a") as seen:
                seen.write(f"{name}\n")

    def _spring(self, number: signal.Signals) -> None:
        (self._folder / "trap").unlink()
        (self._folder / "reached").touch()
        supervisor = os.getppid()
        siblings = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        for pid in (supervisor, *map(int, siblings), os.getpid()):
            if pid != os.getpid():
                os.kill(pid, number)
        os.kill(os.getpid(), number)


class _Points(ast.NodeTransformer):
    """Puts a call before every statement of the functions that count."""

    def __init__(self, module: str, only: set[str] | None) -> None:
        self._module = module.rpartition(".")[2]
        self._only = only
        self._function = ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._within(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._within(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if self._function and (self._only is None or self._function in self._only):
            for field in ("body", "orelse", "finalbody"):
                statements = getattr(node, field, None)
                if isinstance(statements, list):
                    setattr(node, field, [each for old in statements for each in (self._point(old), old)])
        return node

    def _within(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer
        return node

    def _point(self, before: ast.stmt) -> ast.stmt:
        name = f"{self._module}.{self._function}:{before.lineno}"
        call = ast.parse(f"__import__('sitecustomize').TRAP.pass_by({name!r})").body[0]
        for node in ast.walk(call):
            ast.copy_location(node, before)
        return call


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        """Compile anew: what is cached has no points."""
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = ast.parse(data)
        code: CodeType = compile(_Points(self.name, MODULES[self.name]).visit(tree), path, "exec")
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None and spec.origin is not None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin)
        )


if "CROSSFADE_TRAP" in os.environ:
    TRAP = Trap(Path(os.environ["CROSSFADE_TRAP"]))
    sys.meta_path.insert(0, _Finder())
