"""Setting the target's sequences beyond everything the source has given out.

Called by the switch, while no captured write is in flight. Sequences are outside of
transactions and of the ledger, and sessions may hold cached values; hence the margin.

The value set is the furthest, in the sequence's own direction, of the source's last value,
the target's last value, and what the columns that draw from it hold on the target, plus
the margin. Columns are looked at only where an index answers at once: a scan would
lengthen the pause, and the source's last value already covers all but values written
by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import asyncpg

from proxy.catalog.model import Catalog, OwnedSequence, QualifiedName
from proxy.converge.plan import unquote
from proxy.sql.quote import quote_name, quote_qualified, quote_text

_READ = """
SELECT schemaname AS schema, sequencename AS name, last_value,
       increment_by AS increment, min_value, max_value, cycle AS is_cyclic
  FROM pg_catalog.pg_sequences WHERE schemaname = ANY($1::text[])
"""


class Sequence(NamedTuple):
    """A sequence as one cluster has it; `last_value` None: nothing was drawn yet."""

    last_value: int | None
    increment: int
    min_value: int
    max_value: int
    is_cyclic: bool


def beyond(source: Sequence, target: Sequence, used: Iterable[int | None], margin: int) -> int | None:
    """Return the last value to set on the target; None: nobody has drawn, leave it.

    Args:
        used: The furthest values of the columns that draw from it; None for an empty column.
        margin: Steps to leave out, in units of the increment.
    """
    known = [value for value in (source.last_value, target.last_value, *used) if value is not None]
    if not known:
        return None
    if source.is_cyclic:
        # It comes round anyway, so there is no "beyond"; go on where the source stopped.
        return source.last_value if source.last_value is not None else target.last_value
    furthest = max(known) if source.increment > 0 else min(known)
    return min(max(furthest + margin * source.increment, target.min_value), target.max_value)


async def set_sequences(
    source: asyncpg.Connection, target: asyncpg.Connection, catalog: Catalog, margin: int = 1000
) -> int:
    """Set the target's sequences beyond the source's; return how many were set.

    Args:
        catalog: Either side's catalog; a sequence that one side lacks is left out.
    """
    here, there = await read(source, catalog), await read(target, catalog)
    used = await _used(target, catalog, here)
    texts = []
    for sequence in catalog.sequences:
        names = (sequence.schema, sequence.name)
        if names in here and names in there:
            value = beyond(here[names], there[names], [used.get(names)], margin)
            if value is not None:
                texts.append(f"SELECT pg_catalog.setval({quote_text(sequence.qualified)}, {value})")
    if texts:
        await target.execute("; ".join(texts))
    return len(texts)


def has_room(source: Sequence, target: Sequence) -> bool:
    """Return whether the target's bounds leave a value beyond what the source has given out."""
    if source.last_value is None or source.is_cyclic:
        return True
    next_value = source.last_value + source.increment
    return next_value <= target.max_value if source.increment > 0 else next_value >= target.min_value


async def read(connection: asyncpg.Connection, catalog: Catalog) -> dict[QualifiedName, Sequence]:
    """Return the sequences of a catalog as one cluster has them."""
    schemas = sorted({sequence.schema for sequence in catalog.sequences})
    return {
        (row["schema"], row["name"]): Sequence(*list(row.values())[2:])
        for row in await connection.fetch(_READ, schemas)
    }


async def _used(
    target: asyncpg.Connection, catalog: Catalog, sequences: dict[QualifiedName, Sequence]
) -> dict[QualifiedName, int | None]:
    """Return the furthest value of each sequence's column, asked in one statement."""
    asked: list[QualifiedName] = []
    columns = []
    for sequence in catalog.sequences:
        names = (sequence.schema, sequence.name)
        owner = _indexed_column(catalog, sequence)
        if owner is not None and names in sequences:
            (schema, table), column = owner
            furthest = "max" if sequences[names].increment > 0 else "min"
            columns.append(
                f"(SELECT {furthest}({quote_name(column)}) FROM {quote_qualified(schema, table)})::bigint"
            )
            asked.append(names)
    if not columns:
        return {}
    row = await target.fetchrow(f"SELECT ARRAY[{', '.join(columns)}] AS used")
    return dict(zip(asked, row["used"], strict=True)) if row is not None else {}


def _indexed_column(catalog: Catalog, sequence: OwnedSequence) -> tuple[QualifiedName, str] | None:
    """Return the column that draws from a sequence, if it leads a unique index."""
    if sequence.owned_by is None:
        return None
    table = catalog.tables.get(sequence.owned_by[0])
    column = sequence.owned_by[1]
    if table is None:
        return None
    leads = {unquote(index.expressions[0]) for index in table.unique_indexes if index.predicate is None}
    return sequence.owned_by if column in leads else None
