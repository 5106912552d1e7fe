"""What the target can do for one table, found out by trying.

PostgreSQL's manual says what PostgreSQL can; clusters that speak its protocol differ, and so
do tables of one cluster (an index that is deferrable, a rule, partitions on other nodes) and
roles. EXPLAIN plans a statement and checks the privileges, and executes nothing.

    writing   the first form of `writing` whose every statement the target would run
    format    binary COPY, if a stream without rows is taken; else text
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg

from proxy.converge import failure
from proxy.converge.failure import Meaning
from proxy.converge.plan import Plan
from proxy.converge.rows import Format
from proxy.converge.writing import Writing, candidates

# Signature, flags, no header extension, and the end. (PostgreSQL manual, COPY, "Binary Format".)
_NO_ROWS = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff"


async def writing(target: asyncpg.Connection, plan: Plan, *, is_replica: bool) -> Writing:
    """Return how to write the table; its staging table must exist.

    Raises:
        asyncpg.PostgresError: No form is possible; what the target says about the last.
    """
    refusal: asyncpg.PostgresError | None = None
    for candidate in candidates(plan, is_replica=is_replica):
        try:
            for statement in candidate.statements:
                await target.execute(f"EXPLAIN {statement}")
            return candidate
        except asyncpg.PostgresError as error:
            if failure.meaning(error) not in (Meaning.TABLE, Meaning.ROW):
                raise
            refusal = error
    assert refusal is not None, "there is always a form to try"
    raise refusal


async def format_of(target: asyncpg.Connection, plan: Plan) -> Format:
    """Return the format that rows travel in; the staging table must exist."""
    if plan.format == "text":
        return "text"

    async def no_rows() -> AsyncIterator[bytes]:
        yield _NO_ROWS

    try:
        await target.copy_to_table(plan.stage, source=no_rows(), columns=plan.stage_columns, format="binary")
    except asyncpg.PostgresError as error:
        if failure.meaning(error) is Meaning.LINK:
            raise
        return "text"
    return "binary"
