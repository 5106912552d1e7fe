"""What the processes say to each other; see `app.channel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.config.model import Config


@dataclass(frozen=True, slots=True)
class Start:
    """What a child begins with; the first frame of all, and no call."""

    config: Config
    ordered: frozenset[str] = frozenset()  # databases whose writes_on is an order that nobody has carried out


@dataclass(frozen=True, slots=True)
class Configure:
    """Take this configuration into force."""

    config: Config
    is_order: bool = True  # a changed writes_on shall move writes


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold new write transactions; answer when none is left in flight, or with those left.

    Answered with the number of write transactions still open after `drain_s`.
    """

    database: str
    limit_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """End the hold; `authority` and `epoch` are new if the switch was done, else None."""

    database: str
    authority: str | None
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Obeyed:
    """From the engine: writes are where an order wanted them."""

    database: str
    authority: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel key that another worker, or a proxy on another host, did not know.

    A worker answers whether it has the session.
    """

    key: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Ask for everything the process counts; answered with a dict of plain values."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept no more clients, let transactions end, then exit."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """From a child: it serves. `detail` is for the log."""

    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Steer:
    """Send new connections to `count` sockets of the port, from number `first` on; 0: to all."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """From a worker: a primary is down, and one of its replicas is none any more."""

    database: str
