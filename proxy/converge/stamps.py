"""Ledger entries that name rows by the stamp of the subtransaction that wrote them (`ledger.copying`).

The rows are looked for in their table's files, a stretch of pages at a time, and converged by their
keys. Every stretch has a snapshot of its own, so no COPY is too large; where no row of theirs lies
the file is read at full speed. A row that is not found has another stamp by now: who changed
or deleted it has entered its key.

Rule: pages are counted in one file. When the table is rewritten (VACUUM FULL, CLUSTER) the rows
keep their stamps but not their places, and the new file is read from its first page. While a
stretch is read its table is locked against that, and `apply.require_steady` sees what
happened between the snapshot and the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.catalog.bounds import key_array
from proxy.clock import Clock
from proxy.converge import ranges
from proxy.converge.apply import RETRIES_MAX, Selection, attempt
from proxy.converge.job import Job
from proxy.converge.rows import SourceRefused
from proxy.converge.statistics import Walked
from proxy.errors import TablePaused
from proxy.ledger import entries
from proxy.ledger.entries import Key

STRETCH_PAGES = 256
_SEARCH_PAGES = 65_536

# The entry of a partitioned table's root means all of its partitions.
_FILES = """
SELECT c.oid::int8,
       min(CASE WHEN l.key[4] = pg_relation_filenode(c.oid)::text THEN l.key[3]::int8 ELSE 0 END) AS page,
       pg_relation_filenode(c.oid)::int8 AS file,
       pg_relation_size(c.oid) / current_setting('block_size')::int8 AS pages,
       array_agg(DISTINCT l.key[1])::text AS stamps
  FROM crossfade.ledger l
 CROSS JOIN LATERAL (SELECT l.key[2]::oid
                      UNION SELECT relid FROM pg_partition_tree(l.key[2]::oid::regclass)) f(relid)
  JOIN pg_class c ON c.oid = f.relid AND c.relkind = 'r'
 WHERE l.ctid = ANY('{ctids}'::tid[]){same_file} GROUP BY c.oid ORDER BY c.oid
"""

_NOW = """
SELECT $1::oid::regclass::text AS name, pg_relation_filenode($1::oid::regclass)::int8 AS file,
       pg_relation_size($1::oid::regclass) / current_setting('block_size')::int8 AS pages
"""


class _File(NamedTuple):
    """What is left to read of a file: from a page up to where it ended when the entries were read."""

    oid: int
    page: int
    file: int
    pages: int
    stamps: str  # the text of an xid[]

    def rows(self, name: str, pages: int) -> str:
        """Return FROM and WHERE for the stamped rows in its next pages."""
        end = min(self.page + pages, self.pages)
        return (
            f"FROM ONLY {name} AS t WHERE t.ctid >= '({self.page},0)' AND t.ctid < '({end},0)'"
            f" AND t.xmin = ANY('{self.stamps}'::xid[])"
        )

    def behind(self, page: int) -> _File | None:
        """Return what is left from a page on; None: nothing."""
        return self._replace(page=page) if page < self.pages else None


@dataclass(slots=True)
class _Search:
    """The entries of one table under way."""

    ctids: str
    entries_count: int
    ledger_file: int
    files: list[_File]
    pages_count: int
    began_s: float


class Stamps:
    """The tables whose files are searched; lives as long as the lease that its ctids depend on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._searches: dict[int, _Search] = {}

    def walked(self) -> dict[int, Walked]:
        """Return by table id how far the searches are."""
        return {
            table_id: Walked.of(
                search.pages_count - _pages(search.files), search.pages_count, self._clock() - search.began_s
            )
            for table_id, search in self._searches.items()
        }

    async def go(self, job: Job) -> None:
        """Converge stamped rows of a table until a time; entries that are done are deleted."""
        table_id = job.table.id
        search = self._searches.get(table_id)
        if search is None:
            search = self._searches[table_id] = await _begin(job, self._clock())
        while search.files:
            left = await _stretch(job, search.files[-1])
            search.files[-1:] = [left] if left is not None else []
            if search.files and self._clock() >= job.until_s:
                job.leave()
                return
        del self._searches[table_id]
        # Entries that came after the search began are for the next one.
        job.leave(await job.clear(search.ctids, ledger_file=search.ledger_file))


async def _begin(job: Job, now_s: float) -> _Search:
    batch, ledger_file = job.batch, job.ledger_file
    rows = await job.links.writer.fetch(
        _FILES.format(ctids=batch.ctids, same_file=entries.same_file(ledger_file))
    )
    files = [_File(*row) for row in rows]
    return _Search(batch.ctids, batch.entries_count, ledger_file, files, _pages(files), now_s)


def _pages(files: list[_File]) -> int:
    return sum(file.pages - file.page for file in files)


async def _stretch(job: Job, file: _File) -> _File | None:
    """Converge the next rows of a file; return what is left of it, None when it is done or gone."""
    links, table = job.links, job.table
    for _ in range(RETRIES_MAX):
        try:
            async with links.snapshot():
                name, now, pages = await links.source.fetchrow(_NOW, file.oid)  # type: ignore[misc]
                if now is None:
                    return None
                if now != file.file:
                    return file._replace(page=0, file=now, pages=pages)
                first = await links.source.fetchval(
                    f"SELECT (t.ctid::text::point)[0]::int8 {file.rows(name, _SEARCH_PAGES)} LIMIT 1"
                )
                if first is None:
                    return file.behind(file.page + _SEARCH_PAGES)
                file = file._replace(page=first)
                keys = f"SELECT {key_array(table.source, 't')} AS key {file.rows(name, STRETCH_PAGES)}"
                done = await attempt(links, job.lease, [Selection(table, keys)], deleter=job.deleter)
                if done.refusal is not None:
                    ranges.raise_unless_row(table, done.refusal)
                    if isinstance(done.refusal, SourceRefused):
                        await links.read_on()
                    listed = [Key(tuple(row["key"]), "{}") for row in await links.source.fetch(keys)]
        except ranges.Again:
            continue
        job.outcome.rows += done.rows
        if done.refusal is not None:
            job.add(await ranges.split_up(links, job.lease, table, listed, deleter=job.deleter))
        return file.behind(file.page + STRETCH_PAGES)
    raise TablePaused(f"{table.name} changes faster than it can be read", hint="it is tried again")
