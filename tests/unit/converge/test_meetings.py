"""Which refused passes are tried again as they are, and without which table."""

from __future__ import annotations

import asyncpg

from proxy.converge.failure import Changed, Rewritten
from proxy.converge.meetings import COUNT_MAX, Meetings
from proxy.converge.rows import SourceRefused

DROPPED = SourceRefused(asyncpg.UndefinedTableError("relation does not exist"), 7)


def test_a_table_that_moved_is_left_out_once() -> None:
    meetings = Meetings()
    assert meetings.refused(Rewritten("x", 5)) and meetings.refused(DROPPED)
    assert meetings.left_out == {5, 7}
    meetings.passed([1, 2])
    assert meetings.left_out == set()


def test_one_that_moves_all_the_time_holds_nothing_up_for_ever() -> None:
    meetings = Meetings()
    for _ in range(COUNT_MAX):
        assert meetings.refused(DROPPED)
        meetings.passed([1])  # without it
    assert not meetings.refused(DROPPED)
    assert meetings.left_out == set()
    meetings.passed([1, 7])
    assert meetings.refused(DROPPED)


def test_a_lock_holds_nothing_up_for_ever() -> None:
    meetings = Meetings()
    met = asyncpg.DeadlockDetectedError("deadlock detected")
    assert [meetings.refused(met) for _ in range(COUNT_MAX + 1)] == [True] * COUNT_MAX + [False]
    meetings.passed([])
    assert meetings.refused(met)


def test_what_no_other_snapshot_would_change_is_not_tried_again() -> None:
    meetings = Meetings()
    assert not meetings.refused(Changed("the columns differ"))
    assert not meetings.refused(asyncpg.CheckViolationError("refused"))
    assert not meetings.refused(SourceRefused(asyncpg.InsufficientPrivilegeError("no"), 7))
    assert not meetings.refused(SourceRefused(asyncpg.UndefinedTableError("where")))
