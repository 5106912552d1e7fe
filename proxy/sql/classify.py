"""From SQL text to `Statement`s, through PostgreSQL's own grammar.

A parse costs about 80 us, so callers go through `cache.Cache`.

Four things make a text unfit for the parser. One that PostgreSQL itself would refuse,
or that is newer than our grammar, becomes Kind.UNKNOWN: the authority shall judge. One
with standard_conforming_strings off reads differently; callers that see that setting
must treat texts with a backslash as unknown (`escaped`). One of megabytes, for its
literals, is parsed without them (see `normalise.shorten`): a tree of Python objects is
a hundred times the size of its text. And one of thousands of operators is not parsed at
all (see `_NESTING_MAX`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from pglast import ast
from pglast.parser import ParseError, parse_sql, scan

from proxy.sql import settings
from proxy.sql.extent import Extent, extents
from proxy.sql.facts import Facts, describe
from proxy.sql.mentions import Mentions, mentions
from proxy.sql.normalise import shorten
from proxy.sql.statement import NAMING, Kind, Pin, Setting, Statement, Unpin
from proxy.sql.targets import of_write

PARSED_CHARS_MAX = 64 * 1024
# The parser's tree becomes Python objects by recursion in C: `a+a+a...` of 30,000 terms, which is
# 60 kB, overflows an 8 MiB stack and ends the process. A short text cannot nest that deep.
_SHALLOW_CHARS_MAX = 4 * 1024
_NESTING_MAX = 5_000
_nesting = re.compile(
    r"[-+*/<>=~!@#%^&|?:]+|\b(?:is|isnull|notnull|not|collate|at|join|union|intersect|except|like|ilike"
    r"|similar|between|in|operator)\b",
    re.IGNORECASE,
)
_REFUSALS = (ParseError, RecursionError, UnicodeEncodeError)
_SESSION_LOCKS = {
    "pg_advisory_lock", "pg_advisory_lock_shared",
    "pg_try_advisory_lock", "pg_try_advisory_lock_shared",
}  # fmt: skip

_DRAWN = {"lastval", "currval"}
_SESSION_UNLOCKS = {"pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all"}


def parse(text: str) -> tuple[Statement, ...]:
    """Return the statements of a query string; none for an empty one."""
    if len(text) > PARSED_CHARS_MAX or _may_be_deep(text):
        return _parse_long(text)
    if "\0" in text:
        return (unknown(text, "a query cannot hold a zero byte"),)
    try:
        raw = parse_sql(text)
        locations = [(node.stmt_location, node.stmt_len) for node in raw]
        return tuple(
            _classify(node.stmt, text, extent)
            for node, extent in zip(raw, extents(text, locations), strict=True)
        )
    except _REFUSALS as error:
        return (unknown(text, str(error)),)


def unknown(text: str, refusal: str) -> Statement:
    """Return what is said of a text that cannot be judged."""
    tag = _first_word(text, 0)
    pin = Pin.PREPARE if tag == "PREPARE" else None
    return Statement(Kind.UNKNOWN, 0, len(text), tag=tag, refusal=refusal, pin=pin, depends_on_literals=True)


def escaped(text: str) -> Statement:
    """Return what is said of a text with backslashes while standard_conforming_strings is off.

    It may be any statement, so the session keeps its server.
    """
    return replace(unknown(text, "a backslash may escape a quote"), pin=Pin.BACKSLASH)


def _may_be_deep(text: str) -> bool:
    """Return whether a text has so many operators that its tree could be too deep."""
    return len(text) > _SHALLOW_CHARS_MAX and len(_nesting.findall(text)) > _NESTING_MAX


def _parse_long(text: str) -> tuple[Statement, ...]:
    """Judge a long text without its literals, which leaves what follows its last token as it is."""
    short = shorten(text)
    if short is None or len(short) > 2 * PARSED_CHARS_MAX or _may_be_deep(short):
        return (unknown(text, "the text is too long to judge"),)
    try:
        raw = parse_sql(short)
    except _REFUSALS as error:
        return (unknown(text, str(error)),)
    if len(raw) != 1:
        return (unknown(text, "several statements in one long text"),)
    (extent,) = extents(short, [(raw[0].stmt_location, raw[0].stmt_len)])
    statement = _classify(raw[0].stmt, short, extent)
    if statement.depends_on_literals or statement.prepared is not None:
        return (unknown(text, "the text is too long to judge"),)
    return (statement.placed(len(text) - (len(short) - statement.end)),)


def _classify(node: Any, text: str, extent: Extent) -> Statement:
    found = mentions(node)
    facts = {"tag": _first_word(text, extent.start), **_mentioned(node, found), **describe(node, found)}
    statement = Statement(start=extent.start, end=extent.end, **facts)
    if isinstance(node, ast.PrepareStmt):
        inner = _classify(node.query, text, Extent(_after_as(text, extent), extent.end))
        statement = replace(
            statement, prepared=inner, depends_on_literals=inner.depends_on_literals, targets=()
        )
    return replace(statement, is_plain_read_shape=_is_plain_read(statement))


def _mentioned(node: Any, found: Mentions) -> Facts:
    """Return what holds for any statement: what it mentions, and what its functions imply."""
    facts: Facts = {
        "functions": frozenset(found.functions),
        "relations": frozenset(found.relations),
        "operators": frozenset(found.operators),
        "types": frozenset(found.types),
        "locks_rows": found.locks_rows,
    }
    nested = [write for write in found.writes if write is not node]
    if nested:
        facts["has_nested_writes"] = True
        facts["targets"] = tuple(of_write(write) for write in nested)
    names = {name for schema, name in found.functions if schema in (None, "pg_catalog")}
    if names & _DRAWN:
        facts["reads_drawn"] = True
    if names & _SESSION_LOCKS:
        facts["pin"] = Pin.ADVISORY_LOCK
    elif names & _SESSION_UNLOCKS:
        facts["unpin"] = Unpin.ADVISORY_LOCK
    if found.set_configs:
        facts |= _set_configs(node, found.set_configs)
    return facts


def _set_configs(node: Any, calls: list[Any]) -> Facts:
    """Return the settings that set_config() calls make, or the pin of those that nobody can name."""
    plain = isinstance(node, ast.SelectStmt) and not (node.fromClause or node.whereClause or node.op)
    direct = [result.val for result in (node.targetList or ())] if plain else []
    named: list[Setting] = []
    asked: list[str] = []
    asked_local: set[str] = set()
    for call in calls:
        setting = settings.of_set_config(call) if any(call is value for value in direct) else None
        name = settings.name_of_set_config(call)
        if settings.is_local_call(call):
            # It ends with the transaction, like SET LOCAL: until then it matters what names mean.
            if setting is None:
                asked_local |= NAMING if name is None else NAMING & {name}
            elif setting.name in NAMING:
                named.append(setting)
        elif setting is not None:
            named.append(setting)
        elif name is not None and settings.is_session_call(call):
            asked.append(name)
        else:
            return {"pin": Pin.SETTING, "depends_on_literals": True}
    return {
        "settings": tuple(named), "asked_settings": tuple(asked), "asked_local": tuple(sorted(asked_local)),
        "depends_on_literals": True,
    }  # fmt: skip


def _is_plain_read(statement: Statement) -> bool:
    copy = statement.copy
    return (
        (statement.kind is Kind.READ or (statement.kind is Kind.COPY_OUT and copy is not None))
        and not (copy is not None and copy.is_server_side)
        and not (statement.locks_rows or statement.settings or statement.asked_settings or statement.targets)
        and statement.pin is None
        and statement.unpin is None
        and statement.cursor is None
        and statement.prepared_name is None
    )


def _after_as(text: str, extent: Extent) -> int:
    """Return where the statement inside a PREPARE begins: after the first AS outside parentheses."""
    depth, is_next = 0, False
    for token in scan(text):
        if token.start < extent.start or token.name in ("SQL_COMMENT", "C_COMMENT"):
            continue
        if is_next:
            return int(token.start)
        depth += (token.name == "ASCII_40") - (token.name == "ASCII_41")
        is_next = depth == 0 and token.name == "AS"
    return extent.end


def _first_word(text: str, start: int) -> str:
    word = text[start : start + 24].split(None, 1)
    return word[0].rstrip(";(*").upper() if word else ""
