"""Keep out writers that bypass the proxies (`fence:` in the configuration).

The ledger's own fence stops every captured write, whatever this is set to. Applications
that still connect to the old side directly write without capture; against those

    none        nothing is done
    read_only   the database's sessions start read-only from the next login on
    nologin     the configured users cannot log in there

Both are set in the transaction that resigns and taken back in the one that reigns, so
they move together with the authority.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from proxy.sql.quote import quote_name


async def close(connection: asyncpg.Connection, fence: str, users: Sequence[str]) -> None:
    """Keep bypassing writers out of a cluster, when the transaction commits."""
    await _set(connection, fence, users, is_closed=True)


async def open_again(connection: asyncpg.Connection, fence: str, users: Sequence[str]) -> None:
    """Let them in again; what was never closed is not touched."""
    await _set(connection, fence, users, is_closed=False)


async def _set(connection: asyncpg.Connection, fence: str, users: Sequence[str], *, is_closed: bool) -> None:
    if fence == "read_only":
        name = quote_name(await connection.fetchval("SELECT current_database()"))
        change = (
            "SET default_transaction_read_only = on" if is_closed else "RESET default_transaction_read_only"
        )
        await connection.execute(f"ALTER DATABASE {name} {change}")
    elif fence == "nologin":
        word = "NOLOGIN" if is_closed else "LOGIN"
        for user in users:
            await connection.execute(f"ALTER ROLE {quote_name(user)} {word}")
