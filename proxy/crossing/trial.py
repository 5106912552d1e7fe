"""Try out, before writes move, what will be needed at the moment they do and afterwards.

    sequences   every sequence can be set on the target, beyond what the source has given out
    users       whoever writes here may write there, and what they write is captured there
    way back    the engine may write to the source, which is the mirror afterwards; a row of a
                table of our own has gone there and back

Everything is asked of the server itself, by the connections that the engine uses, in a
moment in which nothing depends on the answer. The row's trip commits on both sides, as
converging does: a cluster that waits for a standby for ever is found out here.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence

import asyncpg

from proxy.capture.triggers import names_on
from proxy.catalog.model import Catalog, QualifiedName
from proxy.converge import sequences
from proxy.crossing.gates import Trial
from proxy.ledger.schema import FENCED
from proxy.routing.policy import Side

_WRITING = ("SELECT", "INSERT", "UPDATE", "DELETE")

_LACKING = """
SELECT n.nspname || '.' || c.relname AS name, l.privileges
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT array_agg(p) AS privileges FROM unnest($2::text[]) p
                      WHERE NOT (has_table_privilege(c.oid, p) AND has_schema_privilege(n.oid, 'USAGE'))) l
 WHERE c.oid = ANY($1::oid[]) AND l.privileges IS NOT NULL ORDER BY 1
"""
_USERS = """
SELECT r.rolname AS user, n.nspname AS schema, c.relname AS name, p.privilege
  FROM pg_catalog.pg_roles r CROSS JOIN pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN unnest($3::text[]) p(privilege)
 WHERE r.rolname = ANY($1::text[]) AND c.oid = ANY($2::oid[])
   AND has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_table_privilege(r.oid, c.oid, p.privilege)
"""
_ROLES = """
SELECT rolname::text AS name, has_schema_privilege(oid, 'crossfade', 'USAGE')
       AND has_table_privilege(oid, 'crossfade.ledger', 'INSERT') AS is_captured
  FROM pg_catalog.pg_roles WHERE rolname = ANY($1::text[])
"""
_SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name,
       has_sequence_privilege(c.oid, 'UPDATE') AND has_sequence_privilege(c.oid, 'SELECT') AS is_settable
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S'
"""
_WITHOUT_TRIGGERS = """
SELECT DISTINCT o.oid FROM unnest($1::oid[], $2::text[]) o(oid, name)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid = o.oid AND t.tgname = o.name AND t.tgenabled <> 'D')
"""


async def run(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    catalogs: tuple[Catalog, Catalog],
    authority: Side,
    users: Sequence[str],
    *,
    sends_row: bool = True,
) -> Trial:
    """Return what would go wrong, in clauses for people; empty tuples are good news.

    Args:
        catalogs: Of the source, which is the authority, and of the target.
        users: Who logs in through the proxy; empty where anybody may.
        sends_row: Whether a row goes there and back: it leaves traces in the logs of both.
    """
    here, there = catalogs
    way_back = [f"{authority}: {clause}" for clause in await _not_writable(source, here)]
    way_back += [f"{authority.other}: {clause}" for clause in await _not_capturing(target, there)]
    if sends_row and not way_back:
        way_back += await _row_there_and_back(source, target)
    return Trial(
        sequences=tuple(await _unsettable(source, target, here, authority)),
        users=tuple(await _locked_out(source, target, catalogs, authority, users)),
        way_back=tuple(way_back),
    )


async def _unsettable(
    source: asyncpg.Connection, target: asyncpg.Connection, here: Catalog, authority: Side
) -> list[str]:
    """Return which sequences cannot be set now, forward or on the way back."""
    if not here.sequences:
        return []
    wanted: list[QualifiedName] = [(sequence.schema, sequence.name) for sequence in here.sequences]
    found = []
    for side, connection in ((authority.other, target), (authority, source)):
        rows = await connection.fetch(_SEQUENCES)
        settable = {(row["schema"], row["name"]): row["is_settable"] for row in rows}
        for names in wanted:
            if names not in settable:
                found.append(f"{side} has no sequence {'.'.join(names)}")
            elif not settable[names]:
                found.append(f"the engine's role may not set {'.'.join(names)} on {side}")
    drawn, there = await sequences.read(source, here), await sequences.read(target, here)
    for names in wanted:
        if names in drawn and names in there and not sequences.has_room(drawn[names], there[names]):
            last = drawn[names].last_value
            found.append(f"{'.'.join(names)} stands at {last}, which {authority.other}'s bounds do not hold")
    return found


