"""A cancel key finds its session, and only in the process that issued it."""

from __future__ import annotations

from proxy.server.cancel import CancelKeys


class Session:
    def __init__(self) -> None:
        self.cancels_count = 0

    def cancel(self) -> None:
        self.cancels_count += 1


def test_a_key_cancels_its_own_session_and_no_other() -> None:
    keys, one, other = CancelKeys(0), Session(), Session()
    key = keys.issue(one)
    keys.issue(other)
    assert keys.cancel(key)
    assert (one.cancels_count, other.cancels_count) == (1, 0)


def test_a_session_that_has_ended_cannot_be_cancelled() -> None:
    keys, session = CancelKeys(0), Session()
    key = keys.issue(session)
    keys.withdraw(key)
    keys.withdraw(key)
    assert not keys.cancel(key) and session.cancels_count == 0


def test_half_a_key_is_none() -> None:
    """The process id is shown to everybody; the secret is what counts."""
    keys, session = CancelKeys(0), Session()
    key = keys.issue(session)
    for wrong in (key[:4] + bytes(4), key[:4], b"", key + b"\0"):
        assert not keys.cancel(wrong)
    assert session.cancels_count == 0


def test_keys_say_which_worker_issued_them_and_never_repeat() -> None:
    issued = {
        worker: [key for keys in [CancelKeys(worker)] for key in (keys.issue(Session()) for _ in range(100))]
        for worker in range(3)
    }
    for worker, keys in issued.items():
        assert {key[0] for key in keys} == {worker}
        assert {len(key) for key in keys} == {8}
    every = [key for keys in issued.values() for key in keys]
    assert len({key[:4] for key in every}) == len(every)
    assert len({key[4:] for key in every}) == len(every)


def test_a_client_of_the_newest_protocol_gets_a_longer_secret() -> None:
    keys, session = CancelKeys(0), Session()
    key = keys.issue(session, 32)
    assert len(key) == 36 and keys.cancel(key) and not keys.cancel(key[:8])
