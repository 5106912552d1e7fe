"""Tables without a key: nothing names a row, so copies of a row are counted.

    append   an INSERT leaves an entry per row that says where the row lies. Rows that nobody has
             changed since are read from there, and inserted
    compare  whatever else happens leaves an entry for the whole table: as many copies of each row
             as the source has, no more and no less, by the text of the whole row

To insert a row twice makes two of it, so converging twice must be told from converging once.
The transaction that writes such a table on the target also writes down the source's snapshot
(`crossfade.appended`): an entry whose transaction that snapshot sees is there already, whatever
became of the answer to the commit. It belongs to one reign, since snapshots of two clusters
mean nothing to each other; a reign begins with both sides equal.

Where a row is not found any more (it was changed, or VACUUM FULL has moved it), and where the
target refuses one, the entries give way to one for the whole table: doubt costs a comparison,
never a row. Since a comparison is one transaction, so is the copy of a table's history.
"""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from proxy.converge.failure import Moved
from proxy.converge.links import Links
from proxy.converge.plan import Plan, listed, only
from proxy.ledger.lease import Lease, raise_if_lost
from proxy.sql.quote import quote_text

_NOW = "SELECT (SELECT epoch FROM crossfade.state), pg_current_snapshot()::text"
_APPLIED = "SELECT snapshot FROM crossfade.appended WHERE tbl = $1 AND epoch = $2"
_NOTHING = "1:1:"  # a snapshot that sees no transaction


class Moment(NamedTuple):
    """The source's snapshot, and the reign that it belongs to."""

    epoch: int
    snapshot: str

    def remember(self, table: Plan) -> str:
        """Return the SQL by which the target remembers that its table is as far as this."""
        return (
            "INSERT INTO crossfade.appended AS a (tbl, epoch, snapshot)"
            f" VALUES ({table.id}, {self.epoch}, {quote_text(self.snapshot)})"
            " ON CONFLICT (tbl) DO UPDATE SET epoch = excluded.epoch, snapshot = excluded.snapshot;"
        )


async def moment(links: Links) -> Moment:
    """Return the moment of the snapshot that the caller holds."""
    row = await links.source.fetchrow(_NOW)
    assert row is not None, "a SELECT without FROM returns one row"
    return Moment(*row)


async def fill(links: Links, table: Plan, now: Moment) -> int:
    """Stage the rows appended since the target was written last; return how many.

    Raises:
        Moved: Some are not where they were; the table must be compared.
        SourceRefused, asyncpg.PostgresError: As for `Links.fill`.
    """
    applied = await links.target.fetchval(_APPLIED, table.id, now.epoch)
    rows_count = await links.fill(table, appended(table, applied or _NOTHING))
    if await links.target.fetchval(table.absent):
        raise Moved(f"rows appended to {table.name} are not where they were")
    return rows_count


async def compare(links: Links, lease: Lease, table: Plan, note: str) -> None:
    """Make the target hold as many copies of each row as are staged.

    Args:
        note: SQL that belongs to the same transaction.
    """
    body = f"{delete_extras(table)};{insert_missing(table)};{note}{links.emptying([table])}"
    try:
        await links.target.execute(f"{lease.guard(is_target=True)}{body}")
    except asyncpg.PostgresError as error:
        raise_if_lost(error)
        raise
    links.emptied([table])


def appended(table: Plan, applied: str) -> str:
    """Return the query that stages rows by their entries: each, or the mark that it is not there.

    Args:
        applied: The snapshot that the target is as far as.
    """
    since = f"{quote_text(applied)}::pg_snapshot"
    return (
        f"SELECT (CASE WHEN t.ctid IS NULL THEN 'n' ELSE 'y' END)::\"char\", {listed(table.names, 't')}"
        " FROM (SELECT key[1]::tid AS place, key[2]::oid AS part, key[3] AS file FROM crossfade.ledger"
        f" WHERE tbl = {table.id} AND kind = 'a' AND NOT pg_visible_in_snapshot(key[4]::xid8, {since})) AS e"
        f" LEFT JOIN {only(table.source)} AS t ON t.ctid = e.place AND t.tableoid = e.part"
        " AND pg_relation_filenode(t.tableoid)::text = e.file"
    )


def extras(table: Plan) -> str:
    """Return the query that counts the target's copies beyond those that are staged."""
    return f"SELECT count(*) FROM {_extra(table)}"


def delete_extras(table: Plan) -> str:
    """Return the statement that deletes the target's copies beyond those that are staged."""
    return (
        f"DELETE FROM {only(table.target)} AS t USING {_extra(table)}"
        " WHERE t.ctid = x.place AND t.tableoid = x.part"
    )


def insert_missing(table: Plan) -> str:
    """Return the statement that inserts the staged copies that the target has not."""
    there = (
        f"SELECT {_image(table, 't')} AS image, count(*) AS copies FROM {only(table.target)} AS t GROUP BY 1"
    )
    staged = f"SELECT *, {_image(table, 's')} AS image FROM pg_temp.{table.stage} AS s"
    numbered = f"SELECT *, row_number() OVER (PARTITION BY image) AS number FROM ({staged}) AS s"
    return (
        f"INSERT INTO {table.target.qualified} ({listed(table.names)}) OVERRIDING SYSTEM VALUE"
        f" SELECT {listed(table.names, 'n')} FROM ({numbered}) AS n LEFT JOIN ({there}) AS o USING (image)"
        " WHERE n.number > coalesce(o.copies, 0)"
    )


def _extra(table: Plan) -> str:
    staged = (
        f"SELECT {_image(table, 's')} AS image, count(*) AS copies FROM pg_temp.{table.stage} AS s GROUP BY 1"
    )
    image = _image(table, "t")
    there = f"SELECT ctid AS place, tableoid AS part, {image} AS image FROM {only(table.target)} AS t"
    numbered = f"SELECT *, row_number() OVER (PARTITION BY image) AS number FROM ({there}) AS t"
    return (
        f"(SELECT n.place, n.part FROM ({numbered}) AS n LEFT JOIN ({staged}) AS s USING (image)"
        " WHERE n.number > coalesce(s.copies, 0)) AS x"
    )


def _image(table: Plan, alias: str) -> str:
    # Not by equality: 1.0 and 1.00 are equal and yet not the same, and json has none.
    return f"ROW({listed(table.names, alias)})::text"
