"""What a refusal means."""

from __future__ import annotations

import asyncpg
import pytest

from proxy.converge.failure import Changed, Meaning, Moved, Rewritten, Stricter, meaning, sentence
from proxy.converge.rows import SourceRefused


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncpg.CheckViolationError("x"), Meaning.ROW),
        (asyncpg.UniqueViolationError("x"), Meaning.ROW),
        (asyncpg.InvalidTextRepresentationError("x"), Meaning.ROW),
        (asyncpg.RaiseError("x"), Meaning.ROW),
        (asyncpg.UndefinedColumnError("x"), Meaning.TABLE),
        (asyncpg.InsufficientPrivilegeError("x"), Meaning.TABLE),
        (asyncpg.DeadlockDetectedError("x"), Meaning.RETRY),
        (asyncpg.SerializationError("x"), Meaning.RETRY),
        (asyncpg.LockNotAvailableError("x"), Meaning.RETRY),
        (asyncpg.DiskFullError("x"), Meaning.LINK),
        (asyncpg.AdminShutdownError("x"), Meaning.LINK),
        (asyncpg.ReadOnlySQLTransactionError("x"), Meaning.LINK),
        (asyncpg.InterfaceError("closed"), Meaning.LINK),
        (OSError("reset"), Meaning.LINK),
        (TimeoutError(), Meaning.LINK),
        (SourceRefused(asyncpg.InvalidTextRepresentationError("x")), Meaning.ROW),
        (SourceRefused(OSError("reset")), Meaning.LINK),
        (Stricter("x"), Meaning.ROW),
        (Moved("x"), Meaning.ROW),
        (Changed("x"), Meaning.TABLE),
        (Rewritten("x", 7), Meaning.RETRY),
    ],
)
def test_meaning(error: Exception, expected: Meaning) -> None:
    assert meaning(error) is expected


def test_sentence_is_one_line_with_the_sqlstate() -> None:
    assert sentence(asyncpg.CheckViolationError("a\n b")) == "a b (23514)"
    assert sentence(TimeoutError()) == "TimeoutError"
