"""Where servers are: connection URLs, and the addresses we listen on.

A URL names exactly one host, and its user and database are never guessed from the
operating system: a migration that reads the wrong database because of $USER is
worse than one that refuses to start. `str` and `repr` hide the password, because
they end up in logs; `url` is for the driver only.

A host that begins with a slash is the folder of a Unix socket. It is written as libpq
writes it: `postgresql://user@/database?host=/run/postgresql&port=5433`. The other options
are libpq's too, those of `_OPTIONS`; what is written and not understood is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_SCHEMES = ("postgresql", "postgres")
_TLS_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
_PREFERRED = "prefer"  # libpq's default
_VERIFYING = ("verify-ca", "verify-full")
# What each option of a URL may be; None: any text.
_OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    "sslmode": _TLS_MODES,
    "sslrootcert": None,
    "sslcert": None,
    "sslkey": None,
    "sslnegotiation": ("postgres", "direct"),
    "channel_binding": ("disable", "prefer", "require"),
    "max_protocol_version": ("3.0", "3.2", "latest"),
}
# The driver of the engine's connections knows the others, and takes these for settings.
_NOT_FOR_DRIVER = ("channel_binding", "max_protocol_version")
_EXAMPLE = "postgresql://user@host:5432/database"


class Address(NamedTuple):
    """A host and port to listen on; port 0 lets the kernel choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address written as `host:port`; `*` is every interface.

        Raises:
            ValueError: It is not one.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f'"{text}" is not an address: write host:port, such as 127.0.0.1:6432')
        return cls("0.0.0.0" if host == "*" else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """One database of one server, and whom to log in as."""

    host: str
    port: int
    user: str
    database: str
    password: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the parts of a connection URL.

        Raises:
            ValueError: A part is missing or wrong. The message never repeats the URL,
                which may hold a password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError(f"host or port is wrong: write {_EXAMPLE}") from None
        database = unquote(parts.path.removeprefix("/"))
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        host, port = _place(parts.hostname or "", port, options)
        missing = [
            name
            for name, value in (("host", host), ("user", parts.username), ("database", database))
            if not value
        ]
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"not a connection URL: write {_EXAMPLE}")
        if missing:
            raise ValueError(f"names no {' and no '.join(missing)}: write {_EXAMPLE}")
        if "/" in database or "," in parts.netloc.rpartition("@")[2]:
            raise ValueError(f"must name one host and one database: write {_EXAMPLE}")
        _check(options)
        return cls(
            host=host,
            port=port,
            user=unquote(parts.username or ""),
            database=database,
            password=unquote(parts.password) if parts.password else None,
            options=options,
        )

    @property
    def is_local(self) -> bool:
        """Whether the server is reached by a Unix socket."""
        return self.host.startswith("/")

    @property
    def socket_path(self) -> str:
        """The Unix socket of a local server."""
        return f"{self.host}/.s.PGSQL.{self.port}"

    @property
    def tls_mode(self) -> str:
        """How connections are encrypted: libpq's sslmode. Unix sockets never are."""
        return "disable" if self.is_local else self.options.get("sslmode", _PREFERRED)

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is asked for; with `prefer` the server may decline."""
        return self.tls_mode != "disable"

    @property
    def is_direct(self) -> bool:
        """Whether TLS begins with the first byte, as PostgreSQL 17 and newer understand."""
        return self.options.get("sslnegotiation") == "direct"

    @property
    def is_newest_protocol(self) -> bool:
        """Whether PostgreSQL 18's protocol, 3.2, is asked for; libpq's default is 3.0."""
        return self.options.get("max_protocol_version", "3.0") != "3.0"

    def url(self) -> str:
        """Return the whole URL for the driver, password included."""
        secret = "" if self.password is None else ":" + quote(self.password, safe="")
        kept = {name: value for name, value in self.options.items() if name not in _NOT_FOR_DRIVER}
        return replace(self, options=kept)._url(secret)

    def as_user(self, user: str, password: str | None) -> Self:
        """Return the same database, logged in to as somebody else."""
        return replace(self, user=user, password=password)

    def place(self) -> tuple[str, int, str]:
        """Return what makes two URLs mean the same database: host, port and database."""
        return (self.host, self.port, self.database)

    def __str__(self) -> str:
        return self._url("" if self.password is None else ":***")

    def __repr__(self) -> str:
        return f"Dsn({self})"

    def _url(self, secret: str) -> str:
        options = dict(self.options)
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.is_local:
            options, place = {"host": self.host, "port": str(self.port), **options}, ""
        query = "?" + urlencode(options, safe="/") if options else ""
        login = quote(self.user, safe="") + secret
        return f"postgresql://{login}@{place}/{quote(self.database, safe='')}{query}"


def _place(host: str, port: int | None, options: dict[str, str]) -> tuple[str, int]:
    """Return host and port, taking from the options what libpq lets stand there."""
    if not host and options.get("host", "").startswith("/"):
        host = options.pop("host").rstrip("/")
        text = options.pop("port", "5432") if port is None else str(port)
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
            raise ValueError(f"host or port is wrong: write {_EXAMPLE}")
        port = int(text)
    return host, port or 5432


def _check(options: Mapping[str, str]) -> None:
    """Refuse options that nothing understands, and TLS that would not prove what it seems to."""
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ValueError(f"unknown option {name}; valid in a URL: host, port, {', '.join(_OPTIONS)}")
        allowed = _OPTIONS[name]
        if allowed is not None and value not in allowed:
            raise ValueError(f'{name} must be one of {", ".join(allowed)}, not "{value}"')
    mode = options.get("sslmode", _PREFERRED)
    if mode in _VERIFYING and "sslrootcert" not in options:
        raise ValueError(f"sslmode={mode} needs sslrootcert=FILE, or sslrootcert=system")
    if options.get("sslrootcert") == "system" and mode != "verify-full":
        raise ValueError("sslrootcert=system proves nothing without sslmode=verify-full")
    if options.get("sslnegotiation") == "direct" and mode not in ("require", *_VERIFYING):
        raise ValueError("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    if ("sslcert" in options) != ("sslkey" in options):
        raise ValueError("sslcert and sslkey belong together")
