"""What a server tells of its session, compared with what it was given."""

from __future__ import annotations

import json

import pytest

from proxy.session import inventory
from proxy.session.settings import Settings
from proxy.sql.statement import Pin, Setting

_TOLD: dict[str, object] = {"settings": None, "role": "none", "user": "app", "relations": []}
APPLIED = Settings.of({"work_mem": "4MB", "search_path": '"a", "b"', "app.tenant": "'x'"})


def told(**more: object) -> inventory.Inventory:
    return inventory.read(json.dumps({**_TOLD, **more}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"work_mem": "4MB", "search_path": "a, b", "app.tenant": "x"}, ()),
        ({"work_mem": "8MB"}, (Setting("work_mem", "'8MB'", False),)),
        ({"work_mem": None}, (Setting("work_mem", None, False),)),
        ({"search_path": "c"}, (Setting("search_path", '"c"', False),)),
        ({"app.other": ""}, ()),
        ({"app.tenant": ""}, (Setting("app.tenant", "''", False),)),
        ({"transaction_isolation": "serializable"}, ()),
    ],
)
def test_only_what_differs_is_a_change(
    settings: dict[str, str | None], expected: tuple[Setting, ...]
) -> None:
    assert inventory.changes(told(settings=settings), APPLIED, "app") == expected


def test_roles_are_compared_though_no_view_lists_them() -> None:
    found = inventory.changes(told(role="r", user="u"), Settings.of({}), "app")
    assert found == (Setting("session_authorization", "'u'", False), Setting("role", "'r'", False))
    given = Settings.of({"role": "'r'", "session_authorization": "'u'"})
    assert inventory.changes(told(role="r", user="u"), given, "app") == ()
    ended = inventory.changes(told(), given, "app")
    assert ended == (Setting("session_authorization", None, False), Setting("role", None, False))


def test_inside_a_transaction_only_what_decides_on_names_counts() -> None:
    found = (Setting("search_path", "'a'", False), Setting("work_mem", "'4MB'", False))
    assert inventory.names_only(found) == (Setting("search_path", "'a'", True),)


def test_pins_are_those_that_the_server_confirms() -> None:
    found = told(
        **{Pin.TEMP_TABLE.value: True, Pin.ADVISORY_LOCK.value: False}, channels=["c"], prepared=["p"]
    )
    assert found.pins == {Pin.TEMP_TABLE}
    assert (found.channels, found.prepared) == ({"c"}, {"p"})


def test_question_inside_a_transaction_is_short() -> None:
    inside = inventory.question(APPLIED, ["app.user"], is_inside=True)
    assert "pg_locks" not in inside and "'app.user'" in inside
    assert "pg_locks" in inventory.question(APPLIED, [], is_inside=False)


def test_names_of_custom_settings_are_found_in_a_message() -> None:
    assert inventory.named_in(b"SELECT f('App.tenant', $1)\0x.y.z 1.5") == {"app.tenant", "x.y.z"}
