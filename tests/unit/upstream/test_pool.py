"""The pool: bounded, fair, and no connection is ever lost or lent in an unknown state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import PoolTimeout, ProxyError, UpstreamRefused
from proxy.session.settings import NONE, Settings
from proxy.upstream.connection import ServerConnection, ServerRefusal
from proxy.upstream.pool import Pool
from tests.unit.upstream.sample import Clock, FakeServer, settled

SIZE, WAIT_S, IDLE_S, LIFETIME_S = 3, 10.0, 60.0, 300.0


class Waiter:
    """A session that notes what it was told, and never twice."""

    def __init__(self) -> None:
        self.server: FakeServer | None = None
        self.problem: ProxyError | None = None

    @property
    def is_told(self) -> bool:
        return self.server is not None or self.problem is not None

    def server_granted(self, server: Any) -> None:
        assert not self.is_told
        assert server.is_usable and not server.cancels_count
        self.server = server

    def server_refused(self, problem: ProxyError) -> None:
        assert not self.is_told
        self.problem = problem


class Opener:
    """Opens connections when a test says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pending: list[asyncio.Future[FakeServer]] = []
        self.made: list[FakeServer] = []

    def __call__(self) -> Awaitable[ServerConnection]:
        future: asyncio.Future[FakeServer] = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        return cast(Awaitable[ServerConnection], future)

    def succeed(self) -> FakeServer:
        server = FakeServer(self.clock())
        self.made.append(server)
        self.pending.pop(0).set_result(server)
        return server

    def fail(self, problem: ProxyError) -> None:
        self.pending.pop(0).set_exception(problem)


UNREACHABLE = UpstreamRefused("cannot connect", hint="look")
WRONG_PASSWORD = ServerRefusal({"C": "28P01", "M": "password authentication failed"})


def make_pool(opener: Opener, *, is_optional: bool = False, size: int = SIZE, **others: Any) -> Pool:
    others = {"jitter": lambda: 1.0, **others}
    return Pool(opener, size_max=size, wait_s=WAIT_S, is_optional=is_optional, clock=opener.clock, **others)


def ask(pool: Pool) -> Waiter:
    """Get a connection as a session does: at once, or by waiting."""
    waiter = Waiter()
    server = pool.take()
    if server is not None:
        waiter.server_granted(server)
    else:
        pool.wait(waiter)
    return waiter


def give_back(pool: Pool, waiter: Waiter) -> None:
    assert waiter.server is not None
    pool.release(cast(ServerConnection, waiter.server))


def tend(pool: Pool) -> None:
    pool.tend(idle_s=IDLE_S, lifetime_s=LIFETIME_S)


