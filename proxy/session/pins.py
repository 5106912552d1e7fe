"""Why a session cannot leave its server, and when it can again.

What may end a pin seldom says whether it does: DROP TABLE may drop the last temporary table
or another one, and ROLLBACK may bring it back. So whatever may set or end such a pin makes it
doubtful, and when the transaction has ended the server is asked (`QUESTIONS`).
"""

from __future__ import annotations

from proxy.sql.statement import Kind, Pin, Statement, Unpin

_ENDS: dict[Unpin, frozenset[Pin]] = {
    Unpin.LISTEN: frozenset({Pin.LISTEN}),
    Unpin.PREPARE: frozenset({Pin.PREPARE}),
    Unpin.SEQUENCE: frozenset({Pin.SEQUENCE}),
    # DISCARD ALL unloads nothing.
    Unpin.ALL: frozenset(Pin) - {Pin.LOAD},
}

QUESTIONS = {
    Pin.TEMP_TABLE: "EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'"
    "::pg_catalog.regclass AND refobjid = pg_catalog.pg_my_temp_schema())",
    Pin.ADVISORY_LOCK: "EXISTS (SELECT FROM pg_catalog.pg_locks"
    " WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())",
    Pin.HOLD_CURSOR: "EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)",
}
"""Pins that a server can be asked about outside a transaction: SQL that is true while they hold."""

_MAY_END = {
    Unpin.TEMP_TABLE: Pin.TEMP_TABLE,
    Unpin.ADVISORY_LOCK: Pin.ADVISORY_LOCK,
    Unpin.HOLD_CURSOR: Pin.HOLD_CURSOR,
}

# What was drawn is not told on another server: lastval() fails there until something is drawn again.
_PORTABLE = frozenset({Pin.LISTEN, Pin.SEQUENCE})

_NONE: frozenset[Pin] = frozenset()


class Pins:
    """The pins of one session; falsy when there are none."""

    def __init__(self) -> None:
        self._pins = _NONE
        self.doubtful = _NONE

    def __bool__(self) -> bool:
        return bool(self._pins)

    def __str__(self) -> str:
        return ", ".join(sorted(self._pins))

    @property
    def can_move(self) -> bool:
        """Whether all that the session has on its server can be had on another one, too."""
        return self._pins <= _PORTABLE

    def set_listening(self, is_listening: bool) -> None:
        """Note at the end of a transaction whether the session listens to any channel."""
        if is_listening:
            self._pins |= {Pin.LISTEN}
        else:
            self._pins -= {Pin.LISTEN}

    def add(self, pin: Pin) -> None:
        """Pin the session for a reason that no single statement gives."""
        self._pins |= {pin}

    def note(self, statement: Statement) -> None:
        """Take what a completed statement did into account."""
        if statement.pin is not None:
            self._pins |= {statement.pin}
        if statement.unpin is not None:
            self._pins -= _ENDS.get(statement.unpin, frozenset())
        self.doubtful = (self.doubtful | _doubts(statement)) & self._pins

    def take(self, held: frozenset[Pin]) -> None:
        """Take the server's word on all that it can be asked about."""
        self._pins = (self._pins - QUESTIONS.keys()) | held
        self.doubtful = _NONE

    def settle_all(self) -> None:
        """Nothing more can be found out about doubtful pins: they hold."""
        self.doubtful = _NONE

    def settle(self, pin: Pin, *, holds: bool) -> None:
        """Take the server's word on a doubtful pin."""
        self.doubtful -= {pin}
        if not holds:
            self._pins -= {pin}


def _doubts(statement: Statement) -> set[Pin]:
    """Return the pins of which it is not known whether they hold once this has completed."""
    found = {statement.pin} & QUESTIONS.keys() if statement.pin is not None else set()
    if statement.unpin in _MAY_END:
        found.add(_MAY_END[statement.unpin])
    if statement.kind is Kind.DDL and statement.tag == "DROP":
        found.add(Pin.TEMP_TABLE)
    return found
