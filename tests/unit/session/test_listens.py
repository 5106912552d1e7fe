"""What a session listens to is what PostgreSQL would say: transactions decide, not statements."""

from __future__ import annotations

import pytest

from proxy.session.listens import Listens
from proxy.sql.classify import parse


def listens(*transactions: str, is_last_failed: bool = False) -> Listens:
    found = Listens()
    for number, text in enumerate(transactions, start=1):
        for statement in parse(text):
            found.note(statement)
        found.transaction_ended(is_committed=not (is_last_failed and number == len(transactions)))
    return found


@pytest.mark.parametrize(
    ("transactions", "channels"),
    [
        (["LISTEN a", "LISTEN B", "LISTEN a"], "a b"),
        (['LISTEN "A b"'], "A b"),
        (["LISTEN a; LISTEN b", "UNLISTEN a"], "b"),
        (["LISTEN a; LISTEN b", "UNLISTEN *"], ""),
        (["LISTEN a", "DISCARD ALL"], ""),
        (["BEGIN; LISTEN a; COMMIT"], "a"),
        (["BEGIN; LISTEN a; ROLLBACK"], ""),
        (["LISTEN a", "BEGIN; UNLISTEN *; LISTEN b; ROLLBACK"], "a"),
        (["BEGIN; LISTEN a; SAVEPOINT s; LISTEN b; UNLISTEN a; ROLLBACK TO s; LISTEN c; COMMIT"], "a c"),
        (["BEGIN; SAVEPOINT s; LISTEN b; RELEASE s; COMMIT"], "b"),
        (["BEGIN; SAVEPOINT s; LISTEN b; ROLLBACK TO s; ROLLBACK TO s; COMMIT"], ""),
    ],
)
def test_channels(transactions: list[str], channels: str) -> None:
    assert " ".join(sorted(listens(*transactions).channels)) == channels


def test_a_transaction_that_failed_changes_nothing() -> None:
    found = listens("LISTEN a", "UNLISTEN a; LISTEN b", is_last_failed=True)
    assert found.channels == {"a"} and found.is_clean and not found.has_changed


def test_in_a_transaction_its_end_must_be_known() -> None:
    found = listens("LISTEN a")
    for statement in parse("BEGIN; LISTEN b"):
        found.note(statement)
    assert not found.is_clean and found.has_changed


def test_the_script_says_the_names_as_they_are() -> None:
    assert listens('LISTEN b; LISTEN "A ""b"""').script() == ['LISTEN "A ""b"""', 'LISTEN "b"']
