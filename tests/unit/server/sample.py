"""A client, its messages, and judgements, for the tests of this folder."""

from __future__ import annotations

from proxy.server.judge import Judge, Judged
from proxy.session.statements import NO_TYPES
from proxy.wire import messages
from proxy.wire.frames import Frame, FrameDecoder, Mark, ServerScanner
from proxy.wire.messages import Parse
from tests.unit.capture.sample import catalog, table

PATH = ("app", "public")
SYNC, FLUSH = messages.SYNC, messages.FLUSH


class Client:
    """What a session does to the socket of its client."""

    def __init__(self) -> None:
        self.written = b""
        self.paused: set[str] = set()
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self, reason: str) -> None:
        assert reason not in self.paused
        self.paused.add(reason)

    def resume_reading(self, reason: str) -> None:
        self.paused.remove(reason)

    def close(self) -> None:
        self.is_closed = True


def frames(*sent: bytes) -> list[Frame]:
    """Return the frames of whole messages."""
    return FrameDecoder().feed(b"".join(sent))


def scanned(*sent: bytes) -> tuple[bytes, list[Mark]]:
    """Return an answer as a server connection hands it on."""
    return ServerScanner().feed(b"".join(sent))


def parse(name: bytes, text: str, oids: bytes = NO_TYPES) -> bytes:
    """Return a Parse."""
    return Parse(name, text.encode(), oids).encode_as(name)


def bind(name: bytes, portal: bytes = b"", rest: bytes = b"\0\0\0\0\0\0") -> bytes:
    """Return a Bind without parameters."""
    return messages.bind(portal, name, rest)


def make_judge(*, captures: bool = True) -> Judge:
    """Return a judge of two mirrored tables, a and b."""
    return Judge(catalog(table(1, "a"), table(2, "b")), captures=captures)


def judged(text: str, judge: Judge | None = None) -> Judged:
    """Return the judgement on a text."""
    return (judge or make_judge()).judge(text, PATH)