async def _locked_out(
    source: asyncpg.Connection,
    target: asyncpg.Connection,
    catalogs: tuple[Catalog, Catalog],
    authority: Side,
    users: Sequence[str],
) -> list[str]:
    """Return who may do something here that they may not do there."""
    names = list(users)
    roles = {row["name"]: row["is_captured"] for row in await target.fetch(_ROLES, names)}
    found = [f"{authority.other} has no role {name}" for name in names if name not in roles]
    found += [
        f"{name} may not write to crossfade.ledger on {authority.other}: run crossfade init"
        for name, is_captured in roles.items()
        if not is_captured
    ]
    held = []
    for connection, catalog in ((source, catalogs[0]), (target, catalogs[1])):
        oids = [table.oid for table in catalog.tables.values()]
        held.append({tuple(row) for row in await connection.fetch(_USERS, list(roles), oids, list(_WRITING))})
    found += [
        f"{user} may {privilege} {schema}.{name} on {authority} and not on {authority.other}"
        for user, schema, name, privilege in sorted(held[0] - held[1])
    ]
    return found


async def _not_writable(source: asyncpg.Connection, here: Catalog) -> list[str]:
    """Return what the engine could not write once this side is the mirror."""
    oids = [table.oid for table in here.tables.values()]
    return [
        f"the engine's role lacks {', '.join(row['privileges'])} on {row['name']}"
        for row in await source.fetch(_LACKING, oids, list(_WRITING))
    ]


async def _not_capturing(target: asyncpg.Connection, there: Catalog) -> list[str]:
    """Return why writes would not be captured on the target once it is the authority."""
    found = []
    by_oid = {table.oid: table for table in there.tables.values() if table.capture == "trigger"}
    wanted = [(oid, name) for oid, table in by_oid.items() for name in names_on(table)]
    rows = await target.fetch(_WITHOUT_TRIGGERS, [oid for oid, _ in wanted], [name for _, name in wanted])
    names = sorted(".".join(by_oid[row["oid"]].names) for row in rows)
    found += [f"{name} lacks its capture triggers: run crossfade init" for name in names]
    transaction = target.transaction()
    await transaction.start()
    try:
        await target.execute("SET LOCAL lock_timeout = '1s'")
        await target.execute("INSERT INTO crossfade.ledger (tbl, key) VALUES (0, '{trial}')")
        found.append("its ledger takes entries though it is not the authority")
    except asyncpg.PostgresError as error:
        if error.sqlstate != FENCED:
            found.append(f"an entry cannot be written: {error}")
    finally:
        await transaction.rollback()
    return found


async def _row_there_and_back(source: asyncpg.Connection, target: asyncpg.Connection) -> Iterable[str]:
    """Send a row by COPY to the target, change it there, and send it back; return what went wrong."""
    name = secrets.token_hex(8)
    try:
        await source.execute("INSERT INTO crossfade.trial (name, step) VALUES ($1, 1)", name)
        await _send(source, target, name)
        await target.execute("UPDATE crossfade.trial SET step = 2 WHERE name = $1", name)
        async with source.transaction():
            await source.execute("DELETE FROM crossfade.trial WHERE name = $1", name)
            await _send(target, source, name)
        step = await source.fetchval("SELECT step FROM crossfade.trial WHERE name = $1", name)
        for side in (source, target):
            await side.execute(
                "DELETE FROM crossfade.trial WHERE name = $1 OR at < now() - interval '1 hour'", name
            )
    except asyncpg.PostgresError as error:
        return [f"a row could not go there and back: {error}"]
    return [] if step == 2 else ["a row went there and did not come back"]


async def _send(source: asyncpg.Connection, target: asyncpg.Connection, name: str) -> None:
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    async def kept() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    query = "SELECT name, step, at FROM crossfade.trial WHERE name = $1"
    await source.copy_from_query(query, name, output=keep, format="binary")
    await target.copy_to_table("trial", schema_name="crossfade", source=kept(), format="binary")
