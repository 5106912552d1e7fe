"""Objects of a database by what they are made of, and what follows from what.

A definition that PostgreSQL keeps parsed names functions by OID, exactly. One that it keeps as text
(most SQL and PL functions) is searched for names, which errs on the safe side: a column that is
called like an operator or a type counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

_calls = re.compile(r'([\w$]+)"?\s*\(')
_words = re.compile(r"[\w$]+")
_operators = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
_DYNAMIC = "execute"


class Sort(StrEnum):
    """What is defined; the letters are those of `queries.DEFINITIONS`."""

    FUNCTION = "f"
    OPERATOR = "o"
    TYPE = "t"  # the target of a cast, or a domain with a check
    IMPLICIT_CAST = "i"
    RELATION = "r"  # what reading it runs: a view, or a table with policies
    EVENT = "e"  # an event trigger
    WRITTEN = "w"  # what writing to a relation runs: triggers, defaults, checks, rules, ...


class Definition(NamedTuple):
    """One object, or one part of it, and what that is made of."""

    sort: Sort
    oid: int
    name: str
    is_volatile: bool  # declared so, and able to write rows
    source: str  # as the user wrote it, and names of what else it reaches
    uses: frozenset[int]  # functions, from what PostgreSQL has parsed
    language: str = ""  # of a function
    extension: str = ""  # that a function belongs to
    is_declared_volatile: bool = False


class _Mentioned(NamedTuple):
    definition: Definition
    calls: frozenset[str]
    words: frozenset[str]
    operators: frozenset[str]


def spread(definitions: Iterable[Definition], is_first: Callable[[Definition], bool]) -> list[Definition]:
    """Return the first ones and whatever mentions one of these, again and again until nothing is added.

    Dynamic SQL can call any function.
    """
    found: list[Definition] = []
    functions: set[int] = set()
    names: dict[Sort, set[str]] = {sort: set() for sort in Sort}
    waiting = [_mentioned(definition) for definition in definitions]
    while True:
        fresh: list[_Mentioned] = []
        rest: list[_Mentioned] = []
        for each in waiting:
            is_found = is_first(each.definition) or _mentions_any(each, functions, names)
            (fresh if is_found else rest).append(each)
        if not fresh:
            return found
        waiting = rest
        for definition, *_ in fresh:
            found.append(definition)
            names[definition.sort].add(definition.name.lower())
            if definition.sort is Sort.FUNCTION:
                functions.add(definition.oid)


def _mentioned(definition: Definition) -> _Mentioned:
    source = definition.source.lower()
    return _Mentioned(
        definition,
        frozenset(_calls.findall(source)),
        frozenset(_words.findall(source)),
        frozenset(_operators.findall(source)),
    )


def _mentions_any(each: _Mentioned, functions: Collection[int], names: dict[Sort, set[str]]) -> bool:
    is_reading = each.definition.sort is Sort.RELATION  # a view does not write
    return (
        not each.definition.uses.isdisjoint(functions)
        or not each.calls.isdisjoint(names[Sort.FUNCTION])
        or not names[Sort.RELATION].isdisjoint(each.words)
        or not names[Sort.TYPE].isdisjoint(each.words)
        or not (is_reading or names[Sort.WRITTEN].isdisjoint(each.words))
        or not each.operators.isdisjoint(names[Sort.OPERATOR])
        or (_DYNAMIC in each.words and bool(names[Sort.FUNCTION]))
    )
