"""`crossfade check`: is everything ready to cross?

Connects to every server of every database, as itself and as each user, changes nothing,
and returns every problem with what removes it. Order: servers, then the roles on the two
primaries, then the schemas (`preflight_schema`), then what `init` has to have done. A
side that cannot be reached is one problem, not one for each thing unknown because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import asyncpg

from proxy.admin import preflight_facts as facts
from proxy.admin.preflight_schema import Pair, judge, shown
from proxy.admin.problem import Problem, Severity
from proxy.catalog.bounds import nameless_rows
from proxy.catalog.model import Catalog, QualifiedName, Table
from proxy.catalog.reader import read_catalog
from proxy.config import Config, Database, Dsn, User
from proxy.errors import UpstreamRefused
from proxy.ledger.connection import DRIVER_FAILURES, connect
from proxy.server.probing import probe
from proxy.sql.quote import quote_name
from proxy.tls import contexts

Side = Literal["old", "new"]

VERSION_MIN = 130000
_ENGINE_CONNECTIONS = 8
_INIT = "crossfade init -c FILE"
_LOGIN_TIMEOUT_S = 10.0


async def check(config: Config) -> list[Problem]:
    """Return every problem of every database, errors and warnings."""
    found: list[Problem] = []
    for database in config.databases.values():
        found += await _Check(database, workers=config.workers).run()
    return found


class _Check:
    """The check of one database; `problems` grows as it goes."""

    def __init__(self, database: Database, *, workers: int) -> None:
        self._database = database
        self._workers = workers
        self._servers: dict[Side, facts.ServerFacts] = {}
        self._catalogs: dict[Side, Catalog] = {}
        self.problems: list[Problem] = []

    async def run(self) -> list[Problem]:
        async with self._connected("old") as old, self._connected("new") as new:
            sides: dict[Side, asyncpg.Connection | None] = {"old": old, "new": new}
            for side, connection in sides.items():
                if connection is not None:
                    await self._check_primary(side, connection)
                    await self._check_roles(side, connection)
            for side in sides:
                await self._check_replicas(side)
                await self._check_logins(side)
                await self._check_auth_query(side)
            if old is not None and new is not None:
                self._check_two_clusters()
                await self._check_schemas(old, new)
                await self._check_installed({"old": old, "new": new})
        return self.problems

    def _say(self, reason: str, remedy: str, *, table: str | None = None, warns: bool = False) -> None:
        severity = Severity.WARNING if warns else Severity.ERROR
        self.problems.append(Problem(self._database.name, table, reason, remedy, severity))

    @asynccontextmanager
    async def _connected(self, side: Side) -> AsyncIterator[asyncpg.Connection | None]:
        """Yield a connection to a side's primary, or None: the problem is noted."""
        connection = await self._open(self._database.cluster(side).primary, f"{side} primary", side)
        try:
            yield connection
        finally:
            if connection is not None:
                await connection.close(timeout=5)

    async def _open(self, dsn: Dsn, place: str, side: Side) -> asyncpg.Connection | None:
        try:
            return await connect(dsn, application_name="crossfade check")
        except UpstreamRefused as error:
            remedy = _login_remedy(error.__cause__, dsn, f"databases.{self._database.name}.{side}")
            self._say(f"{place}: {error}", remedy)
            return None

    async def _check_primary(self, side: Side, connection: asyncpg.Connection) -> None:
        server = self._servers[side] = await facts.read_server(connection)
        place = f"{side} primary {_place(self._database.cluster(side).primary)}"
        if server.version < VERSION_MIN:
            self._say(f"{place} is PostgreSQL {server.version // 10000}", "13 is the oldest that can cross")
        if server.is_in_recovery:
            self._say(f"{place} is a replica", f"give the URL of the primary as {side}.primary")
        if server.is_read_only:
            self._say(f"{place} is read-only by default", "RESET default_transaction_read_only")
        pool_size = self._database.pool.size * max(1, len(self._database.users)) * self._workers
        needed = pool_size + _ENGINE_CONNECTIONS
        if needed > server.connections_max:
            self._say(
                f"{place} lends {server.connections_max} connections, and up to {needed} may be asked for "
                f"(pool.size x users x workers, and {_ENGINE_CONNECTIONS} of the engine)",
                f"max_connections >= {needed + 10} there, or a smaller pool.size",
            )

    async def _check_roles(self, side: Side, connection: asyncpg.Connection) -> None:
        """Check what our own role, and every user's, may do on a primary."""
        catalog = await probe(connection, await read_catalog(connection, self._database.tables))
        self._catalogs[side] = catalog
        server, role = self._servers[side], self._database.cluster(side).primary.user
        by_trigger = [table for table in catalog.tables.values() if table.capture == "trigger"]
        by_statement = [table for table in catalog.tables.values() if table.capture == "statement"]
        may = await facts.read_role(connection, catalog, by_trigger)
        for name, lacking in may.tables.items():
            grants = "; ".join(_grants(catalog.tables[name], lacking, role))
            self._say(
                f"{role} lacks {', '.join(lacking)} on {side}", f"on {side}: {grants}", table=shown(name)
            )
        for name, table in catalog.tables.items():
            if table.has_row_security and not server.sees_all_rows:
                remedy = f"on {side}: ALTER ROLE {quote_name(role)} BYPASSRLS"
                self._say(f"row security hides rows from {role} on {side}", remedy, table=shown(name))
        if may.sequences:
            names = ", ".join(may.sequences)
            remedy = f"on {side}: GRANT ALL ON SEQUENCE {names} TO {quote_name(role)}"
            self._say(f"{role} may not read and set {len(may.sequences)} sequences on {side}", remedy)
        if not may.can_be_replica:
            self._say_no_replica(side, catalog)
        for user in self._database.users:
            self._say_user(side, user, await facts.read_user(connection, user.name, by_statement), catalog)

    def _say_no_replica(self, side: Side, catalog: Catalog) -> None:
        role = quote_name(self._database.cluster(side).primary.user)
        # Triggers of the target would run a second time for changes that are mirrored to it.
        has_triggers = any(table.has_user_triggers for table in catalog.tables.values())
        remedy = f"GRANT SET ON PARAMETER session_replication_role TO {role}"
        if self._servers[side].version < 150000:
            remedy = f"ALTER ROLE {role} SUPERUSER (before PostgreSQL 15 nothing less allows it)"
        reason = f"{role} may not set session_replication_role on {side}: " + (
            "triggers there would run again for mirrored changes"
            if has_triggers
            else "tables are mirrored in the order of their foreign keys, which is slower"
        )
        self._say(reason, f"on {side}: {remedy}", warns=not has_triggers)

    def _say_user(self, side: Side, user: User, found: facts.UserFacts, catalog: Catalog) -> None:
        name = quote_name(user.name)
        if not found.exists:
            self._say(
                f"the user {user.name} does not exist on {side}", f"on {side}: CREATE ROLE {name} LOGIN"
            )
            return
        if not found.can_write_ledger:
            reason = f"the user {user.name} may not write to crossfade.ledger on {side}"
            self._say(reason, "crossfade init grants it to PUBLIC")
        for table, columns in found.hidden_keys.items():
            listed = ", ".join(map(quote_name, columns))
            self._say(
                f"the user {user.name} writes to it on {side} and may not read its key",
                f"on {side}: GRANT SELECT ({listed}) ON {catalog.tables[table].qualified} TO {name}; "
                f"or tables.capture: {{{shown(table)}: trigger}}",
                table=shown(table),
            )

    async def _check_replicas(self, side: Side) -> None:
        for dsn in self._database.cluster(side).replicas:
            place = f"{side} replica {_place(dsn)}"
            connection = await self._open(dsn, place, side)
            if connection is None:
                continue
            try:
                server = await facts.read_server(connection)
            finally:
                await connection.close(timeout=5)
            primary = self._servers.get(side)
            if not server.is_in_recovery:
                self._say(f"{place} is not in recovery: it is a primary", f"remove it from {side}.replicas")
            if primary is not None and server.system_identifier != primary.system_identifier:
                self._say(
                    f"{place} is of another cluster than the {side} primary",
                    f"correct its URL in {side}.replicas",
                )

    async def _check_logins(self, side: Side) -> None:
        """Log in as every user, as the pools will."""
        for user in self._database.users:
            if user.password is None and user.verifier is not None:
                continue  # the user's own login will open the servers
            for dsn in self._database.cluster(side).servers():
                refused = await _refusal(dsn.as_user(user.name, user.password))
                # A server that refused us as well is known to be down already.
                if isinstance(refused, asyncpg.PostgresError | asyncpg.InterfaceError):
                    remedy = _login_remedy(
                        refused, dsn, f"databases.{self._database.name}.users[{user.name}]"
                    )
                    self._say(
                        f"the user {user.name} cannot log in to {side} {_place(dsn)}: {refused}", remedy
                    )

    async def _check_auth_query(self, side: Side) -> None:
        """Ask for the password of nobody, as the proxy will ask for everybody's."""
        query, primary = self._database.auth_query, self._database.cluster(side).primary
        if query is None:
            return
        asking = self._database.user(self._database.auth_user or "")
        dsn = primary if asking is None else primary.as_user(asking.name, asking.password)
        try:
            connection = await connect(dsn, application_name="crossfade check")
        except UpstreamRefused:
            return  # said already, of the primary or of the user
        try:
            await connection.fetchrow(query, "")
        except asyncpg.PostgresError as error:
            remedy = f"correct it, or grant {dsn.user} what it reads there"
            self._say(f"auth_query fails on {side}: {error}", remedy)
        finally:
            await connection.close(timeout=_LOGIN_TIMEOUT_S)

    def _check_two_clusters(self) -> None:
        old, new = self._servers["old"], self._servers["new"]
        if (old.system_identifier, old.database_oid) == (new.system_identifier, new.database_oid):
            self._say("old.primary and new.primary are the same database", "correct one of the two URLs")
        if new.version // 10000 < old.version // 10000:
            reason = f"new is PostgreSQL {new.version // 10000}, older than old ({old.version // 10000})"
            self._say(reason, "make sure that this direction is meant", warns=True)
        if old.encoding != new.encoding and new.encoding != "UTF8":
            reason = f"old is encoded in {old.encoding} and new in {new.encoding}"
            self._say(reason, "create the database on new with ENCODING UTF8")

    async def _check_schemas(self, old: asyncpg.Connection, new: asyncpg.Connection) -> None:
        pair = Pair(
            config=self._database,
            old=self._catalogs["old"],
            new=self._catalogs["new"],
            triggers=await facts.read_triggers(old),
            functions=await facts.read_functions(old),
            large_objects_count=await facts.count_large_objects(old),
            demanding=await facts.read_demanding(new, self._catalogs["new"]),
        )
        self.problems += judge(pair)
        for table in self._catalogs["old"].tables.values():
            query = nameless_rows(table)
            if query and await old.fetchval(query):
                columns = ", ".join(table.nullable_key)
                remedy = "give them a value, or name other columns under tables.key"
                self._say(f"it has rows whose key ({columns}) is NULL", remedy, table=shown(table.names))
        for table, rank in self._ranked():
            error = await facts.sql_error(old, f"SELECT FROM {table.qualified} ORDER BY {rank}")
            if error is not None:
                self._say(
                    f"its order_by is no SQL over a row: {error}", "correct it", table=shown(table.names)
                )

    def _ranked(self) -> Iterator[tuple[Table, str]]:
        for name, table in self._catalogs["old"].tables.items():
            rank = self._database.tables.order_by_of(*name)
            if rank is not None:
                yield table, rank

    async def _check_installed(self, sides: dict[Side, asyncpg.Connection]) -> None:
        listed = {side: await facts.read_listed(connection) for side, connection in sides.items()}
        # Before the first `init` that is no fault, only the next step; `serve` refuses to start
        # without. On one side only, it is: somebody dropped it, or restored an old backup.
        is_before_init = all(tables is None for tables in listed.values())
        for side, tables in listed.items():
            if tables is not None:
                self._check_listed(side, tables)
                continue
            self._say(f"the schema crossfade is missing on {side}", _INIT, warns=is_before_init)
            if not self._servers[side].can_create_schema:
                primary = self._database.cluster(side).primary
                grant = (
                    f"GRANT CREATE ON DATABASE {quote_name(primary.database)} TO {quote_name(primary.user)}"
                )
                self._say(f"{primary.user} may not create the schema crossfade on {side}", grant)

    def _check_listed(self, side: Side, listed: Mapping[QualifiedName, str]) -> None:
        for name in self._catalogs["old"].tables:
            form, wanted = listed.get(name), self._database.tables.capture_of(*name).on_cluster
            if form is None:
                reason = f"init does not know it on {side}: changes of it are not captured"
                self._say(reason, _INIT, table=shown(name))
            elif form != wanted:
                self._say(f"init set it up for capture: {form}, now it is {wanted}", _INIT, table=shown(name))


