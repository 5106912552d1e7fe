"""A status, a plan and a verification as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.admin.status_model import DatabaseStatus, LedgerStatus, Plan, Status
from proxy.config.units import show_ratio
from proxy.verify.report import Report, TableReport

_LINES_MAX = 10
_DIFFERENCES_MAX = 20


def status(told: Status) -> str:
    """Return a status, the most urgent first."""
    return "\n".join(_status(told)) + "\n"


def plan(told: Plan) -> str:
    """Return what a reload would do."""
    return "\n".join(_plan(told)) + "\n"


def verification(reports: dict[str, Report]) -> str:
    """Return what a verification found: every table, and every row that differs."""
    return "\n".join(line for name, report in reports.items() for line in _verification(name, report)) + "\n"


def _status(told: Status) -> Iterator[str]:
    yield f"crossfade {told['version']}, {told['config_file']}, {told['at']}"
    yield from (f"  !! configuration refused: {problem}" for problem in told["config_problems"])
    yield from (f"  !! needs a restart: {change}" for change in told["needs_restart"])
    yield from (f"  !! {problem}: the last value is kept" for problem in told["flag_problems"])
    yield from (f"  !! {name}: {error}" for name, error in told["errors"].items())
    for name, database in told["databases"].items():
        yield ""
        yield from _database(name, database)


def _until_empty(ledger: LedgerStatus) -> str:
    eta_s = ledger["eta_s"]
    if not ledger["entries"]:
        return ""
    return ", not shrinking" if eta_s is None else f", empty in {eta_s:,.0f} s"


def _database(name: str, database: DatabaseStatus) -> Iterator[str]:
    rollout, ledger, engine = database["rollout"], database["ledger"], database["engine"]
    step = f", {database['switching']}" if database["switching"] else ""
    yield f"{name}: authority {database['authority'] or 'neither'}, epoch {database['epoch']}{step}"
    if database["authority"] != rollout["writes_on"]:
        why = f": {rollout['refused']}" if rollout["refused"] else ""
        yield f"  !! the file wants writes on {rollout['writes_on']}{why}"
    yield f"  reads    {show_ratio(rollout['reads_on_new_ratio'])} on new, sticky by {rollout['sticky_by']}"
    if rollout["breaker"]:
        allowed = show_ratio(rollout["reads_allowed_ratio"])
        yield f"  !! the circuit breaker lets {allowed} through: {rollout['breaker']}"
    if rollout["read_fallbacks"]:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in rollout["read_fallbacks"].items())
        yield f"           stayed on the authority: {counts}"
    yield f"  ledger   {ledger['entries']:,} entries, oldest {ledger['oldest_s']:.1f} s{_until_empty(ledger)}"
    for name, walk in ledger["walks"].items():
        eta = "" if walk["eta_s"] is None else f", done in {walk['eta_s']:,.0f} s"
        yield f"           {name} is gone through: {show_ratio(walk['ratio'])}{eta}"
    yield f"  engine   {engine['owner'] or '!! no process holds the lease'}, lag {engine['lag_s']:.1f} s"
    if engine["last_error"]:
        yield f"           last error {engine['error_at'] or ''}: {engine['last_error']}"
    yield from _backfill(database)
    for gate in database["gates"]:
        mark = "ok" if gate["passed"] else "overruled" if gate["is_forced"] else "!!"
        yield f"  gate     {mark} {gate['name']}: {gate['reason']}"
    keys = (
        f"  !! quarantined {key['table']} {', '.join(key['key'])}, {key['attempts']} attempts: {key['error']}"
        for key in database["quarantine"]
    )
    yield from _first(keys, len(database["quarantine"]))
    for table, count in database["capture_misses"].items():
        yield f"  !! {count} changes of {table} escaped capture, at last: {database['last_misses'][table]}"
    for proxy in database["proxies"]:
        state = proxy["state"]
        if state == "silent":
            state = f"!! silent, last heard {proxy['heard_s']:,.0f} s ago"
        yield (
            f"  proxy    {proxy['name']} on {proxy['host']} {state}, "
            f"since {proxy['since']}, file {proxy['digest']}"
        )
    for each in database["servers"]:
        mark = "up" if each["is_up"] else f"!! down: {each['reason'] or 'no answer'}"
        lag = "" if each["lag_s"] is None else f", lag {each['lag_s']:.1f} s"
        yield (
            f"  server   {each['cluster']} {each['role']} {each['address']} {mark}, "
            f"{each['active']} active, {each['idle']} idle{lag}"
        )
    clients = database["clients"]
    yield f"  clients  {clients['count']}, {clients['active']} active, {clients['waiting']} waiting"
    pinned = (f"           pinned {each['address']}: {each['reason']}" for each in clients["pinned"])
    yield from _first(pinned, len(clients["pinned"]))


def _backfill(database: DatabaseStatus) -> Iterator[str]:
    backfill = database["backfill"]
    chunks = sum(table["chunks"] for table in backfill["tables"])
    done = sum(table["chunks_done"] for table in backfill["tables"])
    throttle = f", {backfill['throttle']}" if backfill["throttle"] else ""
    yield f"  backfill {backfill['state']}{throttle}: {done:,} of {chunks:,} chunks"


def _plan(told: Plan) -> Iterator[str]:
    if not told["is_running"]:
        yield "no proxy answers: nothing to compare with"
    elif not told["live"] and not told["needs_restart"]:
        yield "the running proxy has this configuration"
    yield from (f"live           {change}" for change in told["live"])
    yield from (f"needs restart  {change}" for change in told["needs_restart"])
    yield from (f"refused        {reason}" for reason in told["refused"])
    for name, gates in told["gates"].items():
        for gate in gates:
            mark = "ok" if gate["passed"] else "overruled" if gate["is_forced"] else "!!"
            yield f"gate           {mark} {name}.{gate['name']}: {gate['reason']}"


def _verification(name: str, report: Report) -> Iterator[str]:
    for table in report.tables:
        yield f"{name}  {table.name}  {_outcome(table)}"
        for found in table.differing[:_DIFFERENCES_MAX]:
            columns = f": {', '.join(found.columns)}" if found.columns else ""
            repaired = ", will be repaired" if found.is_repaired else ""
            yield f"    {', '.join(found.key)}  {found.kind}{columns}{repaired}"
        left = len(table.differing) - _DIFFERENCES_MAX
        if left > 0:
            yield f"    ... and {left:,} more: --json lists them"
        if table.is_cut_short:
            yield f"    ... and rows beyond the first {len(table.differing):,}, not looked for"
    yield (
        f"{name}  {report.rows_count:,} rows in {len(report.tables)} tables, "
        f"{report.differences_count:,} differences, {report.seconds:.1f} s"
    )


def _outcome(table: TableReport) -> str:
    if table.problem:
        return f"could not be compared: {table.problem}"
    pending = f", {table.pending_count:,} still on their way" if table.pending_count else ""
    verdict = f"{len(table.differing):,} differ" if table.differing else "equal"
    return f"{table.rows_count:,} rows, {verdict}{pending}"


def _first(lines: Iterable[str], count: int) -> Iterator[str]:
    yield from (line for line, _ in zip(lines, range(_LINES_MAX), strict=False))
    if count > _LINES_MAX:
        yield f"     ... and {count - _LINES_MAX:,} more"
