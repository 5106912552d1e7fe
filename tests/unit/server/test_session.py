"""Sessions on shared servers: what one client does never reaches another, whatever happens when."""

from __future__ import annotations

import pytest

from proxy.routing.policy import Side
from proxy.wire import messages
from proxy.wire.frames import Frame, encode
from tests.unit.server.sample import FLUSH, SYNC, bind, frames, parse
from tests.unit.server.talk import CONFIGURATION, NEW, OLD, OLD_REPLICA, Proxy, Talker
from tests.unit.upstream.sample import settled
from tests.unit.wire.sample import NOTICE, NOTIFICATION, READY, ROW, column, complete, description, failure

SELECT, WRITE = messages.query(b"SELECT * FROM a"), messages.query(b"DELETE FROM aside")
IN_TRANSACTION, FAILED = messages.ready(ord("T")), messages.ready(ord("E"))
DESCRIPTION = encode(b"T", description(column(b"id", 23)))
ROWS = DESCRIPTION + ROW + complete("SELECT 1") + READY
DELETED = complete("DELETE 1") + READY
EXECUTE = messages.execute()
COPY_IN = encode(b"G", b"\0\0\0")


@pytest.fixture
async def proxy() -> Proxy:
    return Proxy()


async def ask(proxy: Proxy, talker: Talker, *request: bytes, answer: bytes) -> list[Frame]:
    """Send a request and play its answer; return what the server got for it."""
    await talker.send(*request)
    received = proxy.server.received()
    proxy.server.answer(answer)
    await settled()
    return received


def error_of(frame: Frame) -> dict[str, str]:
    assert frame.code == ord("E")
    return messages.read_error(frame.body)


# One request.


@pytest.mark.parametrize(("request_", "answer"), [(SELECT, ROWS), (WRITE, DELETED)])
async def test_a_request_goes_out_as_it_came_and_its_server_comes_back(
    proxy: Proxy, request_: bytes, answer: bytes
) -> None:
    talker = await proxy.connect()
    for _ in range(3):  # the first time it is judged, then the fast lane knows it
        assert await ask(proxy, talker, request_, answer=answer) == frames(request_)
        assert talker.seen() == answer
        assert proxy.idle_count() == 1
    assert len(proxy.database.opened) == 1


async def test_a_request_in_pieces_is_one_request(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, SELECT, answer=ROWS)
    talker.seen()
    for at in range(len(SELECT)):
        await talker.send(SELECT[at : at + 1])
    assert proxy.server.received() == frames(SELECT)
    for at in range(len(ROWS)):
        proxy.server.answer(ROWS[at : at + 1])
    assert talker.seen() == ROWS


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("behind", [NOTIFICATION, NOTICE, messages.parameter_status("TimeZone", "UTC")])
async def test_what_arrives_right_behind_an_answer_does_not_hang_the_session(
    proxy: Proxy, rounds: int, behind: bytes
) -> None:
    talker = await proxy.connect()
    for _ in range(rounds):
        await ask(proxy, talker, SELECT, answer=ROWS + behind)
    assert proxy.idle_count() == 1
    assert talker.seen() == (ROWS + behind) * rounds


