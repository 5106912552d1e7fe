"""Which proxies stand before a database, and what is asked of all of them: holds and cancels.

    proxy   one row per proxy, renewed while it lives: the hold it keeps, how many write
            transactions are still open there, which file it has, and where that wants writes
            (wish). One that does not answer any more is shown for a while, unless another has
            begun on its host: then it was restarted
    hold    one row: the hold that is asked for now, until when at the latest; or, when it is
            over, who reigns since

    cancel  a row per cancel request that came to a proxy which does not know its key. Who reads
            the key can cancel, so it is in a table, which is ours alone, and in no notification

Rows say what is; a notification on `CHANNEL` only says that it is worth reading them. Both
tables tell of liveness alone, so losing the last changes in a crash is no loss, and nobody
waits for a disk or a standby here.
"""

from __future__ import annotations

import socket
from datetime import datetime
from typing import NamedTuple

import asyncpg

CHANNEL = "crossfade_proxies"
ALIVE_S = 3.0

_RENEW = f"""
INSERT INTO crossfade.proxy (name, wish, digest, host, until)
VALUES ($1, $2, $3, $4, clock_timestamp() + interval '{ALIVE_S} s')
ON CONFLICT (name) DO UPDATE SET until = excluded.until, wish = excluded.wish, digest = excluded.digest
"""
_FORGET = """
DELETE FROM crossfade.proxy
 WHERE until < clock_timestamp() - CASE WHEN host = $1 THEN interval '0' ELSE interval '10 min' END
"""
_READ = """
SELECT name, owner, coalesce(extract(epoch FROM until - clock_timestamp()), 0)::float8 AS left_s,
       authority, epoch FROM crossfade.hold
"""
_ASK = f"""
WITH asked AS (
    UPDATE crossfade.hold SET name = $1, owner = $2, until = clock_timestamp() + $3::float8 * interval '1 s',
           authority = NULL, epoch = NULL
     WHERE (SELECT is_authority FROM crossfade.state) RETURNING 1)
SELECT pg_notify('{CHANNEL}', '') FROM asked
"""
_END = f"""
WITH ended AS (
    UPDATE crossfade.hold SET name = NULL, until = NULL, authority = $2, epoch = $3
     WHERE owner = $1 AND name IS NOT NULL RETURNING 1)
SELECT pg_notify('{CHANNEL}', '') FROM ended
"""
_ANSWER = f"""
WITH answered AS (UPDATE crossfade.proxy SET hold = $2, open_count = $3 WHERE name = $1 RETURNING 1)
SELECT pg_notify('{CHANNEL}', '') FROM answered
"""
_ANSWERS = """
SELECT coalesce(sum(p.open_count) FILTER (WHERE p.hold = $1), 0)::int AS open_count,
       coalesce(array_agg(p.name) FILTER (WHERE p.hold IS DISTINCT FROM $1), '{}') AS silent
  FROM crossfade.proxy p
 WHERE p.name <> $2 AND p.until > clock_timestamp() AND EXISTS (
       SELECT FROM pg_stat_activity a WHERE a.application_name = left('crossfade ' || p.name, 63))
"""

_LIVING = """
SELECT p.name, p.wish FROM crossfade.proxy p WHERE p.until > clock_timestamp() AND EXISTS (
       SELECT FROM pg_stat_activity a WHERE a.application_name = left('crossfade ' || p.name, 63)) ORDER BY 1
"""
_KNOWN = f"""
SELECT p.name, p.host, p.since, p.digest, extract(epoch FROM clock_timestamp() - p.until)::float8 + {ALIVE_S}
       AS heard_s, CASE WHEN p.until < clock_timestamp() OR NOT EXISTS (
           SELECT FROM pg_stat_activity a WHERE a.application_name = left('crossfade ' || p.name, 63))
       THEN 'silent' WHEN h.name IS NOT NULL AND (h.owner = p.name OR h.name = p.hold) THEN 'holding'
       ELSE 'serving' END AS state
  FROM crossfade.proxy p CROSS JOIN crossfade.hold h ORDER BY p.since
"""

