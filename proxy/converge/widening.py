"""Entries by key give way to fewer and wider ones, where comparing more rows is cheaper.

A key costs a look-up on both sides and the deletion of its entry; a row of a range costs
neither. So when there are very many entries of a table, as after an outage or one large UPDATE,
its rows are counted:

    table    more entries than rows: the table is compared as a whole
    ranges   otherwise the keys are sorted and cut into runs. One that holds no more rows than
             entries gives way to the range from the row before its first key to its last

and the entries are deleted unread. With one entry for each row, ranges and keys cost the same:
12 us of CPU in all, 4 of them for the sorting. Each further entry of a row is a gain, and the
ledger shrinks at once. Ranges take a key with an index, and of types that every cluster sorts
alike: a key of the run that only the target has must lie within the range there too.
"""

from __future__ import annotations

import asyncpg

from proxy.catalog.bounds import key_array, key_columns, rows_from
from proxy.catalog.model import Table
from proxy.converge.links import Links
from proxy.ledger import entries
from proxy.ledger.depth import depth
from proxy.ledger.lease import Lease, check
from proxy.sql.quote import quote_name

ENTRIES_MIN = 100_000
RUN_ENTRIES = 20_000
_STRETCH_PAGES = 2_000  # about 200,000 entries

_SORTED_ALIKE = {
    "smallint", "integer", "bigint", "oid", "uuid", "bytea", "boolean", "date",
    "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip

# As the last ANALYZE or VACUUM counted them; -1 where there was none.
_ROWS = """
SELECT sum(c.reltuples)::bigint FROM pg_catalog.pg_class c
 WHERE c.oid = $1::oid OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid) WHERE isleaf)
"""

# $1 table, $2 and $3 the first page and the one behind the last, $4 entries of a run. The rows
# of a run are counted no further than they are few enough.
_TO_RANGES = """
WITH entry AS MATERIALIZED (
    SELECT place, key, {keys}, row_number() OVER (ORDER BY {keys}) - 1 AS number
      FROM (SELECT ctid AS place, key, {casts} FROM crossfade.ledger
             WHERE tbl = $1 AND kind = 'k' AND retry_at IS NULL AND ctid >= $2::tid AND ctid < $3::tid) e),
run AS (
    SELECT number / $4 AS run, min(number) AS first, max(number) AS last, count(*) AS entries_count
      FROM entry GROUP BY 1),
dense AS MATERIALIZED (
    SELECT r.run, (SELECT {array} FROM {rows} t WHERE ({columns}) < ({lows})
                    ORDER BY {descending} LIMIT 1) AS lo, l.key AS hi
      FROM run r JOIN entry f ON f.number = r.first JOIN entry l ON l.number = r.last
     WHERE (SELECT count(*) FROM (
               SELECT FROM {rows} t WHERE ({columns}) >= ({lows}) AND ({columns}) <= ({highs})
                LIMIT r.entries_count + 1) few) <= r.entries_count),
gone AS (
    DELETE FROM crossfade.ledger l USING entry e, dense d
     WHERE e.number / $4 = d.run AND l.ctid = e.place RETURNING 1),
wide AS (
    INSERT INTO crossfade.ledger (tbl, kind, key)
    SELECT $1, 'r', coalesce(d.lo, array_fill(NULL::text, ARRAY[cardinality(d.hi)])) || d.hi FROM dense d)
SELECT count(*) FROM gone
"""


async def rows_estimate(connection: asyncpg.Connection, table: Table) -> int:
    """Return about how many rows a table has; less than one where nobody has counted."""
    return int(await connection.fetchval(_ROWS, table.oid) or 0)


async def widen(links: Links, lease: Lease) -> int:
    """Do so for every table it holds for; return how many entries gave way.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    count = 0
    deep = await depth(links.writer)
    for table_id, entries_count in deep.entries.items():
        table = links.plans.get(table_id)
        if table is not None and entries_count >= ENTRIES_MIN:
            rows_count = await rows_estimate(links.writer, table.source)
            if 0 < rows_count < entries_count:
                count += await entries.widen(links.writer, lease, table_id)
            elif has_ranges(table.source):
                count += await to_ranges(links.writer, lease, table.source)
    return count


def has_ranges(table: Table) -> bool:
    """Return whether a range of keys holds the same keys on every cluster, and is quickly found."""
    return set(table.key_types) <= _SORTED_ALIKE and any(index.is_key for index in table.unique_indexes)


async def to_ranges(connection: asyncpg.Connection, lease: Lease, table: Table) -> int:
    """Let ranges take the place of entries that lie densely; return how many gave way.

    Each stretch of the ledger is a transaction of its own: before and after every one of them,
    all that may differ is in the ledger.

    Raises:
        LeaseLost: Somebody else owns the engine.
    """
    count = 0
    query = ranges_query(table)
    for page in range(0, await entries.pages_count(connection), _STRETCH_PAGES):
        async with connection.transaction():
            await check(connection, lease)
            places = (page, 0), (page + _STRETCH_PAGES, 0)
            count += await connection.fetchval(query, table.id, *places, RUN_ENTRIES)
    return count


def ranges_query(table: Table) -> str:
    """Return the statement that does so for one stretch of the ledger."""
    numbers = range(1, len(table.key) + 1)
    return _TO_RANGES.format(
        casts=", ".join(
            f"key[{i}]::{type_} AS k{i}" for i, type_ in zip(numbers, table.key_types, strict=True)
        ),
        keys=", ".join(f"k{i}" for i in numbers),
        lows=", ".join(f"f.k{i}" for i in numbers),
        highs=", ".join(f"l.k{i}" for i in numbers),
        array=key_array(table, "t"),
        columns=key_columns(table, "t"),
        descending=", ".join(f"t.{quote_name(name)} DESC" for name in table.key),
        rows=rows_from(table),
    )
