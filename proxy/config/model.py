"""What the configuration file may say: every key, its default and its limits.

Rule 1: keys are plain words, attributes carry the unit (`wait: 10s` is `wait_s`).
Rule 2: from a file, durations, percentages and sizes must carry their unit; code
(tests, the demo) may pass numbers.
Rule 3: whatever is judged wrong here is an error of the key it stands at, so that
`load` can point at its line.

A table is written as `users`, which means `public.users`, or with its schema.
Patterns are shell patterns over `schema.table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StrictBool, StrictInt, ValidationInfo, field_validator, model_validator

from proxy.config.dsn import Dsn
from proxy.config.serving import Admin, Auth, Limits, Pool, Timeouts, Tls, User
from proxy.config.values import (
    NOT_IN_FILE,
    AnyAddress,
    AnyDsn,
    CaptureForm,
    Count,
    Name,
    Ratio,
    Seconds,
    Section,
    SomeSeconds,
)

_T = TypeVar("_T")


class Cluster(Section):
    """One of the two clusters: its primary and any streaming replicas of it."""

    primary: AnyDsn
    replicas: tuple[AnyDsn, ...] = ()
    password: str | None = Field(default=None, repr=False)
    password_env: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _share_password(cls, value: Any) -> Any:
        """Give the section's password to every URL in it that carries none."""
        if not isinstance(value, dict) or not isinstance(value.get("password"), str):
            return value

        def with_password(url: object) -> object:
            try:
                dsn = Dsn.parse(url) if isinstance(url, str) else url
            except ValueError:
                return url  # the field's own validator reports it, with its own line
            if isinstance(dsn, Dsn) and dsn.password is None:
                return dsn.as_user(dsn.user, value["password"])
            return dsn

        shared = dict(value)
        if "primary" in value:
            shared["primary"] = with_password(value["primary"])
        if isinstance(value.get("replicas"), list | tuple):
            shared["replicas"] = [with_password(url) for url in value["replicas"]]
        return shared

    def servers(self) -> tuple[Dsn, ...]:
        """Return the primary, then the replicas."""
        return (self.primary, *self.replicas)

    def led_by(self, primary: Dsn) -> Cluster:
        """Return the same servers with another of them, or one that was among them, as primary."""
        others = tuple(dsn for dsn in self.servers() if dsn.place() != primary.place())
        return self.model_copy(update={"primary": primary, "replicas": others})


