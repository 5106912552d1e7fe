"""What `check` is told about the capture of each table."""

from __future__ import annotations

import pytest

from proxy.capture.advice import advise
from tests.unit.capture.sample import catalog, foreign_key, table


def test_plain_table_needs_no_advice() -> None:
    assert advise(catalog(table(1, "a"), table(2, "b"), keys=(foreign_key("b", "a"),))) == []


@pytest.mark.parametrize("trait", ["has_user_triggers", "has_rules", "has_row_security"])
def test_table_that_others_change_is_advised_to_use_triggers(trait: str) -> None:
    (advice,) = advise(catalog(table(1, "a", **{trait: True})))
    assert "trigger" in advice.remedy
    assert not advice.is_problem
    assert advise(catalog(table(1, "a", capture="trigger", **{trait: True}))) == []


def test_inheritance_is_named_and_has_no_trigger_form() -> None:
    (advice,) = advise(catalog(table(1, "a", has_children=True)))
    assert "partitions" in advice.remedy and not advice.is_problem


def test_key_whose_text_depends_on_settings_is_a_problem() -> None:
    (advice,) = advise(catalog(table(1, "a", key_types=("double precision",))))
    assert advice.is_problem


def test_cascade_is_named_with_its_parent() -> None:
    (advice,) = advise(catalog(table(1, "a"), table(2, "b"), keys=(foreign_key("b", "a", "c"),)))
    assert advice.table == '"public"."b"'
    assert "changes of a" in advice.reason
