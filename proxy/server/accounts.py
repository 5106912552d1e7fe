"""Who uses a database: the secrets they are checked by, what they proved, how many may come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import TooManyClients
from proxy.routing.policy import Place
from proxy.server.lookup import Lookup
from proxy.session.settings import NONE
from proxy.sql.quote import quote_text
from proxy.upstream.exchange import acquire, adopt, ask_row
from proxy.wire.auth import Proof

if TYPE_CHECKING:
    from proxy.server.database import Database


class Accounts:
    """The users of one database, in one worker."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lookup = Lookup()
        self.proofs: dict[str, Proof] = {}  # user -> what its last login opens the servers with

    @property
    def auth_user(self) -> str:
        """Who runs `auth_query`: unless another is named, we ourselves."""
        configuration = self._database.configuration
        return configuration.auth_user or configuration.cluster(self._database.authority.value).primary.user

    async def secret(self, user: str) -> str | None:
        """Return the secret of a user whom the configuration does not list; None: it is nobody.

        Raises:
            ProxyError: It cannot be asked for.
        """
        text = self._database.configuration.auth_query
        if text is None:
            return None

        async def query(sql: str) -> list[str | None]:
            pool = self._database.pool(Place(self._database.authority, 0), self.auth_user)
            server = await acquire(pool)
            try:
                await adopt(server, NONE)
                return await ask_row(server, sql)
            finally:
                pool.release(server)

        return await self.lookup.secret(user, text, query, quote_text)

    def admit(self, user: str) -> None:
        """Let one more client of a user in.

        Raises:
            TooManyClients: There are as many as there may be.
        """
        configuration, sessions = self._database.configuration, self._database.sessions
        limit, account = configuration.max_clients, configuration.user(user)
        if limit is not None and len(sessions) >= limit:
            raise TooManyClients(
                f'too many clients of database "{configuration.name}"',
                hint=f"raise databases.{configuration.name}.max_clients",
            )
        limit = account.max_clients if account is not None else None
        if limit is not None and sum(session.state.user == user for session in sessions) >= limit:
            raise TooManyClients(f'too many clients of user "{user}"', hint="raise max_clients of the user")
