"""Session settings that follow a client from server to server.

A server connection is lent to one session after the other, so what one session SET
must neither leak to the next nor be missed when the session gets another server.
Both sides therefore carry a `Settings` value: the session its wish, the server what
was last applied to it. Equal values are one object, so the usual case, nothing to
do, costs one `is`.

A SET becomes part of the session's wish when it is certain: outside a transaction
when its statement succeeded, inside one when the transaction commits. PostgreSQL
undoes a SET on ROLLBACK and on ROLLBACK TO, and so does `SettingsTracker`.
SET LOCAL ends with its transaction: it never is a wish, but until then it is in force, and
may decide what names mean.

What we take for a read outside a transaction runs with `reading`, wherever it runs: the same
settings, and every transaction READ ONLY. So PostgreSQL itself refuses (25006) a write that we
did not recognise, also on the authority, where it would not be captured.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from proxy.session.search_path import listed
from proxy.sql.quote import quote_text
from proxy.sql.statement import Kind, Setting, Statement

# What a startup packet holds beside settings.
_NOT_SETTINGS = {"user", "database", "replication", "options"}

# Settings whose value is a list of names (GUC_LIST_QUOTE in guc_tables.c).
_LISTS = {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}

# Never sent with SET: these change through RESET and SET ROLE statements of their own.
_ALL = "all"
_USER = "session_authorization"
_NOT_RESET = (_USER, "role")  # by RESET ALL
_READ_ONLY = "default_transaction_read_only"


class Settings:
    """An immutable set of settings; equal ones are the same object."""

    __slots__ = ("__weakref__", "_reading", "values")

    _interned: WeakValueDictionary[tuple[tuple[str, str], ...], Settings] = WeakValueDictionary()

    values: dict[str, str]
    _reading: Settings | None

    @classmethod
    def of(cls, values: dict[str, str]) -> Settings:
        """Return the one object with these values: lower-case names to SQL texts."""
        key = tuple(sorted(values.items()))
        found = cls._interned.get(key)
        if found is None:
            found = cls()
            found.values = dict(key)
            found._reading = None
            cls._interned[key] = found
        return found

    @property
    def reading(self) -> Settings:
        """These settings for what must not write."""
        if self._reading is None:
            self._reading = Settings.of({**self.values, _READ_ONLY: "on"})
        return self._reading

    @property
    def unresettable(self) -> Settings:
        """What is left of these settings after RESET ALL."""
        return Settings.of({name: self.values[name] for name in _NOT_RESET if name in self.values})

    def changed(self, changes: Iterable[Setting], startup: Settings) -> Settings:
        """Return these settings after SET and RESET; RESET goes back to what startup gave."""
        values = dict(self.values)
        for change in changes:
            if change.name == _USER:
                values.pop("role", None)  # SET and RESET SESSION AUTHORIZATION end a SET ROLE
            if change.name == _ALL:
                values = dict(startup.values)
            elif change.value_sql is not None:
                values[change.name] = change.value_sql
            elif change.name in startup.values:
                values[change.name] = startup.values[change.name]
            else:
                values.pop(change.name, None)
        return Settings.of(values)

    def without(self, name: str) -> Settings:
        """Return these settings but one."""
        return Settings.of({key: value for key, value in self.values.items() if key != name})

    def script_from(self, applied: Settings) -> str:
        """Return the SQL that brings a server from `applied` to these settings."""
        lines = {name: f"RESET {_quoted(name)}" for name in applied.values if name not in self.values}
        lines |= {
            name: f"SET {_quoted(name)} TO {value}"
            for name, value in self.values.items()
            if applied.values.get(name) != value
        }
        if _USER in lines and "role" in self.values:
            lines["role"] = f"SET role TO {self.values['role']}"
        return ";".join(lines[name] for name in sorted(lines, key=lambda name: name != _USER))


NONE = Settings.of({})


def from_startup(parameters: dict[str, str]) -> Settings:
    """Return the settings a startup packet asks for, those in `options` included."""
    values = {
        name.lower(): _value(name, value)
        for name, value in parameters.items()
        if name not in _NOT_SETTINGS and not name.startswith("_pq_.")
    }
    values.update(_from_options(parameters.get("options", "")))
    return Settings.of(values)


def of_text(name: str, value: str, *, is_local: bool = False) -> Setting:
    """Return the setting that gives a name a value known as one text."""
    return Setting(name, _value(name, value), is_local)


def _value(name: str, value: str) -> str:
    """Return what follows SET … TO for a value that came as one string."""
    return listed(value) if name.lower() in _LISTS else quote_text(value)


def _from_options(options: str) -> dict[str, str]:
    """Read `-c name=value`, `-cname=value` and `--name=value`; a backslash escapes a blank."""
    words = options.replace("\\ ", "\0").split()
    values = {}
    pending = False
    for word in words:
        text = word.replace("\0", " ")
        if pending:
            assignment = text
        elif text == "-c":
            pending = True
            continue
        elif text.startswith(("-c", "--")):
            assignment = text[2:]
        else:
            continue
        pending = False
        name, equals, value = assignment.partition("=")
        if equals:
            name = name.replace("-", "_").lower()
            values[name] = _value(name, value)
    return values


def _quoted(name: str) -> str:
    """Quote a setting's name part by part: `app.tenant` has two."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


