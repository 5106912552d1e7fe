"""Compare source and target while both are written to, name every row that differs, mend them.

    source          target
    digest          digest          of each range, at the same time
    buckets         buckets         of a range that differs
    rows            rows            of buckets that differ, a few at a time: suspects
    look, look      look            at each suspect, until the rule of `ranges` gives a verdict

Every statement but one reads a bounded part of a table and sees its own snapshot, so
verification does not hold back vacuum. The exception is a table whose text keys the two
sides sort differently: its digest is one statement over the whole table.

The result is stored in crossfade.verification on the source, for the gate. Repair is
converge again: it only writes ledger entries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

import asyncpg

from proxy.catalog.bounds import nameless_rows
from proxy.catalog.model import Catalog, QualifiedName, Table
from proxy.clock import Clock, now_s
from proxy.config.dsn import Dsn
from proxy.ledger.connection import connect
from proxy.verify import digest
from proxy.verify.comparison import Comparison, Limits, Pair
from proxy.verify.copies import Copies
from proxy.verify.digest import Incomparable
from proxy.verify.report import Report, TableReport

_FAILURES = (Incomparable, asyncpg.PostgresError, TimeoutError)
_DEFAULT = Limits()


async def verify(
    source: Dsn,
    target: Dsn,
    catalogs: tuple[Catalog, Catalog],
    *,
    only: Collection[QualifiedName] | None = None,
    repair: bool = False,
    limits: Limits = _DEFAULT,
    clock: Clock = now_s,
) -> Report:
    """Compare the mirrored tables, store the result on the source, and return it.

    Args:
        source: The authority's primary.
        target: The mirror's primary.
        catalogs: The source's and the target's.
        only: Tables to compare; None is all of them.
        repair: Write a ledger entry for every difference, so that converge mends it.

    Raises:
        UpstreamRefused: A cluster cannot be reached.
        OSError: A cluster went away meanwhile; nothing is stored.
    """
    started_s = clock()
    here, there = catalogs
    chosen = [table for names, table in sorted(here.tables.items()) if only is None or names in only]
    reports = []
    async with AsyncExitStack() as stack:
        pairs = [await _open(source, target, stack, limits) for _ in range(limits.connections_max)]
        for table in chosen:
            report = await _verify_table(table, there.tables.get(table.names), pairs, limits)
            reports.append(await _repair(pairs[0].source, table, report) if repair else report)
        result = Report(tuple(reports), only is None, clock() - started_s)
        await _store(pairs[0].source, result)
    return result


async def _open(source: Dsn, target: Dsn, stack: AsyncExitStack, limits: Limits) -> Pair:
    opened = []
    for dsn in (source, target):
        connection = await connect(dsn, application_name="crossfade verify")
        stack.callback(connection.terminate)
        await connection.execute(
            "SET plan_cache_mode = force_custom_plan;"
            " SET max_parallel_workers_per_gather = 0; SET default_transaction_read_only = on;"
            f" SET statement_timeout = {int(limits.statement_timeout_s * 1000)}"
        )
        opened.append(connection)
    return Pair(*opened)


async def _verify_table(
    table: Table, other: Table | None, pairs: Sequence[Pair], limits: Limits
) -> TableReport:
    """Return what a table is found to be. One that cannot be read says nothing about the others."""
    name = f"{table.schema}.{table.name}"
    if other is None:
        return TableReport(name, problem="the target has no such table")
    try:
        here, there = [await side.fetchval("SHOW server_encoding") for side in pairs[0]]
        shapes = digest.shapes(table, other, is_encoded=here != there)
        if not table.key:
            return await Copies(name, *shapes, limits).run(pairs[0])
        nameless = nameless_rows(table)
        if nameless and await pairs[0].source.fetchval(nameless):
            raise Incomparable(f"it has rows whose key ({', '.join(table.nullable_key)}) is NULL")
        return await Comparison(name, *shapes, limits).run(pairs)
    except _FAILURES as error:
        return TableReport(name, problem=str(error) or "it took too long")
    except ExceptionGroup as errors:
        failed, others = errors.split(_FAILURES)
        if failed is None or others is not None:
            raise
        return TableReport(name, problem=str(_first(failed)) or "it took too long")


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _repair(source: asyncpg.Connection, table: Table, report: TableReport) -> TableReport:
    """Write the entries that make converge mend a table.

    A table that was cut short gets one entry for all of it: listing more rows one by one
    would take longer than converging them. So does one without a key, whose rows have no names.
    """
    if not report.differing:
        return report
    is_whole = report.is_cut_short or not table.key
    columns = [list(column) for column in zip(*(found.key for found in report.differing), strict=True)]
    numbers = range(1, len(columns) + 1)
    key = ", ".join(f"k.k{number}" for number in numbers)
    arrays = ", ".join(f"${number + 1}::text[]" for number in numbers)
    names = ", ".join(f"k{number}" for number in numbers)
    async with source.transaction():
        await source.execute("SET TRANSACTION READ WRITE")
        if is_whole:
            await source.execute("INSERT INTO crossfade.ledger (tbl, kind) VALUES ($1, 't')", table.id)
        else:
            await source.execute(
                f"INSERT INTO crossfade.ledger (tbl, key) SELECT $1, ARRAY[{key}]"
                f" FROM unnest({arrays}) AS k({names})",
                table.id,
                *columns,
            )
    return report._replace(differing=tuple(found._replace(is_repaired=True) for found in report.differing))


async def _store(source: asyncpg.Connection, report: Report) -> None:
    async with source.transaction():
        await source.execute("SET TRANSACTION READ WRITE")
        await source.execute(
            "INSERT INTO crossfade.verification (is_whole, tables_count, rows_count, differences_count,"
            " pending_count, problems) VALUES ($1, $2, $3, $4, $5, $6)",
            report.is_whole, len(report.tables), report.rows_count, report.differences_count,
            report.pending_count, list(report.problems),
        )  # fmt: skip
