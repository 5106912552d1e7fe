"""A changed file says what takes effect now, and what waits for a restart."""

from __future__ import annotations

import pytest

from proxy.config import diff, loads, until_restart
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed

CONFIG = loads(SAMPLE, ENVIRONMENT)
OTHER = """\
  other:
    old: {primary: "postgresql://c@a/x"}
    new: {primary: "postgresql://c@b/x"}
    auth: trust
"""


def test_nothing_changed() -> None:
    assert not diff(CONFIG, loads(SAMPLE, ENVIRONMENT))


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("reads_on_new: 0%", "reads_on_new: 5%", "databases.app.rollout.reads_on_new: 0% -> 5%"),
        ("writes_on: old", "writes_on: new", "databases.app.rollout.writes_on: old -> new"),
        ("wait: 10s", "wait: 1500ms", "databases.app.pool.wait: 10s -> 1.5s"),
        ("exclude: []", "exclude: [a, b]", "databases.app.tables.exclude: [] -> [a, b]"),
        ("max_pause: 5s", "max_pause: 5s\n      max_staleness: 2s",
         "databases.app.rollout.max_staleness: absent -> 2s"),
        (', replicas: ["postgresql://crossfade@127.0.0.1:5503/app"]', "",
         "databases.app.old.replicas: [postgresql://crossfade@127.0.0.1:5503/app] -> []"),
        ("capture: statement", "capture: {users: trigger}",
         "databases.app.tables.capture.users: absent -> trigger"),
    ],
)  # fmt: skip
def test_live(old: str, new: str, shown: str) -> None:
    changes = diff(CONFIG, loads(changed(old, new), ENVIRONMENT))
    assert shown in map(str, changes.live)
    assert not changes.needs_restart


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("listen: 127.0.0.1:6432", "listen: 127.0.0.1:6433", "listen"),
        ("127.0.0.1:9632", "127.0.0.1:9633", "admin.listen"),
        ("admin:", "workers: 2\nadmin:", "workers"),
        ("127.0.0.1:5502", "127.0.0.1:5509", "databases.app.new.primary"),
        ("crossfade@127.0.0.1:5502", "crossfade:x@127.0.0.1:5502", "databases.app.new.primary"),
    ],
)
def test_needs_a_restart_and_says_why(old: str, new: str, key: str) -> None:
    changes = diff(CONFIG, loads(changed(old, new), ENVIRONMENT))
    assert not changes.live
    assert [change.key for change in changes.needs_restart] == [key]
    assert changes.needs_restart[0].reason


def test_what_needs_a_restart_does_not_take_effect_with_what_is_live() -> None:
    wanted = changed("127.0.0.1:5502", "127.0.0.1:5509").replace("reads_on_new: 0%", "reads_on_new: 5%")
    wanted = wanted.replace("listen: 127.0.0.1:6432", "listen: 127.0.0.1:6433\nworkers: 2")
    in_force = until_restart(CONFIG, loads(wanted, ENVIRONMENT))
    assert [str(change) for change in diff(CONFIG, in_force).live] == [
        "databases.app.rollout.reads_on_new: 0% -> 5%"
    ]
    assert not diff(CONFIG, in_force).needs_restart
    # A later reload of the same file still says what waits.
    assert diff(in_force, loads(wanted, ENVIRONMENT)).needs_restart


def test_a_database_that_comes_or_goes_does_so_live() -> None:
    both = loads(SAMPLE + OTHER, ENVIRONMENT)
    for before, after in ((CONFIG, both), (both, CONFIG)):
        changes = diff(before, after)
        assert not changes.needs_restart
        assert "databases.other.new.primary" in {change.key for change in changes.live}
        assert set(until_restart(before, after).databases) == set(after.databases)


def test_a_password_is_compared_and_never_shown() -> None:
    changes = diff(CONFIG, loads(SAMPLE, {"APP_PASSWORD": "other"}))
    assert list(map(str, changes.live)) == ["databases.app.users[app].password: (secret) -> (secret)"]