class SettingsTracker:
    """What a session's settings are, and what they will be when its transaction commits.

    The methods take what the server that runs the session has, and return what it has
    then. That is another thing only after a RESET: the session goes back to what its startup
    packet asked for, its server to what it was started with. The difference is made up
    before the next transaction.
    """

    def __init__(self, startup: Settings) -> None:
        self.startup = startup
        self.committed = startup
        self._current = startup
        self._local: tuple[Setting, ...] = ()  # by SET LOCAL
        # Name, ours, the server's, and what was local.
        self._savepoints: list[tuple[str, Settings, Settings, tuple[Setting, ...]]] = []

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits for the end of a transaction."""
        return self._current is self.committed and not (self._savepoints or self._local)

    @property
    def current(self) -> Settings:
        """The settings this session should have right now."""
        return self._current

    @property
    def in_force(self) -> Settings:
        """The settings that the server goes by right now: these, and those of SET LOCAL."""
        return self._current.changed(self._local, self.startup) if self._local else self._current

    def statement_succeeded(self, statement: Statement, applied: Settings) -> Settings:
        """Note what a statement that PostgreSQL completed did to the settings."""
        if statement.settings:
            applied = self.was_set(statement.settings, applied)
        if statement.kind is Kind.COMMIT and not statement.is_two_phase:
            applied = self.transaction_ended(applied, is_committed=True)
        elif statement.kind is Kind.ROLLBACK and not statement.is_two_phase:
            applied = self.transaction_ended(applied, is_committed=False)
        elif statement.savepoint is not None:
            applied = self._savepoint_moved(statement, statement.savepoint, applied)
        return applied

    def was_set(self, changes: Iterable[Setting], applied: Settings) -> Settings:
        """Note settings that the server has taken."""
        changes = tuple(changes)
        named = {change.name for change in changes}
        kept = () if _ALL in named else (each for each in self._local if each.name not in named)
        self._local = (*kept, *(change for change in changes if change.is_local))
        changes = tuple(change for change in changes if not change.is_local)
        self._current = self._current.changed(changes, self.startup)
        return applied.changed(changes, NONE)

    def transaction_ended(self, applied: Settings, *, is_committed: bool) -> Settings:
        """Note that the session is outside any transaction again."""
        self._savepoints.clear()
        self._local = ()
        if is_committed:
            self.committed = self._current
            return applied
        self._current = self.committed
        return self.committed  # which the server had when the transaction began

    def _savepoint_moved(self, statement: Statement, name: str, applied: Settings) -> Settings:
        """Note SAVEPOINT, RELEASE or ROLLBACK TO: the innermost of that name is meant."""
        if not statement.is_rollback_to and statement.tag == "SAVEPOINT":
            self._savepoints.append((name, self._current, applied, self._local))
            return applied
        while self._savepoints:
            found, ours, servers, local = self._savepoints.pop()
            if found == name:
                if statement.is_rollback_to:
                    self._savepoints.append((name, ours, servers, local))
                    self._current, applied, self._local = ours, servers, local
                break
        return applied
