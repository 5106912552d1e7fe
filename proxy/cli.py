"""The command `crossfade`: options in, `proxy.app` called, text or JSON out.

    0   fine, or equal            1   problems, or differences
    2   the configuration is wrong, or the comparison could not be made

Rule 1: results go to stdout, everything else to stderr, so that `--json` is only JSON.
Rule 2: a problem of the configuration is `file:line: key: message`, one to a line, as
compilers write theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from proxy.admin import report as pages
from proxy.admin import show
from proxy.admin.problem import Severity
from proxy.admin.status_model import Status
from proxy.app import checks
from proxy.app import commands as app
from proxy.config import Config, load
from proxy.config.edit import Assignment
from proxy.errors import ConfigError, ProxyError
from proxy.verify.report import Report

_T = TypeVar("_T")

_INTERRUPTED = 130
_WATCH_INTERVAL_S = 1.0

File = Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

commands = typer.Typer(
    name="crossfade",
    help="Move a live PostgreSQL database to a new cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the only way out is an exit code."""
    try:
        commands()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise SystemExit(2) from None
    except ProxyError as error:
        _fail(error, 1)


@commands.command()
def serve(file: File) -> None:
    """Run the proxy. SIGHUP or a changed file reloads, SIGTERM drains."""
    # Read here as well as in the workers: a mistake is reported before anything starts.
    _load(file)
    raise typer.Exit(app.serve(file))


@commands.command()
def check(file: File, as_json: Json = False) -> None:
    """Look for everything that stands in the way. Exit code 1: there is something."""
    problems = _run(app.check(_load(file)))
    if as_json:
        _print_json({"problems": [problem._asdict() for problem in problems]})
    else:
        typer.echo("\n".join(map(str, problems)) or "no problem found")
    raise typer.Exit(int(any(problem.severity is Severity.ERROR for problem in problems)))


@commands.command()
def init(
    file: File, remove: Annotated[bool, typer.Option("--remove", help="Take everything away again.")] = False
) -> None:
    """Create the schema `crossfade`, grants and triggers on both clusters; idempotent."""
    for line in _run(app.init(_load(file), remove=remove)):
        typer.echo(line)


@commands.command()
def status(
    file: File,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until interrupted.")] = False,
) -> None:
    """Show where the crossing stands."""
    config = _load(file)
    if watch:
        _run(_watch(config, file, as_json))
    else:
        told = _run(app.status(config, file))
        _print_json(told) if as_json else typer.echo(show.status(told), nl=False)


@commands.command()
def plan(file: File, as_json: Json = False) -> None:
    """Show what a reload of FILE would change, and which gates refuse; change nothing."""
    told = _run(app.plan(_load(file), file))
    _print_json(told) if as_json else typer.echo(show.plan(told), nl=False)
    raise typer.Exit(int(bool(told["refused"])))


@commands.command("set")
def set_values(
    file: File,
    assignments: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", show_default=False)],
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Longest to wait for the outcome.")
    ] = 30.0,
) -> None:
    """Set values in FILE and wait until they are in force: `crossfade set app.reads_on_new=5%`.

    Exit code 0: done, 1: refused, and a switch that was ordered is taken back, 2: wrong.
    """
    parted = [text.partition("=") for text in assignments]
    for text, (key, equals, _) in zip(assignments, parted, strict=True):
        if not (key and equals):
            raise typer.BadParameter(f'"{text}" is not KEY=VALUE')
    wanted = [Assignment(key, value) for key, _, value in parted]
    outcome = _run(app.set_values(file, wanted, timeout_s=timeout_s, tell=_tell))
    typer.echo("\n".join(outcome.lines))
    raise typer.Exit(int(not outcome.is_done))


@commands.command()
def retire(
    file: File,
    force: Annotated[
        bool, typer.Option("--force", help="Even though the old side lacks data; names what is given up.")
    ] = False,
) -> None:
    """End the migration: leave a plain proxy to the authority, and nothing of ours on the clusters."""
    for line in _run(app.retire(_load(file), file, force=force, tell=_tell)):
        typer.echo(line)


@commands.command()
def verify(
    file: File,
    table: Annotated[str | None, typer.Option("--table", metavar="T", help="Only this table.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Converge the rows that differ again.")] = False,
    as_json: Json = False,
) -> None:
    """Compare both sides row by row. Exit code 0: equal, 1: differences, 2: could not compare."""
    config = _load(file)
    try:
        reports = _run(app.verify(config, table, repair=repair))
    except (ProxyError, OSError, TimeoutError) as error:
        _fail(error, 2)
    _print_json(_verification(reports)) if as_json else typer.echo(show.verification(reports), nl=False)
    raise typer.Exit(max((report.exit_status for report in reports.values()), default=0))


@commands.command()
def report(
    file: File,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page instead.")] = None,
) -> None:
    """Print one page: parity, verification, latency, switches, rollback readiness."""
    told: Status = _run(app.report(_load(file), file))
    if html is None:
        typer.echo(pages.text(told), nl=False)
    else:
        html.write_text(pages.html(told), encoding="utf-8")


@commands.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    users: Annotated[int, typer.Option(min=1000, help="Users of the shop; all else follows.")] = 200_000,
) -> None:
    """Show a whole crossing on embedded PostgreSQL 16 -> 18, under load."""
    try:
        from proxy.demo.story import run  # its libraries are an extra
    except ImportError as error:
        typer.echo(f"crossfade: {error}; install 'crossfade[demo]'", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(run(keep=keep, users_count=users))


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _load(file: Path) -> Config:
    return load(file, os.environ, check=checks.problems)


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _fail(error: Exception, code: int) -> NoReturn:
    """Say what went wrong, and what to do about it, and end."""
    typer.echo(f"crossfade: {str(error) or type(error).__name__}", err=True)
    hint = getattr(error, "hint", "")
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    raise SystemExit(code) from error


async def _watch(config: Config, file: Path, as_json: bool) -> None:
    """Show the status again and again; a moment without an answer does not end it."""
    with Live(console=Console(), auto_refresh=False, screen=not as_json) as live:
        while True:
            try:
                told = await app.status(config, file)
                shown = json.dumps(told, default=str) if as_json else show.status(told)
            except ProxyError as error:
                shown = f"no status: {error}\n"
            if as_json:
                typer.echo(shown)
            else:
                live.update(Text(shown), refresh=True)
            await asyncio.sleep(_WATCH_INTERVAL_S)


def _verification(reports: dict[str, Report]) -> dict[str, object]:
    return {
        "is_equal": all(report.exit_status == 0 for report in reports.values()),
        "tables": [
            {
                "database": name,
                "table": table.name,
                "rows": table.rows_count,
                "pending": table.pending_count,
                "problem": table.problem,
                "is_cut_short": table.is_cut_short,
                "differing": [found._asdict() for found in table.differing],
            }
            for name, report in reports.items()
            for table in report.tables
        ],
    }
