"""Texts and what was said of them, bounded in bytes.

Two maps, each with half of the bytes: by exact text, and by text without literals
(`normalise`). So a client that puts a new number into every text churns the first map
and is served by the second.

Each map is two generations of plain dicts instead of an ordered one: a hit is a single
look-up, and when the young generation is full it becomes the old one, whose entries
survive if they are asked for again. That is nearly "least recently used" at a third
of its price.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from proxy.sql.classify import parse
from proxy.sql.normalise import normalise
from proxy.sql.statement import Statement

Statements = tuple[Statement, ...]

# What a Statement with its sets and tuples takes, measured on a dozen typical ones.
_STATEMENT_BYTES = 1500
_TEXT_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters since the start, and the present size."""

    text_hits: int
    key_hits: int
    misses: int
    size_bytes: int


class Cache:
    """Remembers the classification of texts.

    Args:
        bytes_max: Rough bound of what both maps may take.
    """

    def __init__(self, bytes_max: int = 32 * 1024 * 1024) -> None:
        self._texts = _Generations(bytes_max // 2)
        self._keys = _Generations(bytes_max // 2)
        self._text_hits = 0
        self._key_hits = 0
        self._misses = 0

    def statements(self, text: str) -> Statements:
        """Return the statements of a query string."""
        found = self._texts.young.get(text)
        if found is not None:
            self._text_hits += 1
            return found
        return self._find(text)

    def statistics(self) -> CacheStatistics:
        """Return hits, misses and size."""
        size_bytes = self._texts.size_bytes + self._keys.size_bytes
        return CacheStatistics(self._text_hits, self._key_hits, self._misses, size_bytes)

    def _find(self, text: str) -> Statements:
        """Look further: the old generation, then the key, then the parser."""
        found = self._texts.revive(text)
        if found is not None:
            self._text_hits += 1
            return found
        key = normalise(text)
        if key is not None:
            found = self._keys.young.get(key) or self._keys.revive(key)
            if found is not None:
                self._key_hits += 1
                found = (found[0].placed(len(text) + found[0].end),)
                self._remember_text(text, found)
                return found
        self._misses += 1
        found = parse(text)
        self._remember_text(text, found)
        # Kept under a key, the end is the (negative) distance from the end of the text.
        # Several statements would need an end each; what depends on a literal would lie.
        if key is not None and len(found) == 1 and not found[0].depends_on_literals:
            self._remember_key(key, (found[0].placed(found[0].end - len(text)),))
        return found

    def _remember_text(self, text: str, found: Statements) -> None:
        size_bytes = sys.getsizeof(text)
        if size_bytes <= _TEXT_BYTES_MAX:
            # The statements are shared with the key's entry, if there is one, but counting them
            # again only makes the bound safer.
            self._texts.put(text, found, size_bytes + _STATEMENT_BYTES * len(found))

    def _remember_key(self, key: str, found: Statements) -> None:
        size_bytes = sys.getsizeof(key)
        if size_bytes <= _TEXT_BYTES_MAX:
            self._keys.put(key, found, size_bytes + _STATEMENT_BYTES)


class _Generations:
    """A bounded map; `young` is read directly by its owner."""

    def __init__(self, bytes_max: int) -> None:
        self.young: dict[str, Statements] = {}
        self._old: dict[str, Statements] = {}
        self._young_bytes = 0
        self._old_bytes = 0
        self._young_bytes_max = bytes_max // 2

    @property
    def size_bytes(self) -> int:
        """What both generations take, roughly."""
        return self._young_bytes + self._old_bytes

    def revive(self, key: str) -> Statements | None:
        """Return an entry of the old generation and make it young."""
        found = self._old.pop(key, None)
        if found is not None:
            size_bytes = sys.getsizeof(key) + _STATEMENT_BYTES * len(found)
            self._old_bytes -= size_bytes
            self.put(key, found, size_bytes)
        return found

    def put(self, key: str, found: Statements, size_bytes: int) -> None:
        """Add an entry; a full young generation becomes the old one."""
        if self._young_bytes + size_bytes > self._young_bytes_max:
            self._old, self._old_bytes = self.young, self._young_bytes
            self.young, self._young_bytes = {}, 0
        self.young[key] = found
        self._young_bytes += size_bytes
