"""How far a change goes through foreign keys."""

from __future__ import annotations

from proxy.capture.reach import reach, truncated
from tests.unit.capture.sample import catalog, foreign_key, table

NONE: frozenset[str] = frozenset()


def name(*names: str) -> frozenset[tuple[str, str]]:
    return frozenset(("public", each) for each in names)


def chain(*keys: object) -> object:
    return catalog(*(table(number, each) for number, each in enumerate("abcd", 1)), keys=keys)


def test_delete_cascades_until_a_key_does_not_pass_it_on() -> None:
    judged = chain(foreign_key("b", "a", "c"), foreign_key("c", "b", "n"), foreign_key("d", "c", "c", "c"))
    # SET NULL updates c.up, which nothing references, so d stays as it is.
    assert reach(judged, ("public", "a"), deletes=True, assigned=NONE).tables == name("b", "c")
    assert reach(judged, ("public", "c"), deletes=True, assigned=NONE).tables == name("d")


def test_update_is_passed_on_only_for_referenced_columns() -> None:
    judged = chain(foreign_key("b", "a", "a", "c"))
    assert reach(judged, ("public", "a"), deletes=False, assigned=frozenset({"v"})).tables == name()
    assert reach(judged, ("public", "a"), deletes=False, assigned=frozenset({"id"})).tables == name("b")
    assert reach(judged, ("public", "a"), deletes=True, assigned=NONE).tables == name()


def test_cycles_end_and_reach_the_table_itself() -> None:
    judged = chain(foreign_key("a", "a", "c"), foreign_key("b", "a", "c"), foreign_key("a", "b", "c"))
    assert reach(judged, ("public", "a"), deletes=True, assigned=NONE).tables == name("a", "b")


def test_unmirrored_parent_passes_changes_on() -> None:
    judged = chain(foreign_key("b", "aside", "c"))
    assert reach(judged, ("public", "aside"), deletes=True, assigned=NONE).tables == name("b")


def test_reached_triggers_are_reported() -> None:
    keys = (foreign_key("b", "a", "c"),)
    quiet = catalog(table(1, "a"), table(2, "b"), keys=keys)
    noisy = catalog(table(1, "a"), table(2, "b", has_user_triggers=True), keys=keys)
    assert not reach(quiet, ("public", "a"), deletes=True, assigned=NONE).fires_triggers
    assert reach(noisy, ("public", "a"), deletes=True, assigned=NONE).fires_triggers


def test_truncate_follows_keys_of_any_action() -> None:
    judged = chain(foreign_key("b", "a"), foreign_key("c", "b", "r"), foreign_key("a", "d"))
    assert truncated(judged, ("public", "a")) == name("a", "b", "c")
