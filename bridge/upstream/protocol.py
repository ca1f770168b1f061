"""What is spoken to a console's server once connected: the face of it, and its plainest kind.

``websocket.Wire`` is the other kind.  Pure: bytes in, bytes out.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self


class Retry(enum.Enum):
    """What the end of a connection says about another attempt."""

    YES = "nobody is there now; the same may succeed later"
    MAYBE = "refused, but what is wrong may be mended without our noticing; asking does no harm"
    NO = "refused; the same would be refused again, or be typed into a guest once more"


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection is over."""

    reason: str
    retry: Retry = Retry.YES
    explain: Callable[[], Awaitable[str]] | None = None
    """Finds a better reason, once the connection is closed: it makes one of its own."""


class Speech(Protocol):
    """One connection's protocol state: ``hello``, then ``receive`` and ``send``.

    Once ``end`` is set nothing more is read or written through it.
    """

    @property
    def greets(self) -> bool:
        """The server answers ``hello``; until then nobody knows that it serves us."""

    open: bool
    """The server is known to serve us."""
    frames: int
    """How many have come, where there are frames."""
    end: End | None

    def state(self) -> Mapping[str, object]:
        """All that another process needs to go on, as JSON can hold it."""

    def hello(self) -> bytes:
        """What to say first."""

    def send(self, payload: bytes) -> bytes:
        """What carries ``payload`` to the guest."""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Take ``data`` from the network; return (payload, bytes to send back)."""

    def receive_eof(self) -> None:
        """The network's stream is over; ``end`` says what that means."""

    def receive_loss(self, end: End) -> None:
        """The connection is lost, which is such an ``end``, unless more is known about it."""


class Raw:
    """The bytes as they are: a tcp or unix chardev."""

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The one whose ``state`` this was."""
        self = cls()
        self.open = state["open"]
        return self

    def state(self) -> Mapping[str, object]:
        return {"open": self.open}

    greets = False

    def __init__(self) -> None:
        self.open = False
        self.frames = 0
        self.end: End | None = None

    def hello(self) -> bytes:
        return b""

    def send(self, payload: bytes) -> bytes:
        return payload

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        self.open = True
        return data, b""

    def receive_eof(self) -> None:
        if self.end is None:
            self.end = End("the connection was closed (the VM is gone)")

    def receive_loss(self, end: End) -> None:
        self.end = end
