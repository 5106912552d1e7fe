"""A flag's value means what the line of the file would."""

from __future__ import annotations

import pytest

from proxy.config import loads
from proxy.errors import ConfigError
from proxy.flags.values import Flag, flags_of, meaning, overlaid
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed

READS, WRITES = Flag("app", "reads", "reads"), Flag("app", "writes", "writes")
TEXT = "flags: {provider: environment}\n" + changed(
    "writes_on: old", "writes_on: old\n      flags: {reads: reads, writes: writes}"
)


@pytest.mark.parametrize(
    ("flag", "value", "means"),
    [
        (READS, "37%", 0.37), (READS, "37", 0.37), (READS, 37, 0.37), (READS, 37.5, 0.375), (READS, 0, 0.0),
        (WRITES, "new", "new"), (WRITES, "old", "old"), (WRITES, True, "new"), (WRITES, False, "old"),
    ],
)  # fmt: skip
def test_a_value_that_means_something(flag: Flag, value: object, means: object) -> None:
    assert meaning(flag, value) == means


@pytest.mark.parametrize(
    ("flag", "value"),
    [(READS, 101), (READS, -1), (READS, "x"), (READS, True), (WRITES, "maybe"), (WRITES, 1)],
)
def test_a_value_that_means_nothing(flag: Flag, value: object) -> None:
    with pytest.raises(ValueError, match=f"flag {flag.key}: "):
        meaning(flag, value)


def test_values_stand_for_the_lines_of_the_file() -> None:
    config = loads(TEXT, ENVIRONMENT)
    assert list(flags_of(config)) == [READS, WRITES]
    rollout = overlaid(config, {READS: 0.37, WRITES: "new"}).databases["app"].rollout
    assert (rollout.reads_on_new_ratio, rollout.writes_on, rollout.max_pause_s) == (0.37, "new", 5.0)
    assert overlaid(config, {}) == config
    # A flag that the file names no more has no say.
    plain = loads(SAMPLE, ENVIRONMENT)
    assert overlaid(plain, {READS: 0.37}) == plain


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("", "names flags, and there is no section flags"),
        ("flags: {provider: launchdarkly}\n", "launchdarkly needs sdk_key_env, or file"),
        ("flags: {provider: flagd}\n", "flagd needs file or address"),
        ("flags: {provider: launchdarkly, sdk_key_env: NOT_SET}\n", "NOT_SET is not set"),
    ],
)
def test_a_section_that_cannot_work_is_refused(section: str, says: str) -> None:
    text = TEXT.replace("flags: {provider: environment}\n", section)
    with pytest.raises(ConfigError, match=says):
        loads(text, ENVIRONMENT)
