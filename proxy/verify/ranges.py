"""What follows from digests: which ranges differ, which rows to look at, what counts. Pure.

A comparison narrows down in three steps, so that few values ever leave the databases:

    range    one count and one sum per side                      about 10,000 rows
    bucket   the same, for each bucket of keys by hash           about 100 rows
    row      key and hash of each row in a bucket that differs

Buckets are cut by a hash of the key, never by its order: two clusters may sort text
differently, and then only a hash puts a key in the same bucket on both.

A row whose hashes differ is only a suspect: the two sides are read at two moments, and
the mirror is behind by design. `judge` applies the stable divergence rule to what was
seen of a suspect, in this order:

    1  source: the row, and whether an entry of the ledger names it      one snapshot
    2  target: the row
    3  source: the same as 1                                             one snapshot

No entry in 1 means that every write visible in 1 had been committed on the target
before 2 (the order in which converge commits and deletes). The same row version in 1
and 3 (`xmin` tells versions with equal values apart) means that there was no write in
between. So what 2 saw was all there was to see. An absent row has no version, so
a verdict needs two rounds that saw the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple, TypeVar

from proxy.catalog.bounds import EVERYTHING, Key, Range, ranges_between

_T = TypeVar("_T")

BUCKET_ROWS = 100
# 65,536 digests of a whole table are a few megabytes; more would be felt in Python.
BUCKETS_MAX = 1 << 16


class Digest(NamedTuple):
    """Of some rows: how many, and the sum of their hashes, which does not depend on order."""

    rows_count: int = 0
    hashes_sum: int = 0


class Kind(StrEnum):
    """How a row differs, seen from the source."""

    MISSING = "missing"  # on the target
    EXTRA = "extra"  # on the target: the source has no such row
    DIFFERING = "differing"


class Difference(NamedTuple):
    """A row that is not the same on both sides, and by the rule should be."""

    key: Key
    kind: Kind
    columns: tuple[str, ...] = ()  # those that differ; empty when a side has no row
    is_repaired: bool = False  # a ledger entry was written for it


class Row(NamedTuple):
    """One row, seen once: a hash per column, and on the source its version."""

    hashes: tuple[int, ...]
    version: str = ""


class Sighting(NamedTuple):
    """What steps 1 to 3 saw of one key; None: no row."""

    before: Row | None
    target: Row | None
    after: Row | None
    is_pending: bool  # an entry named the key, or its whole table, in 1 or in 3


class Verdict(StrEnum):
    """What one sighting proves."""

    EQUAL = "equal"
    DIFFERENT = "different"  # when the next sighting is the same
    UNSETTLED = "unsettled"  # a write was, or may be, on its way: look again


def plan(bounds: Sequence[Key], target_order: Sequence[int]) -> list[Range]:
    """Return the ranges to compare.

    Bounds that ascend on the target too cut its keys into disjoint ranges that leave
    nothing out, however it sorts. Where they do not ascend, no bound can be trusted and
    the whole table is one range.

    Args:
        bounds: Ascending on the source.
        target_order: The bounds' indices, as the target sorts them.
    """
    is_ascending = all(earlier < later for earlier, later in pairwise(target_order))
    return ranges_between(list(bounds)) if is_ascending else [EVERYTHING]


def buckets_count(rows_count: int) -> int:
    """Return into how many buckets to cut a range that differs: a power of two."""
    return min(1 << (rows_count // BUCKET_ROWS).bit_length(), BUCKETS_MAX)


def differing(source: Mapping[_T, object], target: Mapping[_T, object]) -> list[_T]:
    """Return what only one side has, or both have with another value; the source's order first."""
    here = [name for name, value in source.items() if target.get(name) != value]
    return here + [name for name in target if name not in source]


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Return the items, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def judge(sighting: Sighting) -> Verdict:
    """Return what a sighting proves about a key; see the rule above."""
    before, target, after, is_pending = sighting
    if before is not None and target is not None and before.hashes == target.hashes:
        return Verdict.EQUAL
    if before is None and target is None:
        return Verdict.EQUAL
    if is_pending or before != after:
        return Verdict.UNSETTLED
    return Verdict.DIFFERENT


def describe(key: Key, sighting: Sighting, columns: Iterable[str]) -> Difference:
    """Return the difference that a sighting shows."""
    if sighting.target is None:
        return Difference(key, Kind.MISSING)
    if sighting.before is None:
        return Difference(key, Kind.EXTRA)
    hashes = zip(columns, sighting.before.hashes, sighting.target.hashes, strict=True)
    return Difference(key, Kind.DIFFERING, tuple(name for name, here, there in hashes if here != there))
