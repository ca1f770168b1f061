"""Whom reading upstream may pause for, and for how long.

A reader that is merely descheduled for a moment must not lose output to a flood that passes
a whole ring in five milliseconds; one that is stuck must not delay the others or the guest.
What tells the two apart is what they have read: each stretch of half a ring buys a reader
a second of waiting.  So one who is stuck costs that once; one who reads slowly but for
ever holds a flood to half a ring a second at worst; and one who loses the processor for
a moment again and again, on a host that is busy, loses nothing.

Pure: the time that was waited is passed in, in seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

PATIENCE = 1.0


class Moving(Protocol):
    """One who follows a stream."""

    position: int


@dataclass(slots=True)
class _Account:
    """``left`` seconds, for one that was at ``since`` when it had all of them."""

    since: int
    left: float = PATIENCE


class Patience:
    """See the module; ``stretch`` is in bytes."""

    def __init__(self, stretch: int) -> None:
        self._stretch = stretch
        self._accounts: dict[Moving, _Account] = {}

    def left(self, reader: Moving) -> float:
        """How many seconds more ``reader`` may be waited for."""
        account = self._accounts.get(reader)
        if account is None or reader.position - account.since >= self._stretch:
            account = self._accounts[reader] = _Account(reader.position)
        return account.left

    def spend(self, laggards: Collection[Moving], seconds: float) -> None:
        """``laggards`` were waited for, and lag yet."""
        for reader in laggards:
            account = self._accounts[reader]
            account.left = max(0.0, account.left - seconds)

    def moved(self, reader: Moving, count: int) -> None:
        """``reader`` got on by ``count`` bytes without reading them."""
        if account := self._accounts.get(reader):
            account.since += count

    def forget(self, reader: Moving) -> None:
        self._accounts.pop(reader, None)
