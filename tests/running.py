"""A running Crossfade in front of two fresh databases, as a test's subprocess.

The process is the real `crossfade serve`; the test steers it as an operator does: by
rewriting the YAML, by signals, and by looking at `/api/status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from proxy.demo.clusters import free_port

DATABASE = "app"
_START_TIMEOUT_S = 120.0


class Running:
    """One `crossfade serve`.

    Args:
        folder: Where the YAML and the log are written.
        old, new: URLs of the two primaries.
        changes: Sections of the database's configuration over the default ones.
    """

    def __init__(
        self, folder: Path, old: str, new: str, changes: Mapping[str, Any] | None = None, **top: Any
    ) -> None:
        self.file = folder / "crossfade.yaml"
        self.log = folder / "crossfade.log"
        self.port = free_port()
        self.admin_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}  # over ours
        self.config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "databases": {
                DATABASE: {
                    "old": {"primary": old},
                    "new": {"primary": new},
                    "auth": "trust",
                    **(changes or {}),
                }
            },
            **top,
        }
        self.write()

    @property
    def database(self) -> dict[str, Any]:
        """The database's section, to be changed before `write`."""
        section: dict[str, Any] = self.config["databases"][DATABASE]
        return section

    def url(self, user: str = "postgres") -> str:
        """Return the URL for clients."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{DATABASE}"

    def write(self) -> None:
        """Write the YAML in one step, as an editor does."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(yaml.safe_dump(self.config, sort_keys=False))
        partial.replace(self.file)

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another subcommand with this YAML."""
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words, "-c", str(self.file)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self) -> Self:
        """Start serving and wait until clients are welcome."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", "-c", str(self.file)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment},
            )  # fmt: skip
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """kill -9: no chance to say goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """SIGTERM: drain; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def status(self) -> dict[str, Any]:
        """Return the database's part of `/api/status`, read now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/api/status", timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())["databases"][DATABASE]
            return told

    async def wait_for(
        self, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Return the first status that fulfils a condition."""
        told: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with contextlib.suppress(OSError):
                        told = await asyncio.to_thread(self.status)
                        if condition(told):
                            return told
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log = self.log.read_text()[-3000:]
            raise AssertionError(f"not in {timeout_s} s: {json.dumps(told, indent=1)}\n{log}") from None

    async def wait_converged(self, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the history is copied and the ledger is empty."""
        return await self.wait_for(
            lambda told: told["backfill"]["state"] == "complete" and told["ledger"]["entries"] == 0,
            timeout_s=timeout_s,
        )

    async def switch(self, to: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Order a switch by editing the YAML, and wait until it is done."""
        await self.wait_for(lambda told: all(gate["passed"] for gate in told["gates"]), timeout_s=timeout_s)
        self.database.setdefault("rollout", {})["writes_on"] = to
        self.write()
        return await self.wait_for(lambda told: told["authority"] == to, timeout_s=timeout_s)

    def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.admin_port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if os.environ.get("CROSSFADE_SHOW_LOG"):
                print(self.log.read_text())
