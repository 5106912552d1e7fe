"""The text of a search_path, as the schemas that names are looked up in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.search_path import acting, hidden, hiding, listed, resolved, role_in


@pytest.mark.parametrize(
    ("setting", "schemas"),
    [
        ('"$user", public', ("app", "public")),
        ("public", ("public",)),
        ("Public , OTHER", ("public", "other")),
        ('"Public","a, b"', ("Public", "a, b")),
        ("'Public', 'it''s'", ("Public", "it's")),
        ('"say ""x"""', ('say "x"',)),
        ("", ()),
        ("''", ()),
        ('""', ()),
    ],
)
def test_a_setting_is_read_as_postgresql_reads_it(setting: str, schemas: tuple[str, ...]) -> None:
    assert resolved(setting, "app") == schemas


names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), min_size=1, max_size=10)


@given(st.lists(names, max_size=5))
def test_what_is_listed_is_resolved_to_the_same_names(schemas: list[str]) -> None:
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in schemas)
    expected = tuple("app" if name == "$user" else name for name in schemas)
    assert resolved(quoted, "app") == expected
    assert resolved(listed(quoted), "app") == expected


def test_names_hidden_by_temporary_relations_are_no_schemas() -> None:
    path = hiding(("app", "public"), frozenset({"users", "a"}))
    assert path[:2] == ("app", "public")
    assert hidden(path) == ("a", "users")
    assert hidden(("app",)) == ()
    assert path == hiding(("app", "public"), frozenset({"a", "users"}))


def test_the_acting_role_is_a_mark_of_its_own() -> None:
    path = hiding(("public", acting("teller")), frozenset({"a"}))
    assert role_in(path) == "teller" and hidden(path) == ("a",)
    assert role_in(("public",)) is None
