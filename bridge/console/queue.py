"""What one has typed and the guest has not been sent: bytes, and BREAKs between them."""

from collections.abc import Callable, Collection

# What an attachment may have typed ahead of the guest; then its client is not read.
QUEUE_LIMIT = 4096

# Is told the outcome of a BREAK: why there was none, or nothing.
Told = Callable[[str], None]


class InputQueue:
    """Bounded: bytes by who puts no more than there is room for, BREAKs by the bytes."""

    def __init__(self, told: Told = lambda _refusal: None) -> None:
        self.told = told
        self._data = bytearray()
        self.breaks: list[int] = []
        """How many bytes there are before each."""
        self.owned = False
        """Somebody is attached who may add to it, and who hands it over."""
        self.dropped = 0
        """Bytes that will never be sent: the guest went away first."""

    def __len__(self) -> int:
        """In bytes."""
        return len(self._data)

    def __bool__(self) -> bool:
        """Something is waiting."""
        return bool(self._data or self.breaks)

    @property
    def room(self) -> int:
        """How many bytes may be put."""
        return QUEUE_LIMIT - len(self._data)

    @property
    def break_due(self) -> bool:
        """A BREAK is what comes next."""
        return bool(self.breaks) and self.breaks[0] == 0

    def put(self, data: bytes, breaks: Collection[int] = ()) -> None:
        """Add ``data``, and a BREAK at each place; several at one place are one."""
        self._data += data
        if breaks:
            self.breaks = sorted({*self.breaks, *breaks})

    def peek(self) -> bytes:
        return bytes(self._data)

    def take(self, count: int) -> bytes:
        """At most ``count`` bytes, none beyond a BREAK."""
        if self.breaks:
            count = min(count, self.breaks[0])
            self.breaks = [place - count for place in self.breaks]
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def take_break(self) -> None:
        self.breaks.pop(0)

    def take_all(self) -> bytes:
        """Everything; whoever wanted a BREAK is told that it will not be."""
        data = self.peek()
        self._data.clear()
        if self.breaks:
            self.breaks.clear()
            self.told("the guest has gone away")
        return data
