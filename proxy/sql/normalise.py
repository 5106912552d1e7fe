"""A text without its literals, in about a microsecond, or None: take the slow way.

Texts with equal keys have the same tokens but for the values of their literals, so the
grammar cannot tell them apart and they share a classification. The cheap scan below is a
true lexer only for texts without backslashes, comments, dollar quotes and U& forms;
whatever has those is not understood, and says so.

    'abc'      ''        quotes inside are doubled, so they pair up
    12, 1.5    0         also -1.5, as -0
    "a 1"      kept      a name, whatever it looks like
    $1, t2     kept
    1e5, 0x1F  kept      rarer numbers only cost a cache entry each

An unfinished quote leaves an odd number of quotes in the key, which no valid text has.
"""

from __future__ import annotations

import re

_STRING = r"'[^']*+(?:''[^']*+)*+'"
# A digit first lets the regex engine search for digits; only then does it look around.
_NUMBER = r"[0-9](?<![\w$.].)[0-9]*+(?:\.[0-9]*+)?+(?![\w$.])"
# Bytes above 127 are letters to PostgreSQL, even those that are none in Unicode.
_NUMBER_WIDE = r"[0-9](?<![\w$.\x80-\U0010ffff].)[0-9]*+(?:\.[0-9]*+)?+(?![\w$.\x80-\U0010ffff])"

_strings = re.compile(_STRING)
_numbers = re.compile(_NUMBER)
_numbers_wide = re.compile(_NUMBER_WIDE)
_quoted = re.compile(f'"[^"]*"|{_STRING}|{_NUMBER_WIDE}')
# Every literal, for long texts: also E'' with backslashes, dollar quotes, and names and comments,
# which may hold quotes.
_tokens = re.compile(
    rf"""--[^\r\n]*+|"[^"]*+"|[uU]&["'](?:[^"'])*+["']|(?<![\w$\x80-\U0010ffff])[eE]'(?:[^'\\]|\\.|'')*+'"""
    rf"""|{_STRING}|(?<![\w$\x80-\U0010ffff])(\$(?:[A-Za-z_]\w*)?\$).*?\1|{_NUMBER_WIDE}""",
    re.DOTALL,
)
_dollar_quote = re.compile(r"\$(?![0-9])")

_LITERAL = r"(?:-?0|''|NULL|TRUE|FALSE|DEFAULT|\$[0-9]+)(?:::[a-z_]\w*)?"
_list = re.compile(rf"(?<![\w$.'\"])({_LITERAL})(?:\s*,\s*{_LITERAL})++(?![\w$.'\"])", re.IGNORECASE)
_rows = re.compile(rf"(\(\s*{_LITERAL}\s*\))(?:\s*,\s*\(\s*{_LITERAL}\s*\))++", re.IGNORECASE)


def normalise(text: str) -> str | None:
    """Return the key of a text; None when it holds anything that is not plainly understood."""
    if "\\" in text or "--" in text or "/*" in text or "\0" in text or "&'" in text:
        return None
    if "$" in text and _dollar_quote.search(text):
        return None
    if '"' in text:
        return None if '&"' in text else _with_names(text)
    if "'" in text:
        text = _strings.sub("''", text)
    return _numbers.sub("0", text) if text.isascii() else _numbers_wide.sub("0", text)


def shorten(text: str) -> str | None:
    """Return a text of the same shape with lists of literals cut to one literal, or None.

    What PostgreSQL would do with it is another matter: this is only to be parsed. Start and
    end of the statement keep their distance from the ends of the text. Texts worth this are
    long, so here every kind of literal is understood; only comments in /* */ are not.
    """
    key = normalise(text)
    if key is None:
        if "/*" in _tokens.sub("", text) or "\0" in text:
            return None
        key = _tokens.sub(_replacement, text)
    return _rows.sub(r"\1", _list.sub(r"\1", key))


def _with_names(text: str) -> str:
    """Return the key of a text with quoted names.

    Splitting at the quotes separates names from the rest, and the rest takes one pass
    without a Python call for each match. Only a double quote inside a string defeats that: a
    string then swallows a mark, and the count shows it.
    """
    parts = text.split('"')
    outside = _strings.sub("''", '"'.join(parts[::2])) if "'" in text else '"'.join(parts[::2])
    outside = _numbers_wide.sub("0", outside)
    marked = outside.split('"')
    if len(parts) % 2 == 0 or len(marked) != len(parts[::2]):
        return _quoted.sub(_replacement, text)
    parts[::2] = marked
    return '"'.join(parts)


def _replacement(match: re.Match[str]) -> str:
    found = match[0]
    first = found[0]
    if first in '"-uU':
        return found  # a name or a comment
    return "0" if first in "0123456789" else "''"
