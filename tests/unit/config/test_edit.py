"""An edit changes one value, and not a byte beside it."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.edit import Assignment, edited, resolved
from proxy.errors import ConfigError
from tests.unit.config.sample import SAMPLE

TWO = SAMPLE + '  other: {old: {primary: "a"}, new: {primary: "b"}}\n'


def set_one(text: str, key: str, value: str) -> str:
    return edited(text, [Assignment(key, value)], file="f.yaml")


def refusal(text: str, key: str, value: str) -> str:
    with pytest.raises(ConfigError) as refused:
        set_one(text, key, value)
    return str(refused.value)


@given(st.integers(0, 100), st.sampled_from(["", "   # five, then ten", "\n      # below"]))
def test_only_the_value_changes(percent: int, after: str) -> None:
    text = SAMPLE.replace("reads_on_new: 0%", f"reads_on_new:   0%{after}")
    expected = SAMPLE.replace("reads_on_new: 0%", f"reads_on_new:   {percent}%{after}")
    assert set_one(text, "reads_on_new", f"{percent}%") == expected


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("databases.app.rollout.reads_on_new", "databases.app.rollout.reads_on_new"),
        ("app.rollout.reads_on_new", "databases.app.rollout.reads_on_new"),
        ("app.reads_on_new", "databases.app.rollout.reads_on_new"),
        ("reads_on_new", "databases.app.rollout.reads_on_new"),
        ("gates.max_lag", "databases.app.rollout.gates.max_lag"),
        ("admin.listen", "admin.listen"),
        ("listen", "listen"),
    ],
)
def test_a_key_may_be_shortened_while_one_meaning_is_left(key: str, path: str) -> None:
    assert ".".join(resolved(SAMPLE, key)) == path


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (SAMPLE, "reads_on_nwe", "no such key"),
        (SAMPLE, "max_lag", "may mean databases.app.backfill.max_lag or databases.app.rollout.gates.max_lag"),
        (TWO, "writes_on", "may mean databases.app.rollout.writes_on or databases.other.rollout.writes_on"),
        ("", "listen", "no such key"),
    ],
)
def test_a_key_without_one_meaning_is_refused(text: str, key: str, says: str) -> None:
    if text == "":
        text = "databases: {}\n"
        key = "app.listen"
    assert says in refusal(text, key, "1s")


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("databases:\n  app:\n    rollout:\n      writes_on: old  # now\n\n# end\n",
         "databases:\n  app:\n    rollout:\n      writes_on: old  # now\n      reads_on_new: 5%\n\n# end\n"),
        ("databases:\n  app:\n    rollout: {writes_on: old} # x\n",
         "databases:\n  app:\n    rollout: {reads_on_new: 5%, writes_on: old} # x\n"),
        ("databases:\n  app:\n    rollout: {}\n", "databases:\n  app:\n    rollout: {reads_on_new: 5%}\n"),
        ("databases:\n  app:\n    rollout:   # later\n",
         "databases:\n  app:\n    rollout: {reads_on_new: 5%}   # later\n"),
        ("databases:\n  app:\n    auth: trust",
         "databases:\n  app:\n    auth: trust\n    rollout: {reads_on_new: 5%}\n"),
        ("databases: {app: {auth: trust}}", "databases: {app: {rollout: {reads_on_new: 5%}, auth: trust}}"),
    ],
)  # fmt: skip
def test_a_missing_key_is_added_in_the_style_of_its_section(text: str, added: str) -> None:
    assert set_one(text, "reads_on_new", "5%") == added


def test_several_values_at_once() -> None:
    wanted = [Assignment("reads_on_new", "5%"), Assignment("app.max_staleness", "1s")]
    values = yaml.safe_load(edited(SAMPLE, wanted, file="f.yaml"))
    rollout = values["databases"]["app"]["rollout"]
    assert (rollout["reads_on_new"], rollout["max_staleness"]) == ("5%", "1s")


@pytest.mark.parametrize(
    ("text", "key", "value", "says"),
    [
        (SAMPLE, "reads_on_new", "5%\n      max_staleness: 1s", "not valid YAML"),
        (SAMPLE, "chunk_rows", "1, pause: true", "would change more"),
        (SAMPLE, "reads_on_new", "%5", "not valid YAML"),
        ("databases:\n  app:\n    tables:\n      include:\n        - a\n        # more\n        - b\n",
         "include", "[c]", "f.yaml:5: include: stands over several lines"),
        ("databases:\n  app: &a\n    rollout: &r {writes_on: old}\n  b:\n    rollout: *r\n",
         "b.writes_on", "new", "shared through an alias"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_exactly_is_not_done(text: str, key: str, value: str, says: str) -> None:
    assert says in refusal(text, key, value)
