"""Names and texts as SQL literals, the way PostgreSQL's quote_ident and quote_literal write them.

Names are always quoted: a word that is free today is a keyword in the next version.
"""

from __future__ import annotations


def quote_name(name: str) -> str:
    """Return an identifier that reads back as exactly `name`."""
    return '"' + name.replace('"', '""') + '"'


def quote_qualified(schema: str, name: str) -> str:
    """Return `"schema"."name"`."""
    return quote_name(schema) + "." + quote_name(name)


def quote_text(text: str) -> str:
    """Return a literal that reads back as `text`, whatever standard_conforming_strings is."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted
