"""The capture audit, through a real proxy: it finds what was missed, and makes it good."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.test_every_way import WAYS
from tests.integration.writing import Writing, writing

# A trigger that comes into being behind the proxy's back is unknown until the catalog is read again.
_BEHIND = """
CREATE TRIGGER late AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest.fixture
def audited(pg16: object, pg18: object, tmp_path: object) -> Iterator[Writing]:
    with writing(tmp_path, (pg16, pg18), mirror={"audit": "100%"}) as made:  # type: ignore[arg-type]
        yield made


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_change_that_was_missed_is_named_and_made_good(audited: Writing, is_prepared: bool) -> None:
    k = audited.block()
    with audited.connect() as client, audited.direct() as old:
        client.execute("UPDATE item SET v = 1 WHERE id = %s", (k + 1,), prepare=is_prepared)
        audited.assert_equal()
        assert audited.running.status()["capture_misses"] == {}
        old.execute(_BEHIND)
        client.execute("UPDATE item SET v = 2 WHERE id = %s", (k + 1,), prepare=is_prepared)
        client.execute("BEGIN")
        client.execute("UPDATE item SET v = 3 WHERE id = %s", (k + 2,), prepare=is_prepared)
        client.execute("COMMIT")
    audited.assert_equal()
    told = audited.running.status()
    assert told["capture_misses"] == {"public.audit": 2}
    assert "UPDATE item SET v =" in told["last_misses"]["public.audit"]
    assert '{"public.audit": trigger}' in told["last_misses"]["public.audit"]
    assert "changes were not captured" in audited.running.log.read_text()


# Tables of `writing.SCHEMA` whose rows something changes that no statement's text shows, and by what.
UNSEEN = {
    "public.item": "bump", "public.line": "foreign key", "public.audit": "note", "public.ruled": "rules",
    "public.secret": "row security", "public.tagged": "instead", "public.triggered": "in_steps",
}  # fmt: skip


def test_with_the_advice_of_check_applied_the_audit_stays_silent(
    pg16: object, pg18: object, tmp_path: object
) -> None:
    with writing(tmp_path, (pg16, pg18), tables={}, mirror={"audit": "100%"}) as made:  # type: ignore[arg-type]
        running = made.running
        running.stop()
        with made.direct() as old:
            old.execute("SELECT lo_from_bytea(0, 'x')")
        problems = json.loads(running.command("check", "--json", check=False).stdout)["problems"]
        assert any("large objects" in problem["reason"] for problem in problems)
        advised = [problem for problem in problems if problem["table"] and "trigger" in problem["remedy"]]
        for table, reason in UNSEEN.items():
            assert any(each["table"] == table and reason in each["reason"] for each in advised), (
                table,
                advised,
            )
        running.database["tables"] = {"capture": {each["table"]: "trigger" for each in advised}}
        running.write()
        running.command("init")
        running.start()
        for way, text in WAYS.items():
            k = made.block()
            with made.connect() as client:
                client.execute(text.format(k=k))
                found = {table for table, kind, _ in made.entries() if kind == "t"}
            # A key changes, on 16; inheritance, which has no trigger form; and rows that have no key.
            assert found <= {"part", "animal", "dog", "log", "log_part", "log_triggered"}, (way, found)
        made.assert_equal()
        assert running.status()["capture_misses"] == {}
