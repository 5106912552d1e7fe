"""One client of the soak: it does random things and knows at every moment what it must see.

Every row, setting, error and notice of a client bears its number, so that whatever belongs to another
one shows. What a client cannot know (did a COMMIT arrive before the connection was cut?) it reads
again, and believes if it is one of the two possible outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncpg

SCHEMA = """
CREATE TABLE belonging (owner int, serial int, body text NOT NULL, PRIMARY KEY (owner, serial));
CREATE TABLE logged (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int NOT NULL);
"""
_SETTINGS = ("app.owner", "application_name", "work_mem", "search_path", "geqo")
_CUT = (OSError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, TimeoutError)
_PATIENCE_S = 120.0

Rows = dict[int, str]


class Mixed(AssertionError):
    """A client saw something that is not its own."""


class Client:
    """A client and what it believes.

    Args:
        number: It is in everything that is the client's.
        seed: The same seed makes the same choices; what is cut where depends on the machine, too.
    """

    def __init__(self, url: str, number: int, seed: int) -> None:
        self.number = number
        self.done: Counter[str] = Counter()
        self._url = url
        self._choice = random.Random(seed * 1000 + number)
        self._serial = 0
        self._rows: Rows = {}
        self._settings: dict[str, str] = {}
        self._connection: asyncpg.Connection | None = None

    async def run(self, until: Callable[[], bool]) -> None:
        """Work until told to stop, then look once more at everything."""
        steps = [step for step, weight in self._steps() for _ in range(weight)]
        while not until():
            step = self._choice.choice(steps)
            connection = await self._connected()
            async with asyncio.timeout(_PATIENCE_S):
                await step(connection)
            self.done[step.__name__] += 1
        connection = await self._connected()
        await self.look(connection)
        await connection.close()

    def _steps(self) -> list[tuple[Callable[[asyncpg.Connection], Awaitable[None]], int]]:
        return [
            (self.echo, 8), (self.echo_text, 8), (self.write, 8), (self.transact, 5), (self.look, 3),
            (self.change_setting, 4), (self.look_at_settings, 4), (self.fail, 4), (self.prepare, 2),
            (self.cancel, 2), (self.cut, 2), (self.scroll, 2), (self.copy, 2), (self.pin, 1), (self.leave, 1),
        ]  # fmt: skip

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            name = f"client {self.number}"
            self._connection = await asyncpg.connect(
                self._url,
                timeout=60,
                server_settings={"application_name": name, "app.owner": str(self.number)},
            )
            self._settings = {"app.owner": str(self.number), "application_name": name}
            await self._believe(await self._read(self._connection))
        return self._connection

    def _is(self, seen: object, expected: object) -> None:
        if seen != expected:
            raise Mixed(f"client {self.number} saw {seen!r} where it must see {expected!r}")

    def _token(self) -> str:
        self._serial += 1
        return f"{self.number}:{self._serial}"

    # What is read.

    async def echo(self, connection: asyncpg.Connection) -> None:
        """A prepared statement, with few rows or with more than any buffer holds."""
        token, count = self._token(), self._choice.choice((0, 1, 10, 3000))
        sql = "SELECT $1::text || ' ' || n AS row FROM generate_series(1, $2::int) n"
        found = [row["row"] for row in await connection.fetch(sql, token, count)]
        self._is(found, [f"{token} {n}" for n in range(1, count + 1)])

    async def echo_text(self, connection: asyncpg.Connection) -> None:
        """A text of its own, alone or among several statements."""
        token = self._token()
        if self._choice.random() < 0.7:
            self._is(await connection.fetchval(f"SELECT '{token}'"), token)
        else:
            self._is(
                await connection.execute(f"SELECT 1; SELECT '{token}' FROM generate_series(1, 7)"), "SELECT 7"
            )

    async def look(self, connection: asyncpg.Connection) -> None:
        """All rows of its own."""
        self._is(await self._read(connection), self._rows)

    async def _read(self, connection: asyncpg.Connection) -> Rows:
        sql = "SELECT owner, serial, body FROM public.belonging WHERE owner = $1"
        rows = await connection.fetch(sql, self.number)
        self._is({row["owner"] for row in rows} - {self.number}, set())
        return {row["serial"]: row["body"] for row in rows}

    async def _believe(self, seen: Rows, other: Rows | None = None) -> None:
        """Take what is seen for true, if it is one of what it can be."""
        if self.done and seen not in (self._rows, other if other is not None else self._rows):
            raise Mixed(f"client {self.number} has {seen}, not {self._rows} nor {other}")
        self._rows = seen

    # What is written.

    async def write(self, connection: asyncpg.Connection) -> None:
        """One statement of its own transaction."""
        sql, arguments, self._rows = self._change(self._rows)
        tag = await connection.execute(sql, *arguments)
        self._is(tag.split()[-1], "1")

    def _change(self, rows: Rows) -> tuple[str, tuple[object, ...], Rows]:
        """Return a statement that changes one row, and the rows it leaves."""
        token = self._token()
        kind = self._choice.random()
        if not rows or (kind < 0.5 and len(rows) < 50):
            sql = "INSERT INTO public.belonging (owner, serial, body) VALUES ($1, $2, $3)"
            return sql, (self.number, self._serial, token), {**rows, self._serial: token}
        serial = self._choice.choice(sorted(rows))
        if kind < 0.8:
            sql = "UPDATE public.belonging SET body = $3 WHERE owner = $1 AND serial = $2"
            return sql, (self.number, serial, token), {**rows, serial: token}
        sql = "DELETE FROM public.belonging WHERE owner = $1 AND serial = $2"
        return sql, (self.number, serial), {key: body for key, body in rows.items() if key != serial}

    async def transact(self, connection: asyncpg.Connection) -> None:
        """Several changes, some of them undone by a savepoint, all of them perhaps by ROLLBACK."""
        rows = self._rows
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(self._choice.randint(1, 4)):
            sql, arguments, changed = self._change(rows)
            if self._choice.random() < 0.3:
                with contextlib.suppress(asyncpg.DivisionByZeroError):
                    async with connection.transaction():
                        await connection.execute(sql, *arguments)
                        await connection.execute("SELECT 1/0")
            else:
                await connection.execute(sql, *arguments)
                rows = changed
            self._is(await self._read(connection), rows)
        if self._choice.random() < 0.7:
            await transaction.commit()
            self._rows = rows
        else:
            await transaction.rollback()

    async def copy(self, connection: asyncpg.Connection) -> None:
        """Rows in and out as streams."""
        first, self._serial = self._serial + 1, self._serial + 20
        rows = {serial: f"{self.number}:{serial}" for serial in range(first, first + 20)}
        records = [(self.number, serial, body) for serial, body in rows.items()]
        columns = ["owner", "serial", "body"]
        await connection.copy_records_to_table(
            "belonging", schema_name="public", records=records, columns=columns
        )
        self._rows = {**self._rows, **rows}
        out: list[bytes] = []

        async def keep(piece: bytes) -> None:
            out.append(piece)

        await connection.copy_from_query(
            "SELECT owner FROM public.belonging WHERE owner = $1", self.number, output=keep
        )
        self._is(b"".join(out).split(), [str(self.number).encode()] * len(self._rows))
        await connection.execute("DELETE FROM public.belonging WHERE owner = $1", self.number)
        self._rows = {}

    # What a session is.

    async def change_setting(self, connection: asyncpg.Connection) -> None:
        """SET, RESET and set_config, also in a transaction that may be rolled back."""
        name = self._choice.choice(_SETTINGS)
        value = {
            "work_mem": f"{64 + self.number}kB", "search_path": f"own_{self.number}, public", "geqo": "off",
        }.get(name, self._token())  # fmt: skip
        quoted = value if name == "search_path" else f"'{value}'"
        kept = self._choice.random()
        if kept < 0.4:
            await connection.execute(f"SET {name} TO {quoted}")
        elif kept < 0.6:
            await connection.execute("SELECT set_config($1, $2, false)", name, value)
        else:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET {'LOCAL ' if kept < 0.8 else ''}{name} TO {quoted}")
            self._is(await connection.fetchval("SELECT current_setting($1)", name), value)
            if kept < 0.9:
                await transaction.rollback()
                return
            await transaction.commit()
        self._settings[name] = value

    async def look_at_settings(self, connection: asyncpg.Connection) -> None:
        """Its own, and the defaults where it has none."""
        names = sorted(self._settings)
        values = await connection.fetchrow(f"SELECT {', '.join(f'current_setting({n!r})' for n in names)}")
        assert values is not None
        self._is(dict(zip(names, values, strict=True)), self._settings)
        if "work_mem" not in self._settings:
            self._is(await connection.fetchval("SHOW work_mem"), "4MB")

    async def prepare(self, connection: asyncpg.Connection) -> None:
        """A name that every client gives to another statement."""
        token = self._token()
        await connection.execute(f"PREPARE mine AS SELECT '{token}' || $1::text")
        self._is(await connection.fetchval("EXECUTE mine('!')"), f"{token}!")
        await connection.execute("DEALLOCATE mine")

    async def pin(self, connection: asyncpg.Connection) -> None:
        """A temporary table, which every client calls the same."""
        await connection.execute(
            "CREATE TEMP TABLE mine AS SELECT $1::int AS owner".replace("$1", str(self.number))
        )
        self._is(await connection.fetchval("SELECT owner FROM mine"), self.number)
        await connection.execute("DISCARD TEMP")

    async def scroll(self, connection: asyncpg.Connection) -> None:
        """A portal that is read in portions."""
        token = self._token()
        async with connection.transaction():
            cursor = await connection.cursor("SELECT $1::text || n FROM generate_series(1, 100) n", token)
            for start in (1, 31, 61):
                found = [row[0] for row in await cursor.fetch(30)]
                self._is(found, [f"{token}{n}" for n in range(start, start + 30)])

    # What goes wrong.

    async def fail(self, connection: asyncpg.Connection) -> None:
        """An error of its own."""
        token = self._token()
        try:
            if self._choice.random() < 0.5:
                await connection.execute(f"DO $$BEGIN RAISE EXCEPTION 'of {token}'; END$$")
            else:
                await connection.fetchval("SELECT ($1::text)::int", f"of {token}")
        except asyncpg.PostgresError as error:
            if f"of {token}" not in str(error):
                raise Mixed(f"client {self.number} got the error {error!r}, not that of {token}") from None
        else:
            raise Mixed(f"client {self.number} got no error")

    async def cancel(self, connection: asyncpg.Connection) -> None:
        """What it runs is cancelled at some point, and what it runs next is not."""
        with contextlib.suppress(TimeoutError):
            await connection.fetchval("SELECT pg_sleep(5)", timeout=self._choice.random() * 0.05)
        await self.echo_text(connection)

    async def cut(self, connection: asyncpg.Connection) -> None:
        """The connection ends while something runs: a change is there afterwards, or it is not."""
        sql, arguments, changed = self._change(self._rows)
        running = asyncio.create_task(connection.execute(sql, *arguments))
        await asyncio.sleep(self._choice.random() * 0.01)
        connection.terminate()
        with contextlib.suppress(*_CUT, asyncpg.PostgresError):
            await running
        self._connection = await asyncpg.connect(
            self._url, timeout=60, server_settings={"application_name": "", "app.owner": str(self.number)}
        )
        self._settings = {"app.owner": str(self.number), "application_name": ""}
        await self._settle(self._connection, changed)

    async def _settle(self, connection: asyncpg.Connection, changed: Rows) -> None:
        """Wait until a statement that was cut off has ended one way or the other."""
        async with connection.transaction():
            # Whoever still holds one of these rows is waited for.
            await connection.fetch("SELECT FROM public.belonging WHERE owner = $1 FOR UPDATE", self.number)
        await asyncio.sleep(0.2)
        await self._believe(await self._read(connection), changed)

    async def leave(self, connection: asyncpg.Connection) -> None:
        """A farewell as it should be."""
        await connection.close()
