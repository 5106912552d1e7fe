"""A session has the settings it would have if it were connected directly, whatever server runs it."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session.settings import NONE, Settings, SettingsTracker, from_startup, of_text
from proxy.sql.classify import parse
from proxy.sql.statement import Kind, Setting

Values = dict[str, str]


class Server:
    """A server's settings, as PostgreSQL treats SET, SET LOCAL, savepoints and the end of a transaction.

    Args:
        startup: What its startup packet gave: what RESET goes back to.
    """

    def __init__(self, startup: Values) -> None:
        self.startup = startup
        self.values = dict(startup)
        self.in_force = dict(startup)  # those of SET LOCAL too
        self.saved: list[tuple[str, Values, Values]] = []  # the transaction, then savepoints
        self.tracked = NONE  # what the proxy thinks it has

    def run(self, text: str) -> None:
        for statement in parse(text):
            match statement.kind:
                case Kind.BEGIN:
                    self._save("")
                case Kind.COMMIT:
                    self._end(self.values)
                case Kind.ROLLBACK:
                    self._end(self.saved[0][1])
                case Kind.SAVEPOINT:
                    self._savepoint(statement.tag, statement.savepoint or "")
            for setting in statement.settings:
                self._set(setting, self.in_force)
                if not setting.is_local:
                    self._set(setting, self.values)
            if not self.saved:
                self.in_force = dict(self.values)

    def has_savepoint(self, name: str) -> bool:
        return name in [known for known, _, _ in self.saved[1:]]

    def _save(self, name: str) -> None:
        self.saved.append((name, dict(self.values), dict(self.in_force)))

    def _end(self, values: Values) -> None:
        self.values, self.in_force, self.saved = dict(values), dict(values), []

    def _savepoint(self, tag: str, name: str) -> None:
        if tag == "SAVEPOINT":
            self._save(name)
            return
        while self.saved[-1][0] != name:
            self.saved.pop()
        _, values, in_force = self.saved.pop()
        if tag == "ROLLBACK":
            self.values, self.in_force = values, in_force
            self._save(name)

    def _set(self, setting: Setting, values: Values) -> None:
        if setting.name == "all":
            values.clear()
            values.update(self.startup)
        elif setting.value_sql is not None:
            values[setting.name] = setting.value_sql
        elif setting.name in self.startup:
            values[setting.name] = self.startup[setting.name]
        else:
            values.pop(setting.name, None)


NAMES = st.sampled_from("ab")
STATEMENTS = st.one_of(
    st.builds("SET {} TO {}".format, NAMES, st.integers(0, 3)),
    st.builds("SET LOCAL {} TO {}".format, NAMES, st.sampled_from([0, 1, "DEFAULT"])),
    st.builds("RESET {}".format, NAMES),
    st.builds("SET {} TO DEFAULT".format, NAMES),
    st.just("RESET ALL"),
    st.sampled_from(["BEGIN", "COMMIT", "ROLLBACK"]),
    st.builds(
        "{} {}".format, st.sampled_from(["SAVEPOINT", "RELEASE", "ROLLBACK TO"]), st.sampled_from("st")
    ),
)


def is_allowed(text: str, server: Server) -> bool:
    """Return whether PostgreSQL would run a statement here, and not only warn."""
    words = text.split()
    if words[0] in ("RELEASE", "ROLLBACK") and len(words) > 1:
        return server.has_savepoint(words[-1])
    return bool(server.saved) == (words[0] in ("COMMIT", "ROLLBACK", "SAVEPOINT")) or words[0] in (
        "SET",
        "RESET",
    )


@settings(max_examples=300)
@given(st.lists(st.tuples(STATEMENTS, st.integers(0, 1)), max_size=25), st.sampled_from([{}, {"a": "'9'"}]))
def test_every_transaction_finds_the_settings_a_direct_connection_would_have(
    steps: list[tuple[str, int]], startup: dict[str, str]
) -> None:
    direct, servers = Server(startup), [Server({}), Server({})]
    tracker = SettingsTracker(Settings.of(startup))
    server = servers[0]
    for text, number in steps:
        if not is_allowed(text, direct):
            continue
        if not direct.saved:  # between transactions any server may come
            server = servers[number]
            server.run(tracker.current.script_from(server.tracked))
            server.tracked = tracker.current
            assert server.values == direct.values
        direct.run(text)
        server.run(text)
        for statement in parse(text):
            server.tracked = tracker.statement_succeeded(statement, server.tracked)
        assert tracker.current.values == direct.values
        assert server.tracked.values == server.values
        if not direct.saved and not tracker.is_clean:
            server.tracked = tracker.transaction_ended(server.tracked, is_committed=True)
        assert tracker.is_clean or direct.saved
        assert tracker.in_force.values == direct.in_force


def test_releasing_an_inner_savepoint_uncovers_the_outer_one_of_the_same_name() -> None:
    tracker = SettingsTracker(NONE)
    applied = NONE
    for text in ("BEGIN; SAVEPOINT s; SET a TO 1; SAVEPOINT s; SET a TO 2; RELEASE s", "ROLLBACK TO s"):
        for statement in parse(text):
            applied = tracker.statement_succeeded(statement, applied)
    assert (tracker.current, applied) == (NONE, NONE)


def test_a_transaction_that_failed_takes_its_settings_along() -> None:
    """Its COMMIT is answered with ROLLBACK, so no statement of it is reported to the tracker."""
    tracker = SettingsTracker(NONE)
    (statement,) = parse("SET a TO 1")
    applied = tracker.statement_succeeded(statement, NONE)
    assert not tracker.is_clean and applied.values == {"a": "1"}
    assert tracker.transaction_ended(applied, is_committed=False) is NONE
    assert tracker.current is NONE and tracker.is_clean


@pytest.mark.parametrize("text", ["PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"])
def test_two_phase_commands_are_about_other_transactions(text: str) -> None:
    tracker = SettingsTracker(NONE)
    for statement in parse(f"SET a TO 1; {text}"):
        tracker.statement_succeeded(statement, NONE)
    assert not tracker.is_clean


def test_equal_settings_are_one_object_for_as_long_as_somebody_has_them() -> None:
    one = Settings.of({"a": "1", "b": "2"})
    assert Settings.of({"b": "2", "a": "1"}) is one
    assert Settings.of({"a": "1"}) is not one
    assert Settings.of({"nobody": "keeps this"}).values
    gc.collect()
    assert (("nobody", "keeps this"),) not in Settings._interned


def test_the_script_says_only_what_must_change() -> None:
    wanted, applied = Settings.of({"a": "1", "app.tenant": "'x'"}), Settings.of({"a": "1", 'odd"name': "2"})
    assert wanted.script_from(applied) == 'RESET "odd""name";SET "app"."tenant" TO \'x\''
    assert wanted.script_from(wanted) == ""


# What a startup packet asks for.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-c geqo=off", {"geqo": "'off'"}),
        ("-cgeqo=off --work-mem=4MB", {"geqo": "'off'", "work_mem": "'4MB'"}),
        (r"-c application_name=my\ app  -c geqo=on", {"application_name": "'my app'", "geqo": "'on'"}),
        ("-c a.b=it's", {"a.b": "'it''s'"}),
        ("-c GEQO=x=y", {"geqo": "'x=y'"}),
        ("-e -B 5 -c nothing", {}),
        ("-c", {}),
        ("", {}),
    ],
)
def test_options_are_read_as_postgresql_reads_them(options: str, expected: dict[str, str]) -> None:
    assert from_startup({"options": options}).values == expected


def test_what_is_no_setting_is_left_out_and_names_are_folded() -> None:
    parameters = {
        "user": "u", "database": "d", "replication": "false", "_pq_.x": "1", "TimeZone": "UTC",
        "application_name": "psql",
    }  # fmt: skip
    assert from_startup(parameters).values == {"timezone": "'UTC'", "application_name": "'psql'"}


def test_options_do_not_overrule_silently_but_come_last_as_in_postgresql() -> None:
    assert from_startup({"geqo": "on", "options": "-c geqo=off"}).values == {"geqo": "'off'"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a, b", '"a", "b"'),
        ('"$user",public', '"$user", "public"'),
        ('"with, comma", Folded', '"with, comma", "folded"'),
        ('"a""b"', '"a""b"'),
        ("", "''"),
    ],
)
def test_a_list_that_came_as_one_text_is_sent_element_by_element(value: str, expected: str) -> None:
    assert from_startup({"search_path": value}).values == {"search_path": expected}
    assert of_text("search_path", value) == Setting("search_path", expected, False)
    assert of_text("geqo", "a, b").value_sql == "'a, b'"
