"""The sections about clients and the connections that serve them: who, how many, how long."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StrictInt, ValidationInfo, field_validator, model_validator

from proxy.config.values import AnyAddress, Bytes, Count, Name, Section, SomeSeconds

_VERIFIER = re.compile(
    r"SCRAM-SHA-256\$\d{1,7}:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=|md5[0-9a-f]{32}"
)
Auth = Literal["scram", "md5", "cert", "trust"]


class Tls(Section):
    """Encryption towards clients."""

    # allow: both kinds of clients; require: encrypted ones; verify-ca: with a certificate of `ca`.
    mode: Literal["allow", "require", "verify-ca"] = "allow"
    cert: str
    key: str
    ca: str | None = None

    @model_validator(mode="after")
    def _has_authority(self) -> Tls:
        if self.mode == "verify-ca" and self.ca is None:
            raise ValueError("mode: verify-ca needs ca, the certificates that sign those of clients")
        return self


class Admin(Section):
    """The HTTP side: metrics, health, JSON and the dashboard."""

    listen: AnyAddress


class Limits(Section):
    """What bounds a hostile or broken client."""

    max_clients: Count = 1000
    message_bytes_max: Bytes = 256 << 20
    login_timeout_s: SomeSeconds = Field(default=10.0, validation_alias="login_timeout")
    drain_timeout_s: SomeSeconds = Field(default=30.0, validation_alias="drain_timeout")


class User(Section):
    """Somebody who may log in to the proxy, and logs in to the servers by the same name."""

    name: Name
    password: str | None = Field(default=None, repr=False)
    password_env: str | None = None
    # As in pg_authid.rolpassword: enough to check the user, who then opens the servers itself.
    verifier: str | None = Field(default=None, repr=False)
    auth: Auth = "scram"
    # For this user alone, instead of the database's.
    pool_size: Count | None = None
    max_clients: Count | None = None

    @field_validator("verifier")
    @classmethod
    def _is_verifier(cls, verifier: str | None) -> str | None:
        if verifier is not None and not _VERIFIER.fullmatch(verifier):
            raise ValueError("must be as in pg_authid.rolpassword: SCRAM-SHA-256$..., or md5 and 32 digits")
        return verifier

    @model_validator(mode="after")
    def _has_secret(self) -> User:
        if self.auth in ("scram", "md5") and self.secret is None:
            raise ValueError(
                f'user "{self.name}" has no password: give password_env or verifier, or auth: trust or cert'
            )
        return self

    @property
    def secret(self) -> str | None:
        """How the password is known: itself, or its verifier."""
        return self.verifier if self.password is None else self.password


class Pool(Section):
    """Server connections, per server and user."""

    size: Count = 20
    min: Annotated[StrictInt, Field(ge=0)] = 0
    reserve: Annotated[StrictInt, Field(ge=0)] = 0
    reserve_timeout_s: SomeSeconds = Field(default=5.0, validation_alias="reserve_timeout")
    max_connections: Count | None = None  # to one server, of all users
    wait_s: SomeSeconds = Field(default=10.0, validation_alias="wait")
    idle_s: SomeSeconds = Field(default=600.0, validation_alias="idle")
    lifetime_s: SomeSeconds = Field(default=3600.0, validation_alias="lifetime")
    login_timeout_s: SomeSeconds = Field(default=5.0, validation_alias="login_timeout")

    @field_validator("min")
    @classmethod
    def _fits(cls, least: int, info: ValidationInfo) -> int:
        size = info.data.get("size")
        if size is not None and least > size:
            raise ValueError(f"is more than size, {size}")
        return least


class Timeouts(Section):
    """How long a client may take; None: for ever. Each ends the client, and what it runs."""

    query_s: SomeSeconds | None = Field(default=None, validation_alias="query")
    idle_transaction_s: SomeSeconds | None = Field(default=None, validation_alias="idle_transaction")
    client_idle_s: SomeSeconds | None = Field(default=None, validation_alias="client_idle")
