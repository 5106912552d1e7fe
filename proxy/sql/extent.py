"""Where the statements of a query string really begin and end.

PostgreSQL's parser gives each statement a location and a length, but the length
reaches up to the next semicolon, over blanks and comments. Text can only be appended
after the last token: behind `-- a comment` it would vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pglast.parser import scan

# What the scanner calls space; str.strip() alone would also take U+00A0, which is a letter to it.
SPACE = " \t\n\r\f\v"
_COMMENTS = {"SQL_COMMENT", "C_COMMENT"}


class Extent(NamedTuple):
    """Offsets of the first character of the first token and after the last token."""

    start: int
    end: int


def extents(text: str, locations: Sequence[tuple[int, int]]) -> list[Extent]:
    """Return the extent of each statement.

    Args:
        text: The whole query string.
        locations: For each statement `stmt_location` and `stmt_len` in characters; length 0
            means up to the end of the text.
    """
    slices = [(start, start + length if length else len(text)) for start, length in locations]
    if "--" not in text and "/*" not in text:
        return [_stripped(text, start, end) for start, end in slices]
    tokens = [token for token in scan(text) if token.name not in _COMMENTS]
    found = []
    for start, end in slices:
        own = [token for token in tokens if start <= token.start < end]
        found.append(Extent(own[0].start, own[-1].end + 1))
    return found


def _stripped(text: str, start: int, end: int) -> Extent:
    part = text[start:end]
    return Extent(end - len(part.lstrip(SPACE)), start + len(part.rstrip(SPACE)))