class EveryDay(RuleBasedStateMachine):
    """Sessions, failures, cancels and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.opener = Opener(self.clock)
        self.pool = make_pool(self.opener)
        self.waiting: list[Waiter] = []  # oldest first
        self.lent: list[Waiter] = []
        self.cancelled: list[FakeServer] = []  # with a cancel on its way, lent or not

    def run(self, *calls: Any) -> None:
        """Make calls inside the loop, then let everything run that is due."""

        async def inside() -> None:
            for function, *arguments in calls:
                function(*arguments)
            await settled()

        self.loop.run_until_complete(inside())
        granted = [waiter for waiter in self.waiting if waiter.server is not None]
        told = [waiter for waiter in self.waiting if waiter.is_told]
        assert told == self.waiting[: len(told)], "somebody was served before somebody older"
        self.waiting = self.waiting[len(told) :]
        self.lent += granted

    @rule()
    def come(self) -> None:
        waiter = Waiter()

        def call() -> None:
            server = self.pool.take()
            if server is None:
                self.waiting.append(waiter)
                self.pool.wait(waiter)
            else:
                assert not self.waiting, "the queue was jumped"
                waiter.server_granted(server)
                self.lent.append(waiter)

        self.run((call,))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def lose_patience(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        self.run((self.pool.leave, waiter))
        assert not waiter.is_told

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), is_usable=st.booleans(), is_between=st.booleans(), is_cancelled=st.booleans())
    def finish(self, data: st.DataObject, is_usable: bool, is_between: bool, is_cancelled: bool) -> None:
        waiter = data.draw(st.sampled_from(self.lent))
        self.lent.remove(waiter)
        server = waiter.server
        assert server is not None
        server.is_usable, server.is_between_messages = is_usable, is_between
        if is_cancelled:
            server.cancels_count += 1
            self.cancelled.append(server)
        self.run((give_back, self.pool, waiter))
        if is_cancelled:
            assert not server.is_closed and server not in [each.server for each in self.lent]
        elif not (is_usable and is_between):
            assert server.is_closed

    @precondition(lambda self: self.cancelled)
    @rule(has_arrived=st.booleans())
    def cancel_ends(self, has_arrived: bool) -> None:
        server = self.cancelled.pop(0)
        server.cancels_count -= 1
        if not has_arrived:
            server.is_usable = False
        if server.on_cancelled is not None:
            self.run((server.on_cancelled,))

    @precondition(lambda self: self.opener.pending)
    @rule(problem=st.sampled_from([None, None, None, UNREACHABLE, WRONG_PASSWORD]))
    def opening_ends(self, problem: ProxyError | None) -> None:
        self.run((self.opener.succeed,) if problem is None else (self.opener.fail, problem))

    @precondition(lambda self: self.idle())
    @rule()
    def an_idle_one_dies(self) -> None:
        self.idle()[0].die()

    @rule(seconds=st.sampled_from([0.1, 2.0, 11.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.run((tend, self.pool))

    def idle(self) -> list[FakeServer]:
        busy = [waiter.server for waiter in self.lent] + self.cancelled
        return [server for server in self.opener.made if not server.is_closed and server not in busy]

    @invariant()
    def never_more_than_the_size(self) -> None:
        told = self.pool.statistics()
        assert told.lent + told.idle + told.opening <= SIZE
        assert len([server for server in self.opener.made if not server.is_closed]) <= SIZE
        assert told.opening == len(self.opener.pending)

    @invariant()
    def what_is_counted_is_there(self) -> None:
        told = self.pool.statistics()
        returning = [server for server in self.cancelled if server.on_cancelled is not None]
        assert told.lent == len(self.lent) + len(returning)
        assert told.waiting == len(self.waiting)
        owned = [waiter.server for waiter in self.lent]
        assert len(owned) == len({id(server) for server in owned}), "lent twice"

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        if self.waiting:
            assert not any(server.is_usable for server in self.idle())

    def teardown(self) -> None:
        """Whatever happened, all slots are still there."""
        for waiter in self.lent:
            self.run((give_back, self.pool, waiter))
        self.lent.clear()
        while self.cancelled:
            self.cancel_ends(True)
        while self.waiting or self.opener.pending:
            if self.opener.pending:
                self.opening_ends(None)
            for waiter in self.lent:
                self.run((give_back, self.pool, waiter))
            self.lent.clear()
            self.time_passes(2.0)
        self.time_passes(2.0)  # the last refusal is forgotten
        for _ in range(SIZE):
            self.come()
        while self.opener.pending:
            self.opening_ends(None)
        assert len(self.lent) == SIZE
        self.loop.close()


EveryDay.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestEveryDay = EveryDay.TestCase


@pytest.fixture
def opener() -> Opener:
    return Opener(Clock())


async def test_first_come_first_served(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    first = ask(pool)
    await settled()
    opener.succeed()
    await settled()
    queue = [ask(pool) for _ in range(3)]
    for waiter, after in zip([first, *queue], queue, strict=False):
        give_back(pool, waiter)
        assert after.server is first.server
        assert [each.is_told for each in queue] == [queue.index(each) <= queue.index(after) for each in queue]


async def test_who_comes_while_others_wait_gets_nothing_at_once(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    waiter = ask(pool)
    await settled()
    opener.succeed()
    await settled()
    second = ask(pool)
    assert pool.take() is None
    give_back(pool, waiter)
    assert second.server is waiter.server


async def test_the_most_recently_used_is_lent_first(opener: Opener) -> None:
    """So that those not needed grow old, and are closed."""
    pool = make_pool(opener)
    waiters = [ask(pool) for _ in range(3)]
    await settled()
    for _ in range(3):
        opener.succeed()
    await settled()
    for waiter in waiters:
        give_back(pool, waiter)
    assert pool.take() is waiters[-1].server


READING = NONE.reading
OTHER = Settings.of({"geqo": "off"})


async def test_a_connection_with_the_right_settings_is_lent_before_one_without(opener: Opener) -> None:
    pool = make_pool(opener)
    waiters = [ask(pool) for _ in range(3)]
    await settled()
    for applied in (READING, NONE, NONE):
        opener.succeed().applied = applied
    await settled()
    for waiter in waiters:
        give_back(pool, waiter)
    assert pool.take(READING) is waiters[0].server
    assert pool.take(NONE) is waiters[2].server


async def test_where_reads_and_writes_take_turns_one_more_is_opened(opener: Opener) -> None:
    """Else each of them would change the mode of the only connection."""
    pool = make_pool(opener, size=2)
    waiter = ask(pool)
    await settled()
    opener.succeed().applied = OTHER.reading
    await settled()
    give_back(pool, waiter)
    assert pool.take(OTHER) is waiter.server
    assert pool.statistics().opening == 1
    give_back(pool, waiter)
    pool.take(OTHER)
    assert pool.statistics().opening == 1


async def test_as_many_are_opened_as_wait_and_no_more(opener: Opener) -> None:
    pool = make_pool(opener)
    ask(pool), ask(pool)
    assert pool.statistics().opening == 2
    for _ in range(5):
        ask(pool)
    assert pool.statistics().opening == SIZE


async def test_a_larger_size_takes_effect_and_a_smaller_one_opens_nothing(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    waiters = [ask(pool) for _ in range(2)]
    pool.size_max = 2
    tend(pool)
    await settled()
    assert len(opener.pending) == 2
    opener.succeed(), opener.succeed()
    await settled()
    pool.size_max = 1
    waiters.append(ask(pool))
    tend(pool)
    assert not opener.pending
    give_back(pool, waiters[0])
    assert waiters[2].server is waiters[0].server


async def test_a_wait_ends_when_it_took_too_long(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    ask(pool)
    opener.clock.now_s += 6
    late = ask(pool)
    opener.clock.now_s += 5
    assert pool.statistics().waited_s_max == 11
    tend(pool)
    assert not late.is_told
    opener.clock.now_s += 6
    tend(pool)
    assert isinstance(late.problem, PoolTimeout)
    assert str(late.problem) == "no server connection became free in 10 s"
    assert late.problem.sqlstate == "53300"


async def test_nobody_waited_while_the_process_did_not_run(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    ask(pool)
    opener.clock.now_s += 6
    late = ask(pool)
    opener.clock.now_s += 20
    pool.tend(idle_s=IDLE_S, lifetime_s=LIFETIME_S, asleep_s=19)
    assert not late.is_told
    opener.clock.now_s += 10
    tend(pool)
    assert isinstance(late.problem, PoolTimeout)


async def test_an_unreachable_authority_is_waited_for_and_its_failure_is_the_reason(opener: Opener) -> None:
    pool = make_pool(opener)
    waiter = ask(pool)
    await settled()
    opener.fail(UNREACHABLE)
    await settled()
    assert not waiter.is_told and not opener.pending
    opener.clock.now_s += 11
    tend(pool)
    assert isinstance(waiter.problem, UpstreamRefused)
    assert (str(waiter.problem), waiter.problem.hint) == ("cannot connect", "look")


async def test_opening_is_tried_again_ever_more_rarely_until_it_succeeds(opener: Opener) -> None:
    pool = make_pool(opener)
    waits_s = []
    waiter = ask(pool)
    for _ in range(7):
        await settled()
        opener.fail(UNREACHABLE)
        await settled()
        failed_s = opener.clock()
        while not pool.statistics().opening:
            opener.clock.now_s += 0.01
            tend(pool)
        waits_s.append(round(opener.clock() - failed_s, 2))
    assert waits_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    await settled()
    opener.succeed()
    await settled()
    assert waiter.server is not None


@pytest.mark.parametrize(("is_optional", "problem"), [(True, UNREACHABLE), (False, WRONG_PASSWORD)])
async def test_whoever_waits_in_vain_is_told_at_once(
    opener: Opener, is_optional: bool, problem: ProxyError
) -> None:
    """A read has the authority to go to; a wrong password stays wrong."""
    pool = make_pool(opener, is_optional=is_optional, size=1)
    waiters = [ask(pool), ask(pool)]
    await settled()
    opener.fail(problem)
    await settled()
    assert [waiter.problem for waiter in waiters] == [problem, problem]


async def test_a_cancel_on_its_way_keeps_the_connection_from_the_next_session(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    first = ask(pool)
    await settled()
    server = opener.succeed()
    await settled()
    second = ask(pool)
    server.cancels_count = 2
    give_back(pool, first)
    assert not second.is_told and pool.statistics().lent == 1
    for _ in range(2):
        assert not second.is_told
        server.cancels_count -= 1
        assert server.on_cancelled is not None
        server.on_cancelled()
    assert second.server is server and server.on_cancelled is None


async def test_a_connection_whose_state_is_not_known_is_closed_and_replaced(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    first = ask(pool)
    await settled()
    server = opener.succeed()
    await settled()
    second = ask(pool)
    server.is_between_messages = False
    give_back(pool, first)
    await settled()
    assert server.is_closed and not second.is_told
    assert opener.succeed() is not server
    await settled()
    assert second.server is not None


async def test_what_idles_or_lives_too_long_is_closed(opener: Opener) -> None:
    pool = make_pool(opener)
    waiter = ask(pool)
    await settled()
    server = opener.succeed()
    await settled()
    for _ in range(5):
        give_back(pool, waiter)
        opener.clock.now_s += IDLE_S - 1
        tend(pool)
        assert pool.statistics().idle == 1
        waiter = ask(pool)
        assert waiter.server is server
    give_back(pool, waiter)
    opener.clock.now_s += 10  # 305 s old, idle for 10
    tend(pool)
    assert server.is_closed and pool.statistics().idle == 0


async def test_an_idle_connection_that_died_is_not_lent(opener: Opener) -> None:
    pool = make_pool(opener)
    waiter = ask(pool)
    await settled()
    server = opener.succeed()
    await settled()
    give_back(pool, waiter)
    server.is_usable = False
    late = Waiter()
    pool.wait(late)
    assert not late.is_told and pool.statistics().idle == 0
    assert pool.take() is None


async def test_a_closed_pool_opens_nothing_and_closes_what_comes_back(opener: Opener) -> None:
    pool = make_pool(opener)
    waiters = [ask(pool) for _ in range(3)]
    await settled()
    opener.succeed(), opener.succeed()
    await settled()
    pool.leave(waiters[2])
    give_back(pool, waiters[0])
    pool.close()
    await settled()
    assert [server.is_closed for server in opener.made] == [True, False]
    assert opener.pending[0].cancelled()
    give_back(pool, waiters[1])
    assert opener.made[1].is_closed
    ask(pool)
    tend(pool)
    assert pool.statistics().opening == 0


async def test_whoever_waits_for_a_pool_that_is_closed_is_told(opener: Opener) -> None:
    pool = make_pool(opener, size=1)
    first = ask(pool)
    await settled()
    opener.succeed()
    await settled()
    second = ask(pool)
    pool.close()
    assert isinstance(second.problem, UpstreamRefused)
    give_back(pool, first)
    assert second.server is None


async def open_all(opener: Opener) -> None:
    """Let every connection succeed that is being opened."""
    while opener.pending:
        opener.succeed()
        await settled()


async def test_a_minimum_is_kept_open_once_there_was_a_connection(opener: Opener) -> None:
    pool = make_pool(opener, size_min=2)
    tend(pool)
    await settled()
    assert not opener.pending  # nobody has come yet
    give = ask(pool)
    await settled()
    await open_all(opener)
    give_back(pool, give)
    tend(pool)
    await settled()
    await open_all(opener)
    opener.clock.now_s += IDLE_S + 1
    tend(pool)
    assert pool.statistics().idle == 2
    opener.clock.now_s += LIFETIME_S
    tend(pool)  # too old: replaced
    await settled()
    assert (pool.statistics().idle, len(opener.pending)) == (0, 2)


async def test_what_idles_beyond_the_minimum_is_closed_oldest_first(opener: Opener) -> None:
    pool = make_pool(opener, size_min=1)
    waiters = [ask(pool) for _ in range(3)]
    await settled()
    await open_all(opener)
    for waiter in waiters:
        give_back(pool, waiter)
    opener.clock.now_s += IDLE_S + 1
    tend(pool)
    assert [server.is_closed for server in opener.made] == [True, True, False]


async def test_the_reserve_is_for_those_who_have_waited(opener: Opener) -> None:
    pool = make_pool(opener, size=1, reserve=1, reserve_timeout_s=5.0)
    waiters = [ask(pool) for _ in range(3)]
    await settled()
    await open_all(opener)
    tend(pool)
    await settled()
    assert not opener.pending
    opener.clock.now_s += 5
    tend(pool)
    await settled()
    await open_all(opener)
    assert [waiter.is_told for waiter in waiters] == [True, True, False]
    tend(pool)
    await settled()
    assert not opener.pending


async def test_a_server_that_has_no_more_to_spare_is_asked_for_none(opener: Opener) -> None:
    asked: list[bool] = []

    def spare(is_needed: bool) -> int:
        asked.append(is_needed)
        return 1 - pool.count

    pool = make_pool(opener, spare=spare)
    ask(pool), ask(pool)
    await settled()
    assert len(opener.pending) == 1 and all(asked)


async def test_the_connection_that_idles_longest_makes_room_for_another_pool(opener: Opener) -> None:
    pool = make_pool(opener)
    waiters = [ask(pool), ask(pool)]
    await settled()
    await open_all(opener)
    for waiter in waiters:
        opener.clock.now_s += 1
        give_back(pool, waiter)
    assert pool.idle_since_s == 101.0
    pool.evict()
    assert [server.is_closed for server in opener.made] == [True, False]
    assert pool.idle_since_s == 102.0 and not pool.is_forgettable
    pool.evict()
    assert pool.idle_since_s is None and pool.is_forgettable


async def test_pools_do_not_try_again_at_the_same_instant(opener: Opener) -> None:
    waits_s = []
    for part in (0.0, 0.5, 1.0):
        pool = make_pool(opener, jitter=lambda part=part: part)
        ask(pool)
        await settled()
        opener.fail(UNREACHABLE)
        await settled()
        waits_s.append(round(pool._retry_at_s - opener.clock(), 4))
    assert waits_s == [0.025, 0.0375, 0.05]
