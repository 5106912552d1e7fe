"""The command line: exit codes, what goes to stdout and what to stderr.

What the commands do is faked here; that they do it on real clusters is tested elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy import cli
from proxy.admin.problem import Problem, Severity
from proxy.admin.status_model import Plan, Status
from proxy.config import Config
from proxy.errors import SwitchRefused, UpstreamRefused
from proxy.verify.ranges import Difference
from proxy.verify.report import Report, TableReport
from tests.unit.admin.sample import status
from tests.unit.config.sample import SAMPLE, changed


class FakeApp:
    """`proxy.app` with answers that the test chooses; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.problems: list[Problem] = []
        self.reports: dict[str, Report] = {}
        self.refused: list[str] = []
        self.error: Exception | None = None
        self.code = 0

    def serve(self, file: Path) -> int:
        self.asked.append(file.name)
        return self.code

    async def check(self, config: Config) -> list[Problem]:
        return self.problems

    async def init(self, config: Config, *, remove: bool) -> list[str]:
        self.asked.append(remove)
        return ["app: 3 tables"]

    async def status(self, config: Config, file: Path) -> Status:
        if self.error is not None:
            raise self.error
        return status()

    async def plan(self, config: Config, file: Path) -> Plan:
        return {
            "is_running": True,
            "live": ["databases.app.pool.wait: 10s -> 1s"],
            "needs_restart": [],
            "refused": self.refused,
            "gates": {"app": status()["databases"]["app"]["gates"]},
        }

    async def verify(self, config: Config, table: str | None, *, repair: bool) -> dict[str, Report]:
        self.asked.append((table, repair))
        if self.error is not None:
            raise self.error
        return self.reports

    async def report(self, config: Config, file: Path) -> Status:
        return status()


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    app = FakeApp()
    monkeypatch.setattr(cli, "app", app)
    return app


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APP_PASSWORD", "hunter2")
    path = tmp_path / "crossfade.yaml"
    path.write_text(SAMPLE)
    return path


@pytest.fixture
def crossfade(
    fake: FakeApp, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs a command on the file, to its end."""

    def run(name: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["crossfade", name, "-c", str(file), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else int(bool(code)), *capsys.readouterr())

    return run


ALL = ["serve", "check", "init", "status", "plan", "verify", "report"]


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_configuration_ends_every_command_with_2_and_each_problem_in_a_line(
    crossfade: Command, file: Path, name: str
) -> None:
    file.write_text(changed("wait: 10s", "wait: 10").replace("0%\n", "5\n"))
    ended = crossfade(name)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"{file}:8: databases.app.pool.wait: 10 carries no unit: write it like 10s",
        f"{file}:13: databases.app.rollout.reads_on_new: 5 carries no unit: write it like 5%",
    ]


@pytest.mark.parametrize("name", [each for each in ALL if each != "serve"])
def test_all_is_well(crossfade: Command, name: str) -> None:
    ended = crossfade(name)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout


def test_passwords_come_from_the_environment(crossfade: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_PASSWORD")
    ended = crossfade("check")
    assert ended.code == 2 and "APP_PASSWORD is not set" in ended.stderr


def test_serve_ends_as_the_proxy_ends(crossfade: Command, fake: FakeApp) -> None:
    fake.code = 3
    assert crossfade("serve").code == 3
    assert fake.asked == ["crossfade.yaml"]


@pytest.mark.parametrize(("severity", "code"), [(Severity.ERROR, 1), (Severity.WARNING, 0)])
def test_check_names_table_reason_and_remedy(
    crossfade: Command, fake: FakeApp, severity: Severity, code: int
) -> None:
    fake.problems = [Problem("app", "public.t", "it has no key", "add one", severity)]
    ended = crossfade("check")
    assert ended.code == code
    assert ended.stdout == f"{severity}: app, table public.t: it has no key; remedy: add one\n"
    ended = crossfade("check", "--json")
    assert ended.code == code
    (problem,) = json.loads(ended.stdout)["problems"]
    assert problem == {
        "database": "app",
        "table": "public.t",
        "reason": "it has no key",
        "remedy": "add one",
        "severity": str(severity),
    }


@pytest.mark.parametrize("arguments", [(), ("--remove",)])
def test_init(crossfade: Command, fake: FakeApp, arguments: tuple[str, ...]) -> None:
    assert crossfade("init", *arguments).stdout == "app: 3 tables\n"
    assert fake.asked == [bool(arguments)]


def test_status_as_text_and_as_json(crossfade: Command) -> None:
    assert "app: authority new, epoch 2" in crossfade("status").stdout
    assert json.loads(crossfade("status", "--json").stdout) == status()


def test_status_of_a_cluster_that_is_away(crossfade: Command, fake: FakeApp) -> None:
    fake.error = UpstreamRefused("cannot connect", hint="start it")
    ended = crossfade("status")
    assert ended == (1, "", "crossfade: cannot connect\nhint: start it\n")


def test_plan_says_what_changes_and_what_is_refused(crossfade: Command, fake: FakeApp) -> None:
    ended = crossfade("plan")
    assert "live           databases.app.pool.wait: 10s -> 1s" in ended.stdout
    fake.refused = ["app: writes_on: new: never verified"]
    ended = crossfade("plan")
    assert ended.code == 1 and "never verified" in ended.stdout
    assert json.loads(crossfade("plan", "--json").stdout)["refused"] == fake.refused


DIFFERENCE = Difference(("7", "x"), "differing", ("email",), is_repaired=True)


@pytest.mark.parametrize(
    ("table", "code", "said"),
    [
        (TableReport("public.users", 10), 0, "10 rows, equal"),
        (TableReport("public.users", 10, pending_count=2), 0, "equal, 2 still on their way"),
        (TableReport("public.users", 10, (DIFFERENCE,)), 1, "7, x  differing: email, will be repaired"),
        (TableReport("public.users", problem="it has no key"), 2, "could not be compared: it has no key"),
    ],
)
def test_verify(crossfade: Command, fake: FakeApp, table: TableReport, code: int, said: str) -> None:
    fake.reports = {"app": Report((table,), is_whole=True, seconds=0.1)}
    ended = crossfade("verify")
    assert ended.code == code and said in ended.stdout
    ended = crossfade("verify", "--json")
    assert ended.code == code
    told = json.loads(ended.stdout)
    assert told["is_equal"] is (code == 0)
    assert told["tables"][0]["table"] == "public.users"


def test_verify_names_the_row(crossfade: Command, fake: FakeApp) -> None:
    table = TableReport("public.users", 10, (DIFFERENCE,))
    fake.reports = {"app": Report((table,), is_whole=False, seconds=0.1)}
    told = json.loads(crossfade("verify", "--json", "--table", "users", "--repair").stdout)
    assert told["tables"][0]["differing"] == [
        {"key": ["7", "x"], "kind": "differing", "columns": ["email"], "is_repaired": True}
    ]
    assert fake.asked == [("users", True)]


@pytest.mark.parametrize("error", [UpstreamRefused("no"), ConnectionResetError("no"), SwitchRefused("no")])
def test_a_comparison_that_could_not_be_made_is_not_a_difference(
    crossfade: Command, fake: FakeApp, error: Exception
) -> None:
    fake.error = error
    assert crossfade("verify") == (2, "", "crossfade: no\n")


def test_report_as_text_and_as_a_page(crossfade: Command, tmp_path: Path) -> None:
    assert "Rollback readiness" in crossfade("report").stdout
    out = tmp_path / "report.html"
    assert crossfade("report", "--html", str(out)).stdout == ""
    assert out.read_text().startswith("<!doctype html>")