async def test_requests_in_one_packet_are_answered_in_their_order(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await talker.send(SELECT, WRITE, SELECT)
    for request, answer in ((SELECT, ROWS), (WRITE, DELETED), (SELECT, ROWS)):
        assert proxy.server.received() == frames(request)
        proxy.server.answer(answer)
    assert talker.seen() == ROWS + DELETED + ROWS


async def test_a_transaction_stays_on_its_server_and_others_wait_for_its_end(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    await ask(proxy, one, messages.query(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
    await other.send(SELECT)
    assert proxy.server.received() == []
    await ask(proxy, one, SELECT, answer=ROWS[:-6] + IN_TRANSACTION)
    assert proxy.server.received() == []
    await ask(proxy, one, messages.query(b"COMMIT"), answer=complete("COMMIT") + READY)
    assert proxy.server.received() == frames(SELECT)
    proxy.server.answer(ROWS)
    assert other.seen() == ROWS


# Who pays for whom.


async def test_a_client_that_breaks_the_protocol_behind_a_query_ends_alone(proxy: Proxy) -> None:
    """What it sent is read when its query is answered: by then its server may be another's."""
    broken, innocent = await proxy.connect(), await proxy.connect()
    await broken.send(SELECT, encode(b"?", b"what"))
    await innocent.send(SELECT)
    proxy.server.received()
    proxy.server.answer(ROWS)
    await settled()
    *answer, error = broken.seen_frames()
    assert b"".join(frame.encode() for frame in answer) == ROWS
    assert error_of(error)["C"] == "08P01" and broken.transport.is_closed
    assert not proxy.server.transport.is_closed
    assert proxy.server.received() == frames(SELECT)
    proxy.server.answer(ROWS)
    assert innocent.seen() == ROWS


@pytest.mark.parametrize("answer", [b"", ROWS[:10], ROWS[:-3]])
async def test_a_client_that_leaves_in_the_middle_takes_its_server_along(proxy: Proxy, answer: bytes) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    await one.send(SELECT)
    first = proxy.server
    first.answer(answer)
    await other.send(SELECT)
    await one.leave()
    assert proxy.database.cancels.told == [first.connection]
    assert first.transport.is_closed
    assert proxy.server is not first and proxy.server.received() == frames(SELECT)


async def test_a_client_that_leaves_in_its_transaction_takes_its_server_along(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, messages.query(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
    await talker.leave()
    assert proxy.server.transport.is_closed and proxy.idle_count() == 0


async def test_a_client_that_leaves_between_requests_leaves_its_server(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, SELECT, answer=ROWS)
    await talker.leave()
    assert proxy.idle_count() == 1 and not proxy.database.cancels.told


async def test_goodbye_is_a_way_to_leave(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await talker.send(messages.TERMINATE)
    assert talker.transport.is_closed and not proxy.database.sessions


@pytest.mark.parametrize("is_slow_path", [True, False])
async def test_a_read_whose_server_is_lost_is_asked_elsewhere_and_a_write_is_not(
    proxy: Proxy, is_slow_path: bool
) -> None:
    talker = await proxy.connect()
    if not is_slow_path:
        await ask(proxy, talker, SELECT, answer=ROWS)
        await ask(proxy, talker, WRITE, answer=DELETED)
        talker.seen()
    await talker.send(SELECT)
    first = proxy.server
    first.received()
    first.connection.connection_lost(None)
    await settled()
    assert proxy.server is not first
    assert proxy.server.received() == frames(SELECT)
    proxy.server.answer(ROWS)
    assert talker.seen() == ROWS
    await talker.send(WRITE)
    proxy.server.connection.connection_lost(None)
    await settled()
    assert error_of(talker.seen_frames()[0])["C"] == "08006" and talker.transport.is_closed


async def test_a_read_of_which_something_was_seen_cannot_be_asked_elsewhere(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await talker.send(SELECT)
    proxy.server.answer(ROWS[:-10])
    proxy.server.connection.connection_lost(None)
    await settled()
    assert error_of(talker.seen_frames()[-1])["C"] == "08006"


@pytest.mark.parametrize("is_slow_path", [True, False])
@pytest.mark.parametrize("is_asked", [True, False])
async def test_the_last_words_of_a_server_are_the_last_that_its_client_gets(
    proxy: Proxy, is_asked: bool, is_slow_path: bool
) -> None:
    """asyncpg shows only the last error, and a second one says less."""
    talker = await proxy.connect()
    if not is_slow_path:
        await ask(proxy, talker, WRITE, answer=DELETED)
    await ask(proxy, talker, messages.query(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
    if is_asked:
        await talker.send(WRITE)
    talker.seen()
    said = failure("57P01", S="FATAL", V="FATAL")
    proxy.server.answer(said)
    proxy.server.connection.connection_lost(None)
    await settled()
    assert talker.seen() == said and talker.transport.is_closed


async def test_a_server_that_cannot_be_understood_is_lost(proxy: Proxy) -> None:
    talker = await proxy.connect()
    returning = messages.query(b"UPDATE a SET x = 1 RETURNING *")
    await talker.send(returning)
    proxy.server.answer(encode(b"T") + READY)
    await settled()
    assert error_of(talker.seen_frames()[-1])["C"] == "08006" and talker.transport.is_closed


# Settings.


async def test_settings_follow_their_client_and_no_other(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect(TimeZone="UTC")
    setting = messages.query(b"SET geqo TO off")
    assert await ask(proxy, one, setting, answer=complete("SET") + READY) == frames(setting)
    switching = messages.query(b'RESET "geqo";SET "timezone" TO \'UTC\'')
    received = await ask(proxy, other, SELECT, answer=complete("RESET") + complete("SET") + READY + ROWS)
    assert received == frames(switching, SELECT)
    assert other.seen() == ROWS
    assert await ask(proxy, other, SELECT, answer=ROWS) == frames(SELECT)
    back = messages.query(b'RESET "timezone";SET "geqo" TO \'off\'')
    assert await ask(proxy, one, SELECT, answer=complete("SET") + READY + ROWS) == frames(back, SELECT)


@pytest.mark.parametrize(
    ("end", "tag", "has_it"),
    [(b"COMMIT", "COMMIT", True), (b"ROLLBACK", "ROLLBACK", False), (b"COMMIT", "ROLLBACK", False)],
)
async def test_a_setting_is_kept_by_a_commit_that_committed(
    proxy: Proxy, end: bytes, tag: str, has_it: bool
) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    for text, answered in ((b"BEGIN", "BEGIN"), (b"SET geqo TO off", "SET")):
        await ask(proxy, one, messages.query(text), answer=complete(answered) + IN_TRANSACTION)
    await ask(proxy, one, messages.query(end), answer=complete(tag) + READY)
    await other.send(SELECT)
    expected = [messages.query(b'RESET "geqo"'), SELECT] if has_it else [SELECT]
    assert proxy.server.received() == frames(*expected)


async def test_a_computed_setting_is_asked_for_and_follows() -> None:
    proxy = Proxy(text=CONFIGURATION + "    mirror: {enabled: false}\n")
    one, other = await proxy.connect(), await proxy.connect()
    computed = messages.query(b"SELECT set_config('app.tenant', 'x' || 'y', false)")
    await one.send(computed)
    assert proxy.server.received() == frames(computed)
    proxy.server.answer(ROWS)
    assert proxy.server.received() == frames(
        messages.query(b"SELECT pg_catalog.current_setting('app.tenant', true)")
    )
    row = encode(b"D", b"\0\1\0\0\0\2xy")
    for part in (row[:8], row[8:] + complete("SELECT 1") + READY):  # the row comes in two packets
        proxy.server.answer(part)
    assert one.seen() == ROWS
    await ask(proxy, other, SELECT, answer=complete("RESET") + READY + ROWS)
    await one.send(SELECT)
    assert proxy.server.received() == frames(messages.query(b'SET "app"."tenant" TO \'xy\''), SELECT)


async def test_settings_that_a_server_refuses_end_the_session_and_the_server(proxy: Proxy) -> None:
    talker = await proxy.connect(geqo="nonsense")
    await talker.send(SELECT)
    proxy.server.answer(failure("22023") + READY)
    assert error_of(talker.seen_frames()[0])["C"] == "08006"
    await settled()
    assert talker.transport.is_closed and proxy.server.transport.is_closed


# Prepared statements.


async def test_a_part_that_needs_no_server_is_answered_before_its_sync(proxy: Proxy) -> None:
    """The server has the statement already, and to a Flush alone it says nothing."""
    talker = await proxy.connect()
    one = parse(b"one", "SELECT * FROM a")
    await ask(proxy, talker, one, SYNC, answer=messages.PARSE_COMPLETE + READY)
    talker.seen()
    await talker.send(parse(b"two", "SELECT * FROM a"), FLUSH)
    assert talker.seen() == messages.PARSE_COMPLETE
    await talker.send(encode(b"C", b"Sone\0"), FLUSH)
    assert talker.seen() == messages.CLOSE_COMPLETE
    await ask(proxy, talker, bind(b"two"), EXECUTE, SYNC, answer=messages.BIND_COMPLETE + ROWS[-20:])
    assert talker.seen() == messages.BIND_COMPLETE + ROWS[-20:]


async def test_an_unnamed_statement_that_our_settings_destroyed_is_parsed_again(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect(geqo="off")
    unnamed, execution = parse(b"", "SELECT * FROM a"), (bind(b""), EXECUTE, SYNC)
    done = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + complete("SELECT 0") + READY
    await ask(proxy, one, unnamed, *execution, answer=done)
    await ask(proxy, other, unnamed, *execution, answer=complete("SET") + READY + done)
    received = await ask(proxy, one, *execution, answer=complete("RESET") + READY + done)
    assert received == frames(messages.query(b'RESET "geqo"'), unnamed, *execution)


@pytest.mark.parametrize("error", [failure("42P01"), messages.PARSE_COMPLETE + failure("22012")])
async def test_an_unnamed_statement_whose_parse_may_have_failed_is_parsed_again(
    proxy: Proxy, error: bytes
) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    unnamed, execution = parse(b"", "SELECT * FROM a"), (bind(b""), EXECUTE, SYNC)
    done = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + complete("SELECT 0") + READY
    await ask(proxy, one, unnamed, *execution, answer=done)
    await ask(proxy, other, unnamed, *execution, answer=error + READY)
    assert await ask(proxy, one, *execution, answer=done) == frames(unnamed, *execution)


async def test_statements_a_server_has_too_many_of_are_dropped_between_transactions(proxy: Proxy) -> None:
    talker = await proxy.connect()
    for number in range(5):
        text = f"SELECT {number}, '{'x' * 1_000_000}'"
        received = await ask(
            proxy, talker, parse(b"%d" % number, text), SYNC, answer=messages.PARSE_COMPLETE + READY
        )
        assert [chr(frame.code) for frame in received] == ["P", "S"]
    talker.seen()
    answer = messages.CLOSE_COMPLETE * 2 + READY + ROWS
    received = await ask(proxy, talker, SELECT, WRITE, answer=answer)
    assert [chr(frame.code) for frame in received] == ["C", "C", "S", "Q"]
    assert talker.seen() == ROWS


# Cancels.


async def cancelled(proxy: Proxy, talker: Talker) -> None:
    """Cancel what a client runs; the cancel is on its way from now on."""
    proxy.database.cancels.arrive.clear()
    assert talker.connection.session is not None
    talker.connection.session.cancel()
    await settled()


@pytest.mark.parametrize("is_fast", [False, True])
async def test_a_cancel_that_comes_late_hits_nobody_else(proxy: Proxy, is_fast: bool) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    if is_fast:
        await ask(proxy, one, SELECT, answer=ROWS)
    await one.send(SELECT)
    await cancelled(proxy, one)
    proxy.server.received(), proxy.server.answer(ROWS)
    await other.send(SELECT)
    assert proxy.server.received() == []  # the pool is full, and its connection not yet free
    proxy.database.cancels.arrive.set()
    await settled()
    assert proxy.server.received() == frames(SELECT)
    assert proxy.database.cancels.told == [proxy.server.connection]


@pytest.mark.parametrize("is_pipelined", [False, True])
async def test_a_cancel_that_comes_late_does_not_hit_the_next_statement(
    proxy: Proxy, is_pipelined: bool
) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, messages.query(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
    await talker.send(*([SELECT, WRITE] if is_pipelined else [SELECT]))
    await cancelled(proxy, talker)
    assert proxy.server.received() == frames(SELECT)
    proxy.server.answer(ROWS[:-6] + IN_TRANSACTION)
    if not is_pipelined:
        await talker.send(WRITE)
    assert proxy.server.received() == []
    proxy.database.cancels.arrive.set()
    await settled()
    assert proxy.server.received() == frames(WRITE)


async def test_a_cancel_of_nothing_is_nothing(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, SELECT, answer=ROWS)
    await cancelled(proxy, talker)
    assert not proxy.database.cancels.told


# Waiting.


async def test_a_statement_that_waits_can_be_cancelled_and_the_session_goes_on(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    await one.send(SELECT)
    await other.send(parse(b"", "SELECT 1"), bind(b""), EXECUTE, SYNC)
    assert other.connection.session is not None
    other.connection.session.cancel()
    error, ready = other.seen_frames()
    assert (error_of(error)["C"], ready) == ("57014", Frame(ord("Z"), b"I"))
    assert not proxy.database.cancels.told
    proxy.server.answer(ROWS)
    await ask(proxy, other, SELECT, answer=ROWS)
    assert other.seen() == ROWS


async def test_a_wait_that_took_too_long_is_an_error_and_the_session_goes_on(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    await one.send(SELECT)
    await other.send(SELECT)
    (pool,) = proxy.database._pools.values()
    pool.wait_s = -1.0  # as if time had passed
    pool.tend(idle_s=60, lifetime_s=600)
    error, ready = other.seen_frames()
    assert (error_of(error)["C"], ready) == ("53300", Frame(ord("Z"), b"I"))
    proxy.server.answer(ROWS)
    await ask(proxy, other, SELECT, answer=ROWS)
    assert other.seen() == ROWS


async def test_while_writes_are_held_reads_go_on_and_writes_wait_for_the_new_authority(proxy: Proxy) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    for talker in (one, other):  # known to the fast lane
        await ask(proxy, talker, WRITE, answer=DELETED)
        await ask(proxy, talker, SELECT, answer=ROWS)
        talker.seen()
    hold = proxy.database.hold
    hold.begin(limit_s=3600)
    await one.send(WRITE)
    assert hold.queued_count == 1 and proxy.server.received() == []
    await ask(proxy, other, SELECT, answer=ROWS)
    assert other.seen() == ROWS
    old = proxy.server
    proxy.database.move_authority(Side.NEW, 1)
    hold.end()
    await settled()
    assert (proxy.server.place, proxy.server.received()) == (NEW, frames(WRITE))
    assert old.received() == []
    proxy.server.answer(DELETED)
    assert one.seen() == DELETED
    assert hold.writers_count == 0


@pytest.mark.parametrize("rounds", [0, 1])
async def test_a_write_behind_the_fence_is_run_on_the_new_authority(proxy: Proxy, rounds: int) -> None:
    looked: list[str] = []
    proxy.database.on_doubt = lambda: looked.append("somebody looks")
    talker = await proxy.connect()
    for _ in range(rounds):
        await ask(proxy, talker, WRITE, answer=DELETED)
        talker.seen()
    await ask(proxy, talker, WRITE, answer=failure("CF001") + READY)
    assert looked and proxy.database.hold.is_on and talker.seen() == b""
    proxy.database.move_authority(Side.NEW, 1)
    proxy.database.hold.end()
    await settled()
    assert (proxy.server.place, proxy.server.received()) == (NEW, frames(WRITE))
    proxy.server.answer(DELETED)
    assert talker.seen() == DELETED


async def test_inside_a_transaction_the_fence_means_to_run_it_again(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, messages.query(b"BEGIN"), answer=complete("BEGIN") + IN_TRANSACTION)
    talker.seen()
    await ask(proxy, talker, messages.query(b"DELETE FROM a"), answer=failure("CF001") + FAILED)
    error, ready = talker.seen_frames()
    assert (error_of(error)["C"], ready) == ("40001", Frame(ord("Z"), b"E"))


async def test_a_read_that_a_replica_refuses_as_a_write_is_run_on_the_authority(proxy: Proxy) -> None:
    replica = proxy.database.servers[OLD_REPLICA]
    replica.is_up, replica.fresh_until_s = True, 1e12
    talker = await proxy.connect()
    await talker.send(SELECT)
    assert proxy.server.place == OLD_REPLICA
    proxy.server.answer(failure("25006") + READY)
    await settled()
    assert proxy.server.place == OLD
    assert talker.seen() == b""
    assert not proxy.database.judge.judge("SELECT * FROM a", ("app", "public")).is_read


async def test_a_read_that_the_authority_refuses_as_a_write_is_run_there_as_one(proxy: Proxy) -> None:
    talker = await proxy.connect()
    for _ in range(2):  # as a request, then on the fast lane
        await ask(proxy, talker, SELECT, answer=ROWS)
    talker.seen()
    await talker.send(SELECT)
    proxy.server.answer(failure("25006") + READY)
    await settled()
    assert talker.seen() == b""
    assert proxy.server.transport.written.startswith(messages.query(b'RESET "default_transaction_read_only"'))
    assert not proxy.database.judge.judge("SELECT * FROM a", ("app", "public")).is_read


@pytest.mark.parametrize("rounds", [0, 1])
async def test_a_read_that_is_refused_in_the_middle_is_a_write_from_then_on(
    proxy: Proxy, rounds: int
) -> None:
    """What the client has seen cannot be taken back; it gets the error, once."""
    talker = await proxy.connect()
    for _ in range(rounds):
        await ask(proxy, talker, SELECT, answer=ROWS)
    await ask(proxy, talker, SELECT, answer=DESCRIPTION + ROW)
    proxy.server.answer(failure("25006") + READY)
    assert error_of(talker.seen_frames()[-2])["C"] == "25006"
    assert not proxy.database.judge.judge("SELECT * FROM a", ("app", "public")).is_read


async def test_what_a_client_says_of_read_only_holds_for_its_writes_alone(proxy: Proxy) -> None:
    talker = await proxy.connect(default_transaction_read_only="off")
    await ask(proxy, talker, SELECT, answer=ROWS)
    assert proxy.server.connection.applied.values["default_transaction_read_only"] == "on"


# COPY FROM STDIN.


async def test_copy_data_are_relayed_as_they_come_until_the_copy_is_over(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, messages.query(b"COPY aside FROM STDIN"), answer=COPY_IN)
    data = encode(b"d", b"1\n") * 3 + encode(b"c")
    for at in range(len(data)):
        await talker.send(data[at : at + 1])
    assert proxy.server.received() == frames(data)
    proxy.server.answer(complete("COPY 3") + READY)
    assert talker.seen() == COPY_IN + complete("COPY 3") + READY
    await ask(proxy, talker, SELECT, answer=ROWS)
    assert talker.seen() == ROWS


async def test_a_server_that_gives_up_a_copy_gets_the_rest_of_the_message_before_anything_else(
    proxy: Proxy,
) -> None:
    one, other = await proxy.connect(), await proxy.connect()
    await ask(proxy, one, messages.query(b"COPY aside FROM STDIN"), answer=COPY_IN)
    row = encode(b"d", bytes(100))
    await one.send(row[:50])
    await other.send(SELECT)
    proxy.server.answer(failure("22P02") + READY)
    assert proxy.idle_count() == 0
    await one.send(row[50:])
    assert proxy.server.received() == frames(row, SELECT)
    proxy.server.answer(ROWS)
    assert other.seen() == ROWS
    await one.send(encode(b"f", b"given up\0"), SELECT)
    assert proxy.server.received() == frames(SELECT)


@pytest.mark.parametrize("next_", [SELECT, messages.describe_statement(b"s") + SYNC])
async def test_what_follows_a_copy_in_one_packet_is_the_next_request(proxy: Proxy, next_: bytes) -> None:
    talker = await proxy.connect()
    await ask(proxy, talker, parse(b"s", "SELECT * FROM a"), SYNC, answer=messages.PARSE_COMPLETE + READY)
    await ask(proxy, talker, messages.query(b"COPY aside FROM STDIN"), answer=COPY_IN)
    talker.seen()
    await talker.send(encode(b"d", b"1\n"), encode(b"c"), next_)
    assert proxy.server.received() == frames(encode(b"d", b"1\n"), encode(b"c"))
    proxy.server.answer(complete("COPY 1") + READY)
    assert [frame.code for frame in proxy.server.received()] == [frame.code for frame in frames(next_)]


# Flow.


async def test_a_slow_client_stops_its_server_and_a_slow_server_its_client(proxy: Proxy) -> None:
    talker = await proxy.connect()
    await talker.send(SELECT)
    talker.connection.pause_writing()
    assert proxy.server.transport.is_paused
    talker.connection.resume_writing()
    assert not proxy.server.transport.is_paused
    proxy.server.connection.pause_writing()
    assert talker.transport.is_paused
    talker.connection.pause_writing()
    proxy.server.answer(ROWS)  # the end of the request frees both
    assert not proxy.server.transport.is_paused and not talker.transport.is_paused


async def test_a_session_between_transactions_ends_when_the_proxy_does(proxy: Proxy) -> None:
    idle, busy = await proxy.connect(), await proxy.connect()
    await busy.send(SELECT)
    for talker in (idle, busy):
        assert talker.connection.session is not None
        talker.connection.session.shut_down("the proxy shuts down")
    assert error_of(idle.seen_frames()[0])["C"] == "57P01" and idle.transport.is_closed
    assert not busy.transport.is_closed
