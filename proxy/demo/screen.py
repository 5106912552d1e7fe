"""What the demo shows: the steps with live numbers, and the table at the end.

On a terminal the picture is redrawn in place; anywhere else each step is a line, so that
a log of the demo can be read as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from proxy.clock import now_s
from proxy.demo.account import Result
from proxy.demo.journal import Statistics
from proxy.demo.watch import Status


class Screen:
    """Progress while the demo runs; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = now_s()
        self._done: list[tuple[str, str, float]] = []
        self._step: str | None = None
        self._step_began_s = self._began_s
        self._statistics: Statistics | None = None
        self._status: Status | None = None
        self._spinner = Spinner("dots")
        self._rate: tuple[float, int, float] = (self._began_s, 0, 0.0)  # when, statements then, per second
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        self._live.stop()

    def begin(self, step: str) -> None:
        """Show that a step is under way."""
        self._step, self._step_began_s = step, now_s()
        self.refresh()

    def rename(self, step: str) -> None:
        """Show what part of the step is under way now."""
        self._step = step
        self.refresh()

    def end(self, outcome: str) -> None:
        """Show how the step that is under way ended."""
        assert self._step is not None, "no step is under way"
        took_s = now_s() - self._step_began_s
        self._done.append((self._step, outcome, took_s))
        if not self._console.is_terminal:
            since_s = now_s() - self._began_s
            self._console.print(f"{since_s:6.1f} s  {self._step}: {outcome}", highlight=False, soft_wrap=True)
        self._step = None
        self.refresh()

    def show(self, statistics: Statistics, status: Status | None) -> None:
        """Take the latest numbers, and redraw."""
        self._statistics, self._status = statistics, status
        shown_s = now_s()
        then_s, count, _ = self._rate
        if shown_s - then_s >= 1:
            per_s = (statistics.statements_count - count) / (shown_s - then_s)
            self._rate = (shown_s, statistics.statements_count, per_s)
        self.refresh()

    def refresh(self) -> None:
        """Redraw."""
        if self._live.is_started:
            self._live.update(self._picture(), refresh=True)

    def table(self, results: Iterable[Result], *, took_s: float) -> None:
        """Print the table at the end."""
        title = f"The crossing, {took_s:.0f} s in all"
        table = Table(title=title, title_justify="left", show_header=False, min_width=72)
        table.add_column(style="bold")
        table.add_column()
        for result in results:
            style = {None: "", True: "green", False: "bold red"}[result.is_good]
            table.add_row(result.name, Text(result.value, style=style))
        self._console.print(table)

    def _picture(self) -> RenderableType:
        steps = Table.grid(padding=(0, 2))
        for name, outcome, took_s in self._done:
            steps.add_row(Text("✔", style="green"), name, Text(outcome, style="dim"), f"{took_s:.1f} s")
        if self._step is not None:
            took_s = now_s() - self._step_began_s
            steps.add_row(self._spinner, Text(self._step, style="bold"), self._backfill(), f"{took_s:.1f} s")
        return Group(steps, Text(""), self._numbers())

    def _backfill(self) -> RenderableType:
        if self._status is None or not 0 < self._status.backfill_ratio < 1:
            return Text("")
        return ProgressBar(total=1.0, completed=self._status.backfill_ratio, width=30)

    def _numbers(self) -> RenderableType:
        shown = Text()
        if self._statistics is not None:
            load = self._statistics
            shown.append(f"  {self._rate[2]:,.0f} statements/s")
            shown.append(f"   p50 {load.p50_s * 1000:.1f} ms   p99 {load.p99_s * 1000:.1f} ms")
            shown.append(f"   longest of late {load.longest_wait_s * 1000:.0f} ms   ")
            style = "bold red" if load.failures_count else "green"
            shown.append(f"{load.failures_count} failures", style=style)
        if self._status is not None:
            status = self._status
            shown.append(f"\n  writes on {status.authority or 'neither'} (epoch {status.epoch})")
            shown.append(f"   reads on new {status.reads_on_new_ratio:.0%}")
            shown.append(
                f"   ledger {status.ledger_entries:,} entries, oldest {status.ledger_oldest_s * 1000:.0f} ms"
            )
            shown.append(f"   backfill {status.backfill_ratio:.0%}")
        return shown
