"""The report says what the status says, in text and in HTML."""

from __future__ import annotations

from proxy.admin import report
from proxy.admin.status_model import DatabaseStatus, way_back
from tests.unit.admin.sample import database_status, status


def section(database: DatabaseStatus, title: str) -> report.Section:
    (found,) = [each for each in report.sections(database) if each.title == title]
    return found


def test_every_section_is_in_both_renderings() -> None:
    text, html = report.text(status()), report.html(status())
    for each in report.sections(database_status()):
        assert each.title in text and each.title in html
        assert each.verdict in text


def test_parity_is_never_rounded_up() -> None:
    database = database_status()
    database["read_parity_ratio"] = 0.99999999
    assert section(database, "Read parity").verdict.startswith("99.9999% ")


def test_a_difference_is_named_and_is_not_good() -> None:
    database = database_status()
    database["verification"]["differing"] = 1
    database["verification"]["differences"] = [
        {"table": "public.users", "key": ["7"], "kind": "differing", "columns": ["email"]}
    ]
    found = section(database, "Verification")
    assert found.is_good is False
    assert ("public.users", "7", "differing", "email") in found.rows


def test_what_was_never_measured_is_neither_good_nor_bad() -> None:
    database = database_status()
    database["read_parity_ratio"] = None
    database["verification"]["at"] = None
    assert section(database, "Read parity").is_good is None
    assert section(database, "Verification").is_good is None


def test_a_switch_shows_its_measured_pause() -> None:
    (row,) = section(database_status(), "Switches").rows
    assert "17.2" in row[3] and row[2] == "old -> new"


def test_the_way_back_is_open_while_all_gates_hold() -> None:
    assert way_back(database_status()) == {"is_ready": True, "to": "old", "reasons": []}
    assert section(database_status(), "Rollback readiness").is_good


def test_before_the_first_switch_the_question_is_the_way_forward() -> None:
    database = database_status()
    database["authority"] = "old"
    assert section(database, "Switch readiness").verdict == "writes can move to new now"


def test_what_stands_in_the_way_back_is_named() -> None:
    database = database_status()
    database["gates"][0] |= {"passed": False, "reason": "3% differ"}
    database["engine"]["owner"] = None
    database["servers"][0] |= {"is_up": False, "reason": "connection refused"}
    reasons = way_back(database)["reasons"]
    assert reasons[0] == "read_parity: 3% differ"
    assert "no process holds the lease" in reasons[1]
    assert reasons[2] == "old primary 127.0.0.1:5501: connection refused"
    rows = section(database, "Rollback readiness").rows
    assert len(rows) == 3 and all(row[0] == "refuses" for row in rows)


def test_an_overruled_gate_does_not_stand_in_the_way() -> None:
    database = database_status()
    database["gates"][0] |= {"passed": False, "is_forced": True}
    assert way_back(database)["is_ready"]
    assert section(database, "Rollback readiness").rows[0][0] == "overruled"


def test_other_peoples_words_are_not_markup() -> None:
    told = status()
    told["databases"]["app"]["quarantine"] = [
        {"table": "public.x", "key": ["<script>"], "attempts": 3, "error": "<b>bad</b>", "retry_at": None}
    ]
    told["errors"]["<i>"] = "<img>"
    page = report.html(told)
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page and "<img>" not in page


def test_a_database_without_status_is_reported_as_such() -> None:
    told = status()
    told["errors"]["other"] = "connection refused"
    assert "other: no status: connection refused" in report.text(told)
