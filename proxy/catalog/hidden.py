"""What runs a volatile function of the user's without looking like it: found by reading the definitions.

PostgreSQL keeps a STABLE function from writing by itself, but not from calling a VOLATILE one that
writes; an operator, a cast, a domain's check and a row security policy call functions whose names
stand in no statement. So what is declared is only where the search begins:

    volatile         by pg_proc, not written in C, and no trigger function: these may write rows
    hidden volatile  whatever mentions one of these, again and again until nothing is added

What escapes all this (a name put together in PL/Python, an extension in C) is refused by PostgreSQL
itself where reads run in read-only transactions: see `session.settings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.catalog.definitions import Definition, Sort, spread


@dataclass(slots=True)
class Hidden:
    """Everything that is volatile in truth: functions and relations by OID, the others by name."""

    functions: set[int] = field(default_factory=set)
    relations: set[int] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    has_implicit_casts: bool = False


def find_hidden(definitions: Iterable[Definition]) -> Hidden:
    """Return what runs a volatile function, directly or not."""
    found = Hidden()
    read = (each for each in definitions if each.sort not in (Sort.WRITTEN, Sort.EVENT))
    for definition in spread(read, lambda each: each.is_volatile):
        _add(definition, found)
    return found


def _add(definition: Definition, found: Hidden) -> None:
    match definition.sort:
        case Sort.FUNCTION:
            found.functions.add(definition.oid)
        case Sort.RELATION:
            found.relations.add(definition.oid)
        case Sort.OPERATOR:
            found.operators.add(definition.name)
        case Sort.TYPE:
            found.types.add(definition.name)
        case Sort.IMPLICIT_CAST:
            found.types.add(definition.name)
            found.has_implicit_casts = True
