"""A file becomes a configuration, or every problem in it with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Config, Dsn, load, loads
from proxy.errors import ConfigError, ConfigProblem
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed


def problems(text: str) -> list[ConfigProblem]:
    with pytest.raises(ConfigError) as caught:
        loads(text, ENVIRONMENT, file="x.yaml")
    return caught.value.problems


def problem(text: str) -> ConfigProblem:
    (only,) = problems(text)
    return only


keys = st.sampled_from(["listen", "admin", "databases", "app", "old", "new", "users", "pool", "size", "<<"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.just("10s"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_any_tree_is_a_configuration_or_a_list_of_problems(tree: object) -> None:
    try:
        assert isinstance(loads(yaml.safe_dump(tree), file="x.yaml"), Config)
    except ConfigError as error:
        assert error.problems
        assert all(found.line >= 1 and found.key and found.message for found in error.problems)


@given(st.text())
def test_any_text_is_a_configuration_or_a_list_of_problems(text: str) -> None:
    with pytest.raises(ConfigError):
        loads(text)


@given(st.integers(0, len(SAMPLE)), st.text(max_size=5))
def test_a_damaged_file_is_never_an_unexpected_error(at: int, damage: str) -> None:
    try:
        loads(SAMPLE[:at] + damage + SAMPLE[at + 3 :], ENVIRONMENT)
    except ConfigError as error:
        assert error.problems


def test_the_pinned_sample(tmp_path: Path) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(SAMPLE)
    config = load(file, ENVIRONMENT)
    database = config.databases["app"]
    assert config.listen == ("127.0.0.1", 6432)
    assert config.admin is not None and config.admin.listen == ("127.0.0.1", 9632)
    assert database.name == "app"
    assert database.old.servers() == (
        Dsn("127.0.0.1", 5501, "crossfade", "app"),
        Dsn("127.0.0.1", 5503, "crossfade", "app"),
    )
    assert database.new.replicas == ()
    assert database.user("app") is not None and database.user("app").password == "hunter2"
    assert database.user("nobody") is None
    assert (database.pool.size, database.pool.wait_s) == (20, 10)
    assert database.tables.order_by_of("public", "users") == "last_login DESC"
    assert (database.mirror.enabled, database.mirror.ack) == (True, "async")
    assert (database.backfill.enabled, database.backfill.chunk_rows) == (True, 1000)
    assert (database.rollout.reads_on_new_ratio, database.rollout.writes_on) == (0, "old")
    gates = database.rollout.gates
    assert (gates.mirror_success_ratio, gates.read_parity_ratio) == (0.95, 0.999)
    assert (gates.verified_within_s, gates.max_lag_s, database.rollout.max_pause_s) == (3600, 1, 5)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "said"),
    [
        ("admin: {", "admn: {", 2, "admn", "unknown key; did you mean admin? valid here: admin, databases"),
        ("sticky_by", "stickyby", 14, "databases.app.rollout.stickyby", "did you mean sticky_by?"),
        ("  app:\n", "  app:\n    name: x\n", 5, "databases.app.name", "unknown key"),
        ("wait: 10s", "wait: 10", 8, "databases.app.pool.wait", "10 carries no unit: write it like 10s"),
        ("wait: 10s", "wait_s: 10s", 8, "databases.app.pool.wait_s", "did you mean wait?"),
        ("size: 20", "size: 0", 8, "databases.app.pool.size", "must be greater than or equal to 1, not 0"),
        ("size: 20", 'size: "20"', 8, "databases.app.pool.size", 'must be a whole number, not "20"'),
        ("size: 20", "size: 20, size: 20", 8, "databases.app.pool.size", "stands twice, first on line 8"),
        ("{enabled: true, ack", "{enabled: maybe, ack", 10, "databases.app.mirror.enabled", "true or false"),
        ("ack: async", "ack: later", 10, "databases.app.mirror.ack", 'must be async or sync, not "later"'),
        ("0%\n", "120%\n", 13, "databases.app.rollout.reads_on_new", "120% is more than 100%"),
        ("writes_on: old", "writes_on: both", 15, "databases.app.rollout.writes_on", "must be old or new"),
        ("max_pause: 5s", "max_pause: 0s", 16, "databases.app.rollout.max_pause", "greater than 0"),
        ("95%", "95", 17, "databases.app.rollout.gates.mirror_success", "95 carries no unit"),
        (
            "capture: statement",
            "capture: magic",
            9,
            "databases.app.tables.capture",
            "statement, trigger or split",
        ),
        ('include: ["public.*"]', "include: public.*", 9, "databases.app.tables.include", "must be a list"),
        ("{size: 20, wait: 10s}", "20", 8, "databases.app.pool", "must be a mapping, not 20"),
        ("127.0.0.1:6432", "6432", 1, "listen", "write it"),
        ("127.0.0.1:9632", "127.0.0.1:6432", 2, "admin", "same address"),
        ("APP_PASSWORD", "NONE", 7, "databases.app.users[0].password_env", "variable NONE is not set"),
        ("password_env: APP_PASSWORD", "auth: scram", 7, "databases.app.users[0]", "has no password"),
        (
            "password_env: APP_PASSWORD",
            "verifier: SCRAM-SHA-256$4096:x",
            7,
            "databases.app.users[0].verifier",
            "must be as in pg_authid.rolpassword",
        ),
        ("password_env: APP_PASSWORD", "auth: cert", 3, "databases", "auth: cert, which needs tls.ca"),
        ("    users:", "    auth_query: SELECT 1\n    users:", 7, "databases.app.auth_query", "the user $1"),
        ("    users:", "    auth_user: x\n    users:", 7, "databases.app.auth_user", 'list "x" among'),
        ("databases:\n", "tls: {cert: a}\ndatabases:\n", 3, "tls.key", "is missing"),
        (
            "databases:\n",
            "tls: {cert: a, key: b, mode: verify-ca}\ndatabases:\n",
            3,
            "tls",
            "mode: verify-ca needs ca",
        ),
        ("[{name: app, password_env: APP_PASSWORD}]", "[]", 4, "databases.app", "nobody could log in"),
        ("@127.0.0.1:5502/app", "@127.0.0.1:5501/app", 6, "databases.app.new", "the same database"),
        ("    pool: {size: 20, wait: 10s}\n", "\tpool\n", 8, "syntax", "not valid YAML"),
    ],
)
def test_a_problem_has_its_line_and_key_and_says_what_is_valid(
    old: str, new: str, line: int, key: str, said: str
) -> None:
    if said == "write it":
        new, said = "6432", "must be an address, such as 127.0.0.1:6432"
    found = problem(changed(old, new))
    assert (found.file, found.line, found.key) == ("x.yaml", line, key)
    assert said in found.message


def test_a_missing_key_points_at_what_should_hold_it() -> None:
    text = "".join(line for line in SAMPLE.splitlines(keepends=True) if not line.startswith("    new:"))
    assert problem(text) == ("x.yaml", 4, "databases.app.new", "is missing, and must be there")


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = changed("wait: 10s", "wait: 10").replace("0%\n", "5\n").replace("admin:", "admn:")
    assert [found.line for found in problems(text)] == [2, 8, 13]


@pytest.mark.parametrize("text", ["", "5", "- a", "# nothing"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    assert "must hold a mapping" in problem(text).message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "binary.yaml")


def test_a_tree_without_end_is_refused() -> None:
    assert "nested too deeply" in problem("a: &a {b: *a}").message
    assert "not valid YAML" in problem("[" * 5000).message


def test_no_problem_repeats_a_password() -> None:
    text = changed("crossfade@127.0.0.1:5501", "crossfade:secret@127.0.0.1:port")
    text = text.replace("password_env: APP_PASSWORD", "password: [secret]")
    assert "secret" not in str(problems(text))


def test_a_cluster_password_serves_every_url_without_one() -> None:
    text = changed("old: {primary", "old: {password_env: APP_PASSWORD, primary")
    text = text.replace("crossfade@127.0.0.1:5503", "crossfade:own@127.0.0.1:5503")
    old = loads(text, ENVIRONMENT).databases["app"].old
    assert [server.password for server in old.servers()] == ["hunter2", "own"]


def test_password_and_password_env_exclude_each_other() -> None:
    found = problem(changed("password_env: APP_PASSWORD", "password_env: APP_PASSWORD, password: x"))
    assert "not both" in found.message


def test_merge_keys_share_a_section() -> None:
    text = changed("pool: {size: 20, wait: 10s}", "pool: &p {size: 7}")
    text += "  two:\n    <<: {auth: trust}\n"
    text += '    old: {primary: "postgresql://c@a/x"}\n'
    text += '    new: {primary: "postgresql://c@b/x"}\n    pool: *p\n'
    assert loads(text, ENVIRONMENT).databases["two"].pool.size == 7
