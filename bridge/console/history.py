"""What has happened at a console: its changes of state, and how much went by."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.console.states import State

# Changes of state that a reader which is far behind can still be told of.
MARKS = 64


@dataclass(frozen=True, slots=True)
class Mark:
    """A change of state, at its place in the stream of output."""

    number: int
    """Counts up from 1."""
    position: int
    state: State
    reason: str
    time: float
    """Seconds since the epoch."""


@dataclass(slots=True)
class Counts:
    """What has happened so far, in bytes where nothing else is said."""

    connections: int = 0  # times that the guest was reached
    frames: int = 0  # of websocket
    sent: int = 0  # to the guest
    discarded: int = 0  # typed while there was no guest to type to
    refused: int = 0  # typed by those who may only read
    skipped: int = 0  # missed by readers that were too slow
    typed: Sequence[Any] = ()  # who typed last: kind, peer, seconds since the epoch
    seconds: dict[State, float] = field(default_factory=lambda: dict.fromkeys(State, 0.0))
    """Spent in each state, up to the last change."""