async def _refusal(dsn: Dsn) -> Exception | None:
    """Return why a login fails; None: it does not."""
    try:
        connection = await asyncpg.connect(dsn.url(), ssl=contexts.for_driver(dsn), timeout=_LOGIN_TIMEOUT_S)
    except DRIVER_FAILURES as error:
        return error
    await connection.close(timeout=_LOGIN_TIMEOUT_S)
    return None


def _login_remedy(cause: BaseException | None, dsn: Dsn, key: str) -> str:
    if isinstance(cause, asyncpg.InvalidCatalogNameError):
        return f'create the database "{dsn.database}" there, or correct the URL'
    if isinstance(cause, OSError | TimeoutError | asyncio.TimeoutError):
        return f"start the server, or correct the host and port in {key}"
    if dsn.password is None and isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
        return f"set {key}.password_env, or allow the role {dsn.user} in pg_hba.conf"
    return f"correct the password of the role {dsn.user} ({key}.password_env), or pg_hba.conf"


def _grants(table: Table, lacking: tuple[str, ...], role: str) -> Iterator[str]:
    """Yield the statements that give a role the privileges `read_role` missed."""
    if facts.SCHEMA_USAGE in lacking:
        yield f"GRANT USAGE ON SCHEMA {quote_name(table.schema)} TO {quote_name(role)}"
    privileges = [privilege for privilege in lacking if privilege != facts.SCHEMA_USAGE]
    if privileges:
        yield f"GRANT {', '.join(privileges)} ON {table.qualified} TO {quote_name(role)}"


def _place(dsn: Dsn) -> str:
    return f"{dsn.host}:{dsn.port}"