_ASK_FOR_CANCEL = f"""
WITH old AS (DELETE FROM crossfade.cancel WHERE at < clock_timestamp() - interval '1 min'),
     asked AS (INSERT INTO crossfade.cancel (name, key) VALUES ($1, $2) RETURNING 1)
SELECT pg_notify('{CHANNEL}', '') FROM asked
"""
# A cancel that comes late could hit another statement: then nobody wants it any more.
_CANCELS = "SELECT name, key FROM crossfade.cancel WHERE at > clock_timestamp() - interval '2 s'"


class Hold(NamedTuple):
    """What the row says: a hold (its name), or none, and then who reigns since the last."""

    name: str | None
    owner: str | None
    left_s: float
    authority: str | None
    epoch: int | None


class Answers(NamedTuple):
    """What the other proxies that live have answered to a hold."""

    open_count: int
    silent: list[str]


class File(NamedTuple):
    """The file of a proxy: where it wants writes, and a mark of its text."""

    wish: str | None = None
    digest: str = ""


class Known(NamedTuple):
    """A proxy that stands before the database, or has until lately."""

    name: str
    host: str | None
    since: datetime
    digest: str | None
    heard_s: float  # ago
    state: str  # serving, holding, silent


async def register(connection: asyncpg.Connection, name: str, file: File) -> None:
    """Enter a proxy, and forget those that are long gone."""
    await connection.execute("SET synchronous_commit = off")
    await connection.execute(_FORGET, socket.gethostname())
    await renew(connection, name, file)


async def renew(connection: asyncpg.Connection, name: str, file: File) -> None:
    """Say that a proxy lives, and which file it has."""
    await connection.execute(_RENEW, name, file.wish, file.digest, socket.gethostname())


async def known(connection: asyncpg.Connection) -> list[Known]:
    """Return the proxies, those that have stopped answering too."""
    return [Known(**row) for row in await connection.fetch(_KNOWN)]


async def dissenting(connection: asyncpg.Connection, name: str | None, wish: str) -> list[str]:
    """Return the other proxies that live and whose files want writes elsewhere."""
    rows = await connection.fetch(_LIVING)
    return [row["name"] for row in rows if row["name"] != name and row["wish"] not in (None, wish)]


async def living(connection: asyncpg.Connection) -> list[str]:
    """Return the names of the proxies that live."""
    return [row["name"] for row in await connection.fetch(_LIVING)]


async def read_hold(connection: asyncpg.Connection) -> Hold:
    """Return what is asked of the proxies now."""
    row = await connection.fetchrow(_READ)
    assert row is not None, "init writes the row in the transaction that creates the table"
    return Hold(**row)


async def ask_for_hold(connection: asyncpg.Connection, name: str, owner: str, *, limit_s: float) -> bool:
    """Ask all proxies for a hold; return False where this cluster is not the authority."""
    return bool(await connection.fetch(_ASK, name, owner, limit_s))


async def end_hold(
    connection: asyncpg.Connection, owner: str, authority: str | None, epoch: int | None
) -> None:
    """End the hold that this owner has asked for, and say who reigns if that has changed."""
    await connection.execute(_END, owner, authority, epoch)


async def answer(connection: asyncpg.Connection, name: str, hold: str, open_count: int) -> None:
    """Say that a proxy holds, and how many write transactions are open there."""
    await connection.execute(_ANSWER, name, hold, open_count)


async def read_answers(connection: asyncpg.Connection, hold: str, owner: str) -> Answers:
    """Return what every proxy but the owner's has answered."""
    row = await connection.fetchrow(_ANSWERS, hold, owner)
    assert row is not None, "an aggregate has one row"
    return Answers(**row)


async def ask_for_cancel(connection: asyncpg.Connection, name: str, key: bytes) -> None:
    """Ask the proxy that has issued a cancel key to cancel what its session runs."""
    await connection.execute(_ASK_FOR_CANCEL, name, key)


async def read_cancels(connection: asyncpg.Connection) -> list[tuple[str, bytes]]:
    """Return the names and keys of the cancels that are asked for now."""
    return [(row["name"], row["key"]) for row in await connection.fetch(_CANCELS)]
