"""The ring of a console's past output: one writer, any number of readers.

Positions are absolute byte counts since the console began, so "how much did this reader
miss?" is a subtraction and no reader needs a queue of its own.  Pure: no clock, no I/O.
"""

import mmap
from typing import Self

MIN_CAPACITY = 4096
MAX_CAPACITY = 1 << 30

# How far behind its landing point a jump looks for the start of a line.
_LINE_SEARCH = 4096


class Scrollback:
    """Keeps the last ``capacity`` bytes of what was appended."""

    def __init__(self, capacity: int) -> None:
        # An anonymous map, not a bytearray: pages exist once they are written to, so that
        # a thousand quiet consoles cost nothing, and slices are copies, so that no reader
        # can pin the buffer (a live memoryview of a bytearray makes its next append fail).
        self._ring = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.capacity = capacity
        self.end = 0
        """Position of the next byte: the count of all bytes ever appended."""
        self._newest = b""  # what was appended last, as it came

    @property
    def start(self) -> int:
        """Position of the oldest byte still held."""
        return max(0, self.end - self.capacity)

    @classmethod
    def resume(cls, capacity: int, end: int, data: bytes) -> Self:
        """One that holds ``data``, of which the last byte is at ``end``."""
        self = cls(capacity)
        self.end = end - len(data)
        self.append(data)
        return self

    def append(self, data: bytes) -> None:
        """Add ``data`` of any length; the oldest bytes make room."""
        end = self.end + len(data)
        self._newest = data
        data = data[-self.capacity :]
        at = (end - len(data)) % self.capacity
        head = self.capacity - at
        if len(data) <= head:
            self._ring[at : at + len(data)] = data
        else:
            self._ring[at:] = data[:head]
            self._ring[: len(data) - head] = data[head:]
        self.end = end

    def read(self, position: int, limit: int) -> bytes:
        """Return up to ``limit`` bytes from ``position``, which must still be held.

        May return fewer than are there (at the ring's seam), none only at the end.
        """
        left = self.end - position
        assert 0 <= left <= self.capacity, "the reader was overtaken: catch_up() first"
        if left == len(self._newest) <= limit:
            return self._newest  # to all readers that have kept up, without a copy
        at = position % self.capacity
        return self._ring[at : min(at + min(limit, left), self.capacity)]

    def before(self, position: int, limit: int) -> bytes:
        """Return the ``limit`` bytes that precede ``position``, fewer where no more are held."""
        return self._span(max(self.start, position - limit), position)

    def _span(self, start: int, stop: int) -> bytes:
        """Return all from ``start`` to ``stop``, across the ring's seam."""
        head = self.read(start, stop - start)
        return head + self.read(start + len(head), stop - start - len(head))

    def catch_up(self, position: int) -> int:
        """Return where a reader at ``position`` goes on: there, or past what is gone.

        A reader that was overtaken jumps half the ring ahead, not to the oldest byte,
        which would be gone again at once; and on to the start of a line if one is near.
        """
        if position >= self.start:
            return position
        landing = self.end - self.capacity // 2
        nearby = self._span(landing, min(landing + _LINE_SEARCH, self.end))
        return landing + nearby.find(b"\n") + 1
