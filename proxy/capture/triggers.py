"""The trigger form: statement-level triggers that write the same entries (DESIGN 3.2).

One function for each table, in schema `crossfade`, so that removing the schema removes the
triggers too. It runs as its owner with a search_path of its own: roles that may not read
the key, or whose search_path is hostile, change nothing about it.

A partitioned table's triggers fire for statements on the root, a partition's for
statements on that partition, never both. So each of them has its own; partitions made
later get theirs at the next `crossfade init`.

A transition table does not say where its rows lie, so the INSERTs of a keyless table have a trigger
for each row; PostgreSQL hands those down to partitions by itself, so only leaves get it from us.

PostgreSQL itself leaves these triggers out where session_replication_role is replica.
An engine that may not become replica says so by setting `crossfade.engine`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from proxy.capture.keys import address, key_texts
from proxy.catalog.model import Table
from proxy.sql.quote import quote_text


class _Event(NamedTuple):
    """A trigger: what fires it, what it is told."""

    name: str
    event: str
    transition: str = ""
    level: str = "STATEMENT"


_UPDATES = "REFERENCING OLD TABLE AS crossfade_old NEW TABLE AS crossfade_new"
_EVENTS = (
    _Event("crossfade_i", "INSERT", "REFERENCING NEW TABLE AS crossfade_new"),
    _Event("crossfade_u", "UPDATE", _UPDATES),
    _Event("crossfade_d", "DELETE", "REFERENCING OLD TABLE AS crossfade_old"),
    _Event("crossfade_t", "TRUNCATE"),
)
_KEYLESS_EVENTS = (_Event("crossfade_r", "INSERT", level="ROW"), *_EVENTS[1:])
_NAMES = frozenset(each.name for each in (*_EVENTS, *_KEYLESS_EVENTS))


def names_on(table: Table) -> list[str]:
    """Return the names of the triggers that the table itself has in this form."""
    return [each.name for each in _events(table) if each.level != "ROW" or not table.is_partitioned]


def _events(table: Table) -> tuple[_Event, ...]:
    return _EVENTS if table.key else _KEYLESS_EVENTS


def install_sql(tables: Iterable[Table]) -> str:
    """Return a script that gives every table the triggers of its form; running it again is fine."""
    return "\n".join(create_sql(table) if table.capture == "trigger" else drop_sql(table) for table in tables)


def create_sql(table: Table) -> str:
    """Return a script that installs the triggers of one table where they are missing."""
    # Creating one locks the table against writers, so those that exist are left alone.
    events = _events(table)
    drops = _drops(_NAMES - {each.name for each in events})
    creates = "\n".join(
        f"""
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = part AND tgname = '{each.name}')
           {_ON_LEAVES if each.level == "ROW" else ""} THEN
            EXECUTE format('CREATE TRIGGER {each.name} AFTER {each.event} ON %s {each.transition}
                FOR EACH {each.level} EXECUTE FUNCTION crossfade.capture_{table.id}()', part);
        END IF;"""
        for each in events
    )
    return _function(table) + _for_each_part(table, drops + creates)


def drop_sql(table: Table) -> str:
    """Return a script that removes the triggers of one table, if there are any."""
    script = _for_each_part(table, _drops(_NAMES))
    return script + f"DROP FUNCTION IF EXISTS crossfade.capture_{table.id}();\n"


def _drops(names: Iterable[str]) -> str:
    return "\n".join(
        f"""
        IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = part AND tgname = '{name}') THEN
            EXECUTE format('DROP TRIGGER {name} ON %s', part);
        END IF;"""
        for name in sorted(names)
    )


_ON_LEAVES = "AND (SELECT relkind FROM pg_catalog.pg_class WHERE oid = part) <> 'p'"


def _function(table: Table) -> str:
    return _header(table) + (_of_keys(table) if table.key else _of_rows(table)) + _FOOTER


def _header(table: Table) -> str:
    return f"""
CREATE OR REPLACE FUNCTION crossfade.capture_{table.id}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $crossfade$
BEGIN
    IF current_setting('crossfade.engine', true) = 'on' THEN
        RETURN NULL;"""


_FOOTER = """
    END IF;
    RETURN NULL;
END $crossfade$;
"""


def _of_rows(table: Table) -> str:
    place = ", ".join(address("NEW.ctid", "TG_RELID"))
    whole = f"INSERT INTO crossfade.ledger (tbl, kind) SELECT {table.id}, 't'"
    return f"""
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO crossfade.ledger (tbl, kind, key) VALUES ({table.id}, 'a', ARRAY[{place}]);
    ELSIF TG_OP = 'TRUNCATE' THEN
        {whole};
    ELSE
        {whole} WHERE EXISTS (SELECT FROM crossfade_old);"""


def _of_keys(table: Table) -> str:
    new = ", ".join(key_texts("crossfade_new", table))
    old = ", ".join(key_texts("crossfade_old", table))
    return f"""
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO crossfade.ledger (tbl, key) SELECT {table.id}, ARRAY[{new}] FROM crossfade_new;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO crossfade.ledger (tbl, key) SELECT {table.id}, ARRAY[{old}] FROM crossfade_old;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO crossfade.ledger (tbl, key)
            SELECT {table.id}, ARRAY[{new}] FROM crossfade_new
             UNION SELECT {table.id}, ARRAY[{old}] FROM crossfade_old;
    ELSE
        INSERT INTO crossfade.ledger (tbl, kind) VALUES ({table.id}, 't');"""


def _for_each_part(table: Table, body: str) -> str:
    """Return a DO block that runs `body` for the table and each of its partitions, as `part`.

    Nothing is done for one that was dropped since the catalog was read.
    """
    name = f"pg_catalog.to_regclass({quote_text(table.qualified)})"
    return f"""
DO $crossfade$
DECLARE part regclass;
BEGIN
    FOR part IN
        SELECT {name} WHERE {name} IS NOT NULL
         UNION SELECT relid FROM pg_catalog.pg_partition_tree({name})
    LOOP{body}
    END LOOP;
END $crossfade$;
"""
