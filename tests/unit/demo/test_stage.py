"""The demo's YAML file is one that a user could have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import load
from proxy.demo.stage import PASSWORD, Lines, Places, Stage, configuration

PLACES = Places(
    port=6432,
    admin_port=9632,
    old="postgresql://crossfade@127.0.0.1:5501/app",
    replica="postgresql://crossfade@127.0.0.1:5503/app",
    new="postgresql://crossfade@127.0.0.1:5502/app",
)


@pytest.mark.parametrize(
    "lines",
    [
        Lines(),
        Lines(mirror=True, backfill=True, reads_on_new="50%"),
        Lines(reads_on_new="100%", writes_on="new"),
    ],
)
def test_every_step_is_a_valid_file(tmp_path: Path, lines: Lines) -> None:
    file = tmp_path / "crossfade.yaml"
    file.write_text(configuration(PLACES, lines))
    database = load(file, {"APP_PASSWORD": PASSWORD}).databases["app"]
    assert database.mirror.enabled is lines.mirror
    assert database.backfill.enabled is lines.backfill
    assert f"{database.rollout.reads_on_new_ratio:.0%}" == lines.reads_on_new
    assert database.rollout.writes_on == lines.writes_on
    assert database.tables.capture_of("public", "order_lines") == "trigger"
    assert database.tables.capture_of("public", "orders") == "statement"
    assert database.user("app") is not None


async def test_a_failed_demo_can_tell_how_the_log_ends() -> None:
    stage = Stage(1000)
    try:
        assert stage.last_words() == "the proxy's log ends:"
        stage.log.write_text("".join(f"line {number}\n" for number in range(100)))
        assert stage.last_words().splitlines()[1::39] == ["line 60", "line 99"]
    finally:
        await stage.close()