class Tables(Section):
    """Which tables are mirrored, and how each is captured, ordered and keyed."""

    include: tuple[str, ...] = ("public.*",)
    exclude: tuple[str, ...] = ()
    capture: CaptureForm | dict[str, CaptureForm] = CaptureForm.STATEMENT
    order_by: dict[str, str] = Field(default_factory=dict)
    key: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("capture", mode="before")
    @classmethod
    def _name_the_forms(cls, value: Any) -> Any:
        forms = value.values() if isinstance(value, dict) else [value]
        for form in forms:
            if form not in list(CaptureForm):
                raise ValueError(
                    f'"{form}" is no form of capture: statement, trigger or split, or a mapping of tables'
                )
        return value

    @field_validator("key", mode="before")
    @classmethod
    def _one_column_or_more(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {table: (key,) if isinstance(key, str) else key for table, key in value.items()}
        return value

    def is_mirrored(self, schema: str, name: str) -> bool:
        """Return whether the table belongs to what is moved."""
        if schema in ("crossfade", "information_schema") or schema.startswith("pg_"):
            return False
        return any(matches(pattern, schema, name) for pattern in self.include) and not any(
            matches(pattern, schema, name) for pattern in self.exclude
        )

    def capture_of(self, schema: str, name: str) -> CaptureForm:
        """Return the form of the first pattern that matches; `statement` where none does."""
        if isinstance(self.capture, CaptureForm):
            return self.capture
        found = (form for pattern, form in self.capture.items() if matches(pattern, schema, name))
        return CaptureForm(next(found, CaptureForm.STATEMENT))

    def order_by_of(self, schema: str, name: str) -> str | None:
        """Return the SQL that ranks rows for backfill, or None: by key."""
        return _of_table(self.order_by, schema, name)

    def key_of(self, schema: str, name: str) -> tuple[str, ...] | None:
        """Return the key columns the operator vouches for, or None: the table's own."""
        return _of_table(self.key, schema, name)


DdlPolicy = Literal["mirror", "refuse", "warn"]
DdlKind = Literal[
    "table", "index", "view", "function", "type", "sequence", "schema", "trigger", "grant", "other", "global"
]


class Mirror(Section):
    """How the other cluster is kept converged."""

    enabled: StrictBool = True
    ack: Literal["async", "sync"] = "async"
    ack_timeout_s: SomeSeconds = Field(default=1.0, validation_alias="ack_timeout")
    # Of the writing transactions, how many have PostgreSQL count what they change.
    audit_ratio: Ratio = Field(default=0.01, validation_alias="audit")
    # What becomes of DDL through the proxy: of all kinds, or by kind; one that is not named is mirrored.
    ddl: DdlPolicy | dict[DdlKind, DdlPolicy] = "mirror"
    # Rows that one chunk may delete on the target before the engine stops and asks.
    deletes_max: Annotated[StrictInt, Field(ge=0)] = 1000

    def ddl_of(self, kind: str) -> str:
        """Return what becomes of DDL of a kind; what belongs to the whole cluster is never mirrored."""
        by_kind: Mapping[str, str] = {} if isinstance(self.ddl, str) else dict(self.ddl.items())
        found = self.ddl if isinstance(self.ddl, str) else by_kind.get(kind, "mirror")
        return "warn" if kind == "global" and found == "mirror" else found


class Backfill(Section):
    """How the history is copied, and what makes it slow down."""

    enabled: StrictBool = True
    chunk_rows: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 1000
    pause: StrictBool = False
    max_lag_s: SomeSeconds = Field(default=10.0, validation_alias="max_lag")
    target_latency_max_s: SomeSeconds = Field(default=1.0, validation_alias="target_latency_max")
    ledger_entries_max: Count = 100_000
    flag_file: str | None = None


GATE_NAMES = (
    "mirror_success", "ledger_drained", "lag", "no_quarantine", "backfill_complete", "verified",
    "read_parity", "schema_equal", "sequences_settable", "users_ready", "way_back", "files_agree",
)  # fmt: skip
"""What `force` may name; what they are stands in `crossing.gates`."""


class Gates(Section):
    """How strict the gates are."""

    mirror_success_ratio: Ratio = Field(default=0.95, validation_alias="mirror_success")
    read_parity_ratio: Ratio = Field(default=0.999, validation_alias="read_parity")
    verified_within_s: SomeSeconds = Field(default=3600.0, validation_alias="verified_within")
    max_lag_s: SomeSeconds = Field(default=1.0, validation_alias="max_lag")
    ledger_entries_max: Count = Field(default=10_000, validation_alias="ledger_entries")


class Breaker(Section):
    """When reads are taken off the new cluster without being asked, and for how long."""

    enabled: StrictBool = True
    # How many more reads than on the old cluster may fail or be slow there.
    bad_ratio: Ratio = Field(default=0.05, validation_alias="bad_reads")
    latency_max_s: SomeSeconds = Field(default=5.0, validation_alias="latency_max")
    window_s: SomeSeconds = Field(default=10.0, validation_alias="window")
    rest_s: SomeSeconds = Field(default=10.0, validation_alias="rest")


class RolloutFlags(Section):
    """Keys of flags that stand for lines of the rollout."""

    reads: str | None = None  # for reads_on_new
    writes: str | None = None  # for writes_on


class Rollout(Section):
    """Where reads and writes go; the lines an operator edits during the crossing."""

    reads_on_new_ratio: Ratio = Field(default=0.0, validation_alias="reads_on_new")
    # session, user, application_name, or the name of a session setting such as app.tenant
    sticky_by: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")] = "session"
    writes_on: Literal["old", "new"] = "old"
    max_pause_s: SomeSeconds = Field(default=5.0, validation_alias="max_pause")
    # How long a session that cannot move may still use the old authority.
    grace_s: Seconds = Field(default=30.0, validation_alias="grace")
    max_staleness_s: Seconds | None = Field(default=None, validation_alias="max_staleness")
    flags: RolloutFlags = RolloutFlags()
    breaker: Breaker = Breaker()
    gates: Gates = Gates()
    # Names of gates that the operator overrules, each by name: there is no "all".
    force: tuple[str, ...] = ()

    @field_validator("force")
    @classmethod
    def _are_gates(cls, force: tuple[str, ...]) -> tuple[str, ...]:
        for name in force:
            if name not in GATE_NAMES:
                raise ValueError(f'"{name}" is no gate: valid here: {", ".join(GATE_NAMES)}')
        return force


class Database(Section):
    """One database that crosses: its two clusters, who uses it, what moves and how far."""

    old: Cluster
    new: Cluster
    auth: Auth = "scram"
    users: tuple[User, ...] = ()
    # Who else may log in: a query for the secret of the user $1, and who runs it.
    auth_query: str | None = None
    auth_user: Name | None = None
    pool: Pool = Pool()
    max_clients: Count | None = None
    timeouts: Timeouts = Timeouts()
    tables: Tables = Tables()
    mirror: Mirror = Mirror()
    backfill: Backfill = Backfill()
    rollout: Rollout = Rollout()
    fence: Literal["none", "read_only", "nologin"] = "none"
    # The key it has under `databases`, filled in by `Config`; no key of the file.
    name: str = Field(default="", validation_alias=NOT_IN_FILE)

    @model_validator(mode="before")
    @classmethod
    def _share_auth(cls, value: Any) -> Any:
        """Give the database's `auth` to every user that has none."""
        if not isinstance(value, dict) or "auth" not in value:
            return value
        users = value.get("users")
        if not isinstance(users, list | tuple):
            return value
        shared = [{"auth": value["auth"], **user} if isinstance(user, dict) else user for user in users]
        return {**value, "users": shared}

    @field_validator("new")
    @classmethod
    def _two_places(cls, new: Cluster, info: ValidationInfo) -> Cluster:
        old: Cluster | None = info.data.get("old")
        if old is not None and old.primary.place() == new.primary.place():
            raise ValueError("the old and the new primary are the same database")
        return new

    @field_validator("users")
    @classmethod
    def _each_once(cls, users: tuple[User, ...], info: ValidationInfo) -> tuple[User, ...]:
        names = [user.name for user in users]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'user "{name}" is listed twice')
        return users

    @field_validator("auth_query")
    @classmethod
    def _asks_for_a_user(cls, query: str | None) -> str | None:
        if query is not None and "$1" not in query:
            raise ValueError("must ask for the user $1, as in SELECT rolpassword FROM ... WHERE rolname = $1")
        return query

    @field_validator("auth_user")
    @classmethod
    def _can_log_in(cls, name: str | None, info: ValidationInfo) -> str | None:
        users: tuple[User, ...] = info.data.get("users", ())
        if name is not None and all(user.name != name or user.password is None for user in users):
            raise ValueError(
                f'list "{name}" among the users, with password_env: it logs in to run auth_query'
            )
        return name

    @model_validator(mode="after")
    def _somebody(self) -> Database:
        if not self.users and self.auth_query is None and self.auth != "trust":
            raise ValueError("nobody could log in: list users, give auth_query, or set auth: trust")
        return self

    def user(self, name: str) -> User | None:
        """Return who logs in under a name, or None: nobody may, unless `auth_query` knows the name.

        With `auth: trust` and no list, any name may; the servers decide then.
        """
        if not self.users and self.auth_query is None:
            return User(name=name, auth="trust")
        return next((user for user in self.users if user.name == name), None)

    def cluster(self, name: Literal["old", "new"]) -> Cluster:
        """Return one of the two clusters by its name."""
        return self.old if name == "old" else self.new


