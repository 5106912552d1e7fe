"""Every configuration in the repository is one that Crossfade takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from proxy.config import load, loads, model, values

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "config"
OURS = sorted(FOLDER.glob("*.yaml"))
SECTIONS = [each for each in vars(model).values() if isinstance(each, type) and issubclass(each, BaseModel)]
ENVIRONMENT = {"APP_PASSWORD": "app", "CROSSFADE_PASSWORD": "crossfade", "LAUNCHDARKLY_SDK_KEY": "k"}


def uncommented(text: str) -> str:
    """Return the example with the keys it only shows written out."""
    text = re.sub(r"^(\s*)# (?=[a-z_]+:( |$))", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"^# (?=  [a-z_]+: )", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_it_loads(path: Path) -> None:
    assert load(path, ENVIRONMENT).databases


@pytest.mark.parametrize(
    "path", [*FOLDER.glob("*.yml"), ROOT / "docker-compose.yml"], ids=lambda path: path.name
)
def test_it_is_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text())


def test_the_example_names_every_key() -> None:
    text = (FOLDER / "crossfade.example.yaml").read_text()
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            key = str(field.validation_alias or name)
            # A secret in the file is possible, and nothing an example should suggest.
            is_shown = re.search(rf"\b{key}:", text) or key in ("password", "sdk_key", values.NOT_IN_FILE)
            assert is_shown, f"{section.__name__}: {key} is not in the example"


def test_what_the_example_comments_out_is_valid_too() -> None:
    text = (FOLDER / "crossfade.example.yaml").read_text()
    config = loads(uncommented(text), ENVIRONMENT)
    assert config.workers == 1
    assert config.limits.max_clients == 1000
    assert config.databases["app"].rollout.force == ("read_parity",)


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"crossfade_\w+", target["expr"])
    }
    names = """
        clients servers statements_total statement_seconds ledger_entries ledger_oldest_seconds
        converged_rows_total mirror_success_ratio quarantined_keys backfill_rows_total
        backfill_progress_ratio read_parity_ratio authority epoch switch_pause_seconds
        config_reloads_total capture_misses_total
    """
    pinned = {f"crossfade_{name}" for name in names.split()} | {"crossfade_statement_seconds_bucket"}
    assert asked <= pinned
    assert pinned - asked == {"crossfade_statement_seconds"}
