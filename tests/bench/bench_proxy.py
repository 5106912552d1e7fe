"""Crossfade beside PostgreSQL itself, PgBouncer and Pgpool-II, in one run of pgbench.

    python tests/bench/bench_proxy.py [--rounds 5] [--seconds 3] [--clients 8] [--scale 5] [--workers 1]

A machine's speed drifts by more than the differences of interest, so the targets take
turns within each round, beginning with another one each time, and the medians of all
rounds are compared. The clusters run with fsync on, as in earnest.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections import defaultdict
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from targets import POOL_SIZE, Bench, Target


class Scenario(NamedTuple):
    """One kind of load, and who is measured with it."""

    name: str
    script: str | None = None  # None: pgbench's own select-only
    is_prepared: bool = False
    clients_max: int = 64
    targets: frozenset[str] = frozenset({"direct", "crossfade", "pgbouncer", "pgpool"})


_UPDATE = """\
\\set aid random(1, 100000 * :scale)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
"""
_WRITERS = frozenset({"direct", "crossfade"})

SCENARIOS = [
    Scenario("select-only, simple"),
    Scenario("select-only, prepared", is_prepared=True),
    # Two at a time fill the cores; more would measure the queue for them.
    Scenario("20,000 rows, simple", "SELECT * FROM pgbench_accounts LIMIT 20000;\n", clients_max=2),
    Scenario("captured UPDATE, simple", _UPDATE, targets=_WRITERS),
    Scenario("captured UPDATE, prepared", _UPDATE, is_prepared=True, targets=_WRITERS),
]

Measured = dict[tuple[str, str], list[float]]


def measure(bench: Bench, arguments: argparse.Namespace, console: Console) -> Measured:
    """Return the transactions per second of every round, by scenario and target."""
    measured: Measured = defaultdict(list)
    for number in range(arguments.rounds):
        for scenario in SCENARIOS:
            if arguments.only not in scenario.name:
                continue
            turns = [target for target in bench.targets if target.name in scenario.targets]
            for target in turns[number % len(turns) :] + turns[: number % len(turns)]:
                tps = run_once(bench, scenario, target, arguments)
                measured[scenario.name, target.name].append(tps)
                console.print(
                    f"round {number + 1}  {scenario.name:<26} {target.name:<10} {tps:10,.0f}/s",
                    highlight=False,
                )
    return measured


def run_once(bench: Bench, scenario: Scenario, target: Target, arguments: argparse.Namespace) -> float:
    """Return the transactions per second of one run."""
    clients = min(arguments.clients, scenario.clients_max)
    options = ["-c", str(clients), "-j", str(min(2, clients)), "-T", str(arguments.seconds)]
    if scenario.script is None:
        options.append("-S")
    return bench.pgbench(target, *options, is_prepared=scenario.is_prepared, script=scenario.script)


def shown(measured: Measured, name: str, target: str) -> tuple[str, str, str]:
    """Return a target's median with its range, its ratio to direct, and that to PgBouncer."""
    values = measured.get((name, target))
    if not values:
        return "", "", ""
    median = statistics.median(values)

    def ratio(other: str) -> str:
        others = measured.get((name, other))
        return f"{median / statistics.median(others):.2f}" if others else ""

    return f"{median:,.0f} ({min(values):,.0f} to {max(values):,.0f})", ratio("direct"), ratio("pgbouncer")


def print_table(bench: Bench, measured: Measured, arguments: argparse.Namespace, console: Console) -> None:
    """Print absolute speeds and both ratios."""
    table = Table(
        title=f"{arguments.clients} clients, pools of {POOL_SIZE}, {arguments.workers} of our workers,"
        f" medians of {arguments.rounds} rounds of {arguments.seconds} s (lowest to highest)",
        title_justify="left",
    )
    for column in ("load", "target", "per second", "of direct", "of PgBouncer"):
        table.add_column(column, justify="left" if column in ("load", "target") else "right")
    for scenario in SCENARIOS:
        for target in bench.targets:
            cells = shown(measured, scenario.name, target.name)
            if any(cells):
                table.add_row(scenario.name, target.name, *cells)
        table.add_section()
    console.print(table)
    for line in [target.note for target in bench.targets if target.note] + bench.missing:
        console.print(f"  {line}", highlight=False)


def main() -> int:
    """Run the benchmark; 0 unless a target failed a transaction or lost a write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--scale", type=int, default=5, help="of pgbench: 100,000 rows each")
    parser.add_argument("--workers", type=int, default=1, help="of Crossfade")
    parser.add_argument("--only", default="", help="only loads with this word in their name")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it cleans up as well
    console = Console(width=None if sys.stdout.isatty() else 110)
    with Bench(arguments.scale, arguments.workers) as bench:
        bench.build()
        for line in bench.missing:
            console.print(f"{line}; going on without it", highlight=False)
        measured = measure(bench, arguments, console)
        print_table(bench, measured, arguments, console)
        verdict = bench.verify()
        console.print(f"  crossfade verify, afterwards: {verdict}", highlight=False)
    return 0 if verdict == "both sides are equal" else 1


if __name__ == "__main__":
    sys.exit(main())
