"""One page of proof: parity, verification, latency, switch history, the way back.

Rule 1: pure. It shows one status (`status_model`), so the page and the dashboard
cannot disagree, and a page can be made again from a stored status.
Rule 2: the text and the HTML are two renderings of the same sections.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from proxy.admin.status_model import DatabaseStatus, Status, VerificationStatus, way_back

_DIFFERENCES_MAX = 20
_SWITCHES_MAX = 20


class Section(NamedTuple):
    """A heading, the one sentence that answers it, and what it rests on."""

    title: str
    verdict: str
    is_good: bool | None  # None: neither, or not known
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def sections(database: DatabaseStatus) -> list[Section]:
    """Return what there is to say about one database."""
    return [
        _parity(database),
        _verification(database["verification"]),
        _convergence(database),
        _latency(database),
        _switches(database),
        _readiness(database),
    ]


def text(status: Status) -> str:
    """Return the report for a terminal."""
    return "\n".join(_text_lines(status)) + "\n"


def html(status: Status) -> str:
    """Return the report as one self-contained HTML page."""
    return _PAGE.format(
        at=escape(status["at"]), version=escape(status["version"]), body="\n".join(_html_lines(status))
    )


def _parity(database: DatabaseStatus) -> Section:
    ratio = database["read_parity_ratio"]
    gate = next((gate for gate in database["gates"] if gate["name"] == "read_parity"), None)
    if ratio is None:
        return Section("Read parity", "no reads were compared yet", None)
    verdict = f"{_percent(ratio)} of the compared reads gave equal results on both sides"
    return Section("Read parity", verdict, gate["passed"] if gate else None)


def _verification(verification: VerificationStatus) -> Section:
    if verification["at"] is None:
        return Section("Verification", "never run: crossfade verify compares all rows", None)
    rows = sum(verification["tables"].values())
    verdict = (
        f"{verification['differing']:,} of {rows:,} rows in {len(verification['tables'])} tables differ; "
        f"compared at {verification['at']}"
    )
    differences = tuple(
        (found["table"], ", ".join(found["key"]), found["kind"], ", ".join(found["columns"]))
        for found in verification["differences"][:_DIFFERENCES_MAX]
    )
    header = ("table", "key", "kind", "columns") if differences else ("table", "rows compared")
    tables = tuple((table, f"{count:,}") for table, count in sorted(verification["tables"].items()))
    return Section("Verification", verdict, verification["differing"] == 0, header, differences or tables)


def _convergence(database: DatabaseStatus) -> Section:
    ledger, quarantine = database["ledger"], database["quarantine"]
    misses = sum(database["capture_misses"].values())
    verdict = (
        f"{ledger['entries']:,} ledger entries wait, the oldest for {ledger['oldest_s']:.1f} s; "
        f"{len(quarantine):,} keys are quarantined; {misses:,} writes escaped capture"
    )
    rows = tuple(
        (key["table"], ", ".join(key["key"]), str(key["attempts"]), key["error"])
        for key in quarantine[:_DIFFERENCES_MAX]
    )
    header = ("table", "key", "attempts", "error") if rows else ()
    return Section("Convergence", verdict, not quarantine and not misses, header, rows)


def _latency(database: DatabaseStatus) -> Section:
    rows = tuple(
        (
            each["destination"],
            each["kind"],
            f"{each['count']:,}",
            *(f"{value:.2f}" for value in (each["p50_ms"], each["p95_ms"], each["p99_ms"])),
        )
        for each in database["latency"]
    )
    count = sum(each["count"] for each in database["latency"])
    header = ("destination", "kind", "statements", "p50 ms", "p95 ms", "p99 ms") if rows else ()
    return Section("Latency", f"{count:,} statements since the proxy started", None, header, rows)


def _switches(database: DatabaseStatus) -> Section:
    rows = tuple(
        (
            each["at"],
            str(each["epoch"]),
            f"{each['from']} -> {each['to']}",
            "" if each["pause_ms"] is None else f"{each['pause_ms']:.1f}",
            each["outcome"],
            each["reason"],
        )
        for each in database["switches"][:_SWITCHES_MAX]
    )
    side = database["authority"] or "neither (a switch is under way)"
    verdict = (
        f"the authority is {side}, epoch {database['epoch']}, after {len(database['switches'])} attempts"
    )
    header = ("at", "epoch", "direction", "pause ms", "outcome", "reason") if rows else ()
    return Section("Switches", verdict, None, header, rows)


def _readiness(database: DatabaseStatus) -> Section:
    readiness = way_back(database)
    title = "Rollback readiness" if readiness["to"] == "old" else "Switch readiness"
    verdict = f"writes can{'' if readiness['is_ready'] else 'not'} move to {readiness['to']} now"
    rows = tuple(
        (
            "holds" if gate["passed"] else "overruled" if gate["is_forced"] else "refuses",
            gate["name"],
            gate["reason"],
        )
        for gate in database["gates"]
    )
    gates = {f"{gate['name']}: {gate['reason']}" for gate in database["gates"]}
    rows += tuple(("refuses", "", reason) for reason in readiness["reasons"] if reason not in gates)
    return Section(title, verdict, readiness["is_ready"], ("verdict", "gate", "reason") if rows else (), rows)


def _text_lines(status: Status) -> Iterator[str]:
    yield f"Crossfade {status['version']} report, {status['at']}"
    for name, error in status["errors"].items():
        yield f"\n{name}: no status: {error}"
    for name, database in status["databases"].items():
        yield f"\nDatabase {name}"
        for section in sections(database):
            mark = {True: "ok", False: "!!", None: "--"}[section.is_good]
            yield f"\n  [{mark}] {section.title}: {section.verdict}"
            yield from _text_table(section)


def _text_table(section: Section) -> Iterator[str]:
    if not section.rows:
        return
    widths = [max(map(len, column)) for column in zip(section.header, *section.rows, strict=True)]
    for row in (section.header, *section.rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("       " + "  ".join(cells)).rstrip()


def _html_lines(status: Status) -> Iterator[str]:
    for name, error in status["errors"].items():
        yield f"<h2>{escape(name)}</h2><p class=bad>no status: {escape(error)}</p>"
    for name, database in status["databases"].items():
        yield f"<h2>{escape(name)}</h2>"
        for section in sections(database):
            kind = {True: "good", False: "bad", None: "plain"}[section.is_good]
            yield f"<h3>{escape(section.title)}</h3><p class={kind}>{escape(section.verdict)}</p>"
            if section.rows:
                yield "<table>" + _html_row("th", section.header)
                yield from (_html_row("td", row) for row in section.rows)
                yield "</table>"


def _html_row(tag: str, cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _percent(ratio: float) -> str:
    # Never rounded up: 99.999% is not 100%.
    return f"{int(ratio * 1_000_000) / 10_000:g}%"


_PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><title>Crossfade report</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .2em 1em .2em 0 }}
th {{ font-weight: 600; border-bottom: 1px solid #8888 }} td {{ border-bottom: 1px solid #8883 }}
h2 {{ border-bottom: 2px solid #8888 }} h3 {{ margin-bottom: 0 }} p {{ margin: .2em 0 .6em }}
.good::before {{ content: "✓ "; color: #080 }} .bad::before {{ content: "✗ "; color: #c00 }}
</style>
<h1>Crossfade report</h1><p>{at}, version {version}</p>
{body}
</html>
"""
