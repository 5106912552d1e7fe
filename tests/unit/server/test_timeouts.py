"""Who takes too long, and since when: what a client did since the last look starts the time anew."""

from __future__ import annotations

import pytest

from proxy.config.serving import Timeouts
from proxy.errors import ProxyError
from proxy.server.timeouts import NONE, look, overdue

IDLE, IN_TRANSACTION = ord("I"), ord("T")
ALL = Timeouts(query=10, idle_transaction=20, client_idle=30)


class Client:
    """A client that does what a test says."""

    def __init__(self) -> None:
        self.was_heard = True
        self.mood = (True, 0)
        self.quiet_since_s = 0.0
        self.now_doing = (True, IDLE)
        self.ended: list[ProxyError] = []

    def doing(self) -> tuple[bool, int]:
        return self.now_doing

    def end(self, problem: ProxyError) -> None:
        self.ended.append(problem)


@pytest.mark.parametrize(
    ("mood", "limit_s", "sqlstate"),
    [
        ((False, IDLE), 10, "57014"),
        ((False, IN_TRANSACTION), 10, "57014"),
        ((True, IN_TRANSACTION), 20, "25P03"),
        ((True, ord("E")), 20, "25P03"),
        ((True, IDLE), 30, "57P05"),
    ],
)
def test_each_state_has_its_limit(mood: tuple[bool, int], limit_s: int, sqlstate: str) -> None:
    assert overdue(ALL, mood, limit_s) is None
    problem = overdue(ALL, mood, limit_s + 1)
    assert problem is not None and (problem.sqlstate, problem.severity) == (sqlstate, "FATAL")
    assert overdue(NONE, mood, 1e9) is None


def test_only_who_stays_quiet_in_one_state_is_ended() -> None:
    client = Client()
    look(client, ALL, 100.0)
    client.now_doing = (False, IDLE)  # a statement
    look(client, ALL, 131.0)
    look(client, ALL, 141.0)
    assert not client.ended
    client.now_doing = (True, IDLE)  # answered: the pause begins only now
    look(client, ALL, 142.0)
    client.was_heard = True
    look(client, ALL, 171.0)
    look(client, ALL, 201.0)
    assert not client.ended
    look(client, ALL, 202.0)
    assert len(client.ended) == 1
