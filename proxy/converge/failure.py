"""What a refusal means for the pass: pure, decided by SQLSTATE.

    ROW     some row cannot be stored there: split until it stands alone
    TABLE   no row of this table can: pause the table, everything else goes on
    RETRY   nothing is wrong, two transactions met: the same again
    LINK    the cluster or the network: stop the pass, try it again later

Source: PostgreSQL manual, appendix "Error Codes"; the first two characters are the class.
"""

from __future__ import annotations

from enum import Enum, auto

import asyncpg

from proxy.converge.rows import SourceRefused


class Meaning(Enum):
    """See the module."""

    ROW = auto()
    TABLE = auto()
    RETRY = auto()
    LINK = auto()


class Stricter(Exception):
    """The target's constraints do not allow what the source really holds."""


class Rewritten(Exception):
    """The table was rewritten or truncated since the snapshot, which now finds it empty."""

    def __init__(self, text: str, table_id: int) -> None:
        super().__init__(text)
        self.table_id = table_id


class Changed(Exception):
    """The table's columns are not those the plan was made from."""


class Moved(Exception):
    """A row appended to a keyless table is not where it was."""


REFUSALS = (asyncpg.PostgresError, SourceRefused, Stricter, Changed, Rewritten, Moved)
"""What an attempt may raise that has a `meaning`."""

_ROW_CLASSES = {"21", "22", "23", "38", "39", "44", "54", "P0", "XX"}
_TABLE_CLASSES = {"0A", "0L", "2B", "2F", "3F", "42", "55"}
_RETRY_STATES = {"40001", "40P01", "55P03"}

UNIQUE_VIOLATION = "23505"
EXCLUSION_VIOLATION = "23P01"


def meaning(error: Exception) -> Meaning:
    """Return what to do about an error."""
    if isinstance(error, SourceRefused):
        return meaning(error.cause)
    if isinstance(error, Stricter | Moved):
        return Meaning.ROW
    if isinstance(error, Changed):
        return Meaning.TABLE
    if isinstance(error, Rewritten):
        return Meaning.RETRY
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    if not state:
        return Meaning.LINK
    if state in _RETRY_STATES:
        return Meaning.RETRY
    if state[:2] in _ROW_CLASSES:
        return Meaning.ROW
    return Meaning.TABLE if state[:2] in _TABLE_CLASSES else Meaning.LINK


def moved_table(error: Exception) -> int | None:
    """Return which table of the source is not what it was in the snapshot; the next one knows."""
    if isinstance(error, Rewritten):
        return error.table_id
    gone = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
    return error.table_id if isinstance(error, SourceRefused) and isinstance(error.cause, gone) else None


def sentence(error: Exception) -> str:
    """Return an error as one line for the ledger, the console and the log."""
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split())
    return f"{text} ({state})" if state else text or type(error).__name__