class Flags(Section):
    """Who tells the values of flags."""

    provider: Literal["launchdarkly", "flagd", "environment"]
    # LaunchDarkly: flag data instead of its service. flagd: the flags, instead of its address.
    file: str | None = None
    address: AnyAddress | None = None  # of flagd's sync service
    sdk_key: str | None = Field(default=None, repr=False)
    sdk_key_env: str | None = None
    offline: StrictBool = False
    poll_s: SomeSeconds = Field(default=1.0, validation_alias="poll")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Flags:
        if self.provider == "launchdarkly" and not (self.file or self.offline or self.sdk_key):
            raise ValueError("launchdarkly needs sdk_key_env, or file, or offline: true")
        if self.provider == "flagd" and not (self.file or self.address):
            raise ValueError("flagd needs file or address")
        return self


class Config(Section):
    """The whole file."""

    digest: str = Field(default="", validation_alias=NOT_IN_FILE)  # of its text
    listen: AnyAddress
    unix_socket_dir: str | None = None
    admin: Admin | None = None
    tls: Tls | None = None
    workers: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    limits: Limits = Limits()
    flags: Flags | None = None
    databases: Annotated[dict[Name, Database], Field(min_length=1)]

    @field_validator("admin")
    @classmethod
    def _two_ports(cls, admin: Admin | None, info: ValidationInfo) -> Admin | None:
        if admin is not None and admin.listen.port and admin.listen == info.data.get("listen"):
            raise ValueError("the same address as listen: the admin side needs its own")
        return admin

    @field_validator("databases")
    @classmethod
    def _can_show_certificates(
        cls, databases: dict[str, Database], info: ValidationInfo
    ) -> dict[str, Database]:
        tls: Tls | None = info.data.get("tls")
        for name, database in databases.items():
            for user in database.users:
                if user.auth == "cert" and (tls is None or tls.ca is None):
                    raise ValueError(f'user "{user.name}" of {name} has auth: cert, which needs tls.ca')
        return databases

    @field_validator("databases")
    @classmethod
    def _flags_have_a_provider(cls, databases: dict[str, Database], info: ValidationInfo) -> Any:
        for name, database in databases.items():
            if database.rollout.flags != RolloutFlags() and info.data.get("flags") is None:
                raise ValueError(f"{name}.rollout.flags names flags, and there is no section flags")
        return databases

    @field_validator("databases")
    @classmethod
    def _know_their_names(cls, databases: dict[str, Database]) -> dict[str, Database]:
        return {name: database.model_copy(update={"name": name}) for name, database in databases.items()}


def matches(pattern: str, schema: str, name: str) -> bool:
    """Return whether a pattern of the file, with or without a schema, means this table."""
    return fnmatchcase(f"{schema}.{name}", pattern if "." in pattern else f"public.{pattern}")


def _of_table(by_table: Mapping[str, _T], schema: str, name: str) -> _T | None:
    found = by_table.get(f"{schema}.{name}")
    return by_table.get(name) if found is None and schema == "public" else found
