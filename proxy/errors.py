"""Every error Crossfade itself can report.

    ProxyError
    ├── ConfigError             F0000  FATAL  the configuration file is wrong
    ├── ClientError                    the client asked for something we refuse
    │   ├── ProtocolViolation   08P01  FATAL  the byte stream cannot be trusted
    │   ├── AuthenticationFailed 28P01 FATAL  wrong user, password or method
    │   ├── TlsRequired         28000  FATAL  an unencrypted client where TLS is demanded
    │   ├── UnknownDatabase     3D000  FATAL  no such database in the configuration
    │   ├── ReplicationRefused  0A000  FATAL  a walreceiver, pg_basebackup or the like
    │   ├── TooManyClients      53300  FATAL  max_clients reached
    │   ├── UnknownStatement    26000  ERROR  no such prepared statement
    │   ├── DuplicateStatement  42P05  ERROR  the name is taken
    │   ├── ResultChanged       0A000  ERROR  a statement returns other columns than its client was told
    │   └── NotMirrorable       0A000  ERROR  we could not tell which rows change
    ├── StatementCancelled  57014  ERROR  cancelled while it waited for a connection
    ├── TookTooLong         57014, 25P03, 57P05  FATAL  a timeout of the configuration
    ├── PoolTimeout             53300  ERROR  no server connection became free
    ├── UpstreamLost            08006  FATAL  the server went away mid-session
    ├── UpstreamRefused         08001  FATAL  a server connection cannot be opened
    ├── AuthorityMoved          40001  ERROR  the authority moved inside a transaction
    ├── SessionMoved            57P01  FATAL  a pinned session outlived its grace at a switch
    ├── ShuttingDown            57P01  FATAL  the proxy drains
    ├── DeletesRefused          54000  ERROR  a range would delete more than its budget
    ├── TablePaused             55000  ERROR  a table cannot be converged as it is
    ├── UnknownTable        42P01  ERROR  no database mirrors that table
    ├── LeaseLost               55P03  ERROR  another process owns the engine
    ├── FlagsUnavailable        58000  ERROR  a flag's value cannot be had now
    └── SwitchRefused           55000  ERROR  a gate does not hold

Errors raised by PostgreSQL are not in this tree: they are forwarded to the
client byte for byte and never become Python exceptions.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class ProxyError(Exception):
    """Base of all errors above.

    `sqlstate` is chosen for the client's driver, which decides from it whether
    to retry, reconnect or give up; the message is for the human reading a log.

    Args:
        message: One sentence, lower case, no full stop, as PostgreSQL writes them.
        hint: What the operator or the application can do about it.
    """

    sqlstate: ClassVar[str] = "XX000"
    severity: ClassVar[str] = "ERROR"
    routine: ClassVar[str] = ""  # of PostgreSQL, where drivers decide by it

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigProblem(NamedTuple):
    """One thing wrong with the configuration, where, and what would be valid."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.message}"


class ConfigError(ProxyError):
    """The configuration cannot be used; the running one stays in force."""

    sqlstate = "F0000"
    severity = "FATAL"

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class ClientError(ProxyError):
    """The client asked for something the proxy refuses to do."""


class ProtocolViolation(ClientError):
    """The peer broke the wire protocol; nothing after this byte can be trusted."""

    sqlstate = "08P01"
    severity = "FATAL"


class AuthenticationFailed(ClientError):
    """The client did not prove who it is. The message never says which part was wrong."""

    sqlstate = "28P01"
    severity = "FATAL"


class TlsRequired(ClientError):
    """The client came without encryption, or without a certificate, and may not."""

    sqlstate = "28000"
    severity = "FATAL"


class ReplicationRefused(ClientError):
    """A client wants the replication protocol, which belongs to one server."""

    sqlstate = "0A000"
    severity = "FATAL"


class UnknownDatabase(ClientError):
    """The configuration has no database of that name."""

    sqlstate = "3D000"
    severity = "FATAL"


class TooManyClients(ClientError):
    """The limit on client connections is reached."""

    sqlstate = "53300"
    severity = "FATAL"


class UnknownStatement(ClientError):
    """The session has no prepared statement of that name."""

    sqlstate = "26000"


class DuplicateStatement(ClientError):
    """The session already has a prepared statement of that name."""

    sqlstate = "42P05"


class ResultChanged(ClientError):
    """A prepared statement returns other columns now than its client was told."""

    sqlstate = "0A000"
    routine = "RevalidateCachedQuery"


class NotMirrorable(ClientError):
    """A write whose changed rows cannot be named, so it cannot be captured."""

    sqlstate = "0A000"


class StatementCancelled(ProxyError):
    """The client cancelled a statement that still waited here."""

    sqlstate = "57014"


class TookTooLong(ProxyError):
    """A statement, or a pause of the client, was longer than the configuration allows."""

    severity = "FATAL"

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate  # type: ignore[misc]  # PostgreSQL's own for each of its timeouts


class PoolTimeout(ProxyError):
    """No server connection became free in time."""

    sqlstate = "53300"


class UpstreamLost(ProxyError):
    """The server connection died while this session was using it."""

    sqlstate = "08006"
    severity = "FATAL"


class UpstreamRefused(ProxyError):
    """A server connection could not be opened: unreachable, or our login was refused."""

    sqlstate = "08001"
    severity = "FATAL"


class AuthorityMoved(ProxyError):
    """The authority moved while a transaction was under way; the client must run it again."""

    sqlstate = "40001"


class SessionMoved(ProxyError):
    """A session that cannot move was still pinned when the grace period of a switch ended."""

    sqlstate = "57P01"
    severity = "FATAL"


class ShuttingDown(ProxyError):
    """The proxy drains and takes no more work."""

    sqlstate = "57P01"
    severity = "FATAL"


class LeaseLost(ProxyError):
    """Another process owns the engine now: stop at once, commit nothing."""

    sqlstate = "55P03"


class DeletesRefused(ProxyError):
    """Converging a range would delete more rows of the target than its budget allows."""

    sqlstate = "54000"


class TablePaused(ProxyError):
    """A table cannot be converged as it is on the two sides; the others go on."""

    sqlstate = "55000"


class SwitchRefused(ProxyError):
    """A switch cannot begin, or was undone: everything is as it was before."""

    sqlstate = "55000"


class FlagsUnavailable(ProxyError):
    """A flag's value cannot be had now: keep the last one."""

    sqlstate = "58000"


class UnknownTable(ProxyError):
    """A command names a table that no database mirrors."""

    sqlstate = "42P01"
