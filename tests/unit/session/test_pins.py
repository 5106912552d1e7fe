"""Each pin has an end; where a text does not tell, the pin is doubtful."""

from __future__ import annotations

import pytest

from proxy.session.pins import QUESTIONS, Pins
from proxy.sql.classify import parse
from proxy.sql.statement import Pin


def pinned(*texts: str) -> Pins:
    pins = Pins()
    for text in texts:
        for statement in parse(text):
            pins.note(statement)
    return pins


PINNING = {
    "LISTEN": "LISTEN a",
    "session-level advisory lock": "SELECT pg_advisory_lock(1)",
    "cursor WITH HOLD": "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "SQL-level PREPARE": "PREPARE p AS a statement nobody understands",
    "temporary object": "CREATE TEMP TABLE t (a int)",
    "LOAD": "LOAD 'x'",
    "setting with a computed value": "SELECT set_config(name, '1', false) FROM names",
}
ENDING = {"UNLISTEN *": "LISTEN", "DEALLOCATE ALL": "SQL-level PREPARE"}
DOUBTING = {
    "SELECT pg_advisory_unlock(1)": Pin.ADVISORY_LOCK,
    "SELECT pg_advisory_unlock_all()": Pin.ADVISORY_LOCK,
    "CLOSE c": Pin.HOLD_CURSOR,
    "CLOSE ALL": Pin.HOLD_CURSOR,
    "DROP TABLE t": Pin.TEMP_TABLE,
    "DROP VIEW v": Pin.TEMP_TABLE,
    "DISCARD TEMP": Pin.TEMP_TABLE,
}


def settled(pins: Pins) -> Pins:
    """Return pins of which the server has said that all hold."""
    for pin in list(pins.doubtful):
        pins.settle(pin, holds=True)
    return pins


@pytest.mark.parametrize("reason", PINNING)
def test_what_cannot_move_pins_the_session_and_says_why(reason: str) -> None:
    pins = pinned(PINNING[reason])
    assert pins and str(pins) == reason


@pytest.mark.parametrize("text", ENDING)
def test_an_end_ends_its_own_pin_and_no_other(text: str) -> None:
    left = sorted(set(PINNING) - {ENDING[text]})
    assert str(pinned(*PINNING.values(), text)) == ", ".join(left)


def test_discard_all_ends_every_pin_but_what_it_cannot_unload() -> None:
    assert str(pinned(*PINNING.values(), "DISCARD ALL")) == "LOAD"


@pytest.mark.parametrize("pin", QUESTIONS)
def test_whoever_sets_a_pin_may_be_rolled_back_so_it_is_asked_about(pin: Pin) -> None:
    pins = pinned(PINNING[pin.value])
    assert pins.doubtful == {pin}
    pins.settle(pin, holds=False)
    assert not pins and not pins.doubtful


@pytest.mark.parametrize("text", DOUBTING)
def test_what_may_end_a_pin_makes_it_doubtful_and_the_server_decides(text: str) -> None:
    pins = settled(pinned(*PINNING.values()))
    assert not pins.doubtful
    for statement in parse(text):
        pins.note(statement)
    assert pins.doubtful == {DOUBTING[text]}
    assert len(str(settled(pins)).split(", ")) == len(PINNING)
    pins.settle(DOUBTING[text], holds=False)
    assert len(str(pins).split(", ")) == len(PINNING) - 1
    assert not pinned(text).doubtful, "nothing is asked of a session without pins"


@pytest.mark.parametrize(
    "text", ["SELECT 1", "SET a.b TO 1", "DISCARD PLANS", "SELECT pg_advisory_xact_lock(1)", "UNLISTEN a"]
)
def test_nothing_else_pins(text: str) -> None:
    assert not pinned(text)
    pins = settled(pinned(*PINNING.values()))
    for statement in parse(text):
        pins.note(statement)
    assert len(str(pins).split(", ")) == len(PINNING) and not pins.doubtful
