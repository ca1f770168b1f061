"""One console's log as a reader of its scrollback: what is to be written, in order.

It is pushed to as an attachment is, but only notes when what came; text is made of it when
somebody takes it, for a file that may take it or not.  The scrollback is the buffer: while
the file takes nothing a log stays where it is and is overtaken, and the bytes that are
missing are counted, and said in the text.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bridge.base.handover import Bag, Ending, Left, Record
from bridge.console.console import Console
from bridge.console.history import Mark
from bridge.logs.transcript import MORE, Transcript, stamp

# When so much is new, or half the ring, it is better written at once.  (Half a ring of the
# default size is overtaken by 100 MB/s in 5 ms; reading upstream waits that long for a log
# that moves.)
PLENTY = 512 * 1024

# A new time of arrival for each millisecond, which is what a line's time shows; in a burst
# for each hundredth of a second; and no more of them than this while the disk takes nothing:
# then every other one is forgotten.
_RESOLUTION = 0.001
_BURST_RESOLUTION = 0.01
_BURST = 2048
_MAX_ARRIVALS = 1024

# A burst of empty lines grows thirtyfold, so what is formed at once is bounded, too.
_PIECE = 64 * 1024
_MAX_FORMED = 1 << 20


class File(Protocol):
    """Where the text goes; see ``logfile``."""

    path: Path
    appended: int
    rotations: int
    line_open: bool

    def append(self, data: bytes, more: bytes) -> None: ...

    def close(self) -> None: ...


class ConsoleLog:
    """One console's log, a reader of its scrollback."""

    def __init__(
        self,
        console: Console,
        file: File,
        news: Callable[["ConsoleLog"], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.name = console.name
        self.file = file
        self.transcript = Transcript()
        self.position = console.scrollback.end
        self.plenty = min(PLENTY, console.scrollback.capacity // 2)
        """When so much is new it is better written at once."""
        self.missing = 0
        """Bytes that the scrollback lost before the disk took them."""
        self.failures = 0
        """Attempts in a row that failed."""
        self.retry_at = -math.inf
        self.closing = False
        self.more = b""
        """What begins the text taken if it goes on with a line in another file."""
        self._console = console
        self._news = news
        self._clock = clock
        self._told = self._marked = console.marked
        self._last_words = ""
        self._pending = b""  # text that is not in the file yet
        self._appended = 0  # the file's count of what is
        self._end = self.position
        self._arrivals = deque([(self.position, clock())])

    @property
    def behind(self) -> int:
        """Bytes that it has not taken yet."""
        return self._end - self.position

    @property
    def written(self) -> int:
        """Bytes appended to files, times and all."""
        return self.file.appended

    @property
    def taken(self) -> bool:
        """Nothing is left that ``take`` has not given yet."""
        return not self.behind and self._told >= self._marked and not self._last_words

    @property
    def idle(self) -> bool:
        """Everything is in the file."""
        return not self._pending and self.taken

    @property
    def reading(self) -> bool:
        return True

    def push(self) -> None:
        now = self._clock()
        start, then = self._arrivals[-1]
        burst = self._end - start >= _BURST
        # Backwards, too: somebody may have set the clock.
        if abs(now - then) >= (_BURST_RESOLUTION if burst else _RESOLUTION):
            self._arrivals.append((self._end, now))
            if len(self._arrivals) > _MAX_ARRIVALS:
                self._arrivals = deque(list(self._arrivals)[::2])
        self._end, self._marked = self._console.scrollback.end, self._console.marked
        self._news(self)

    def begin(self, left: Left | None) -> None:
        """Follow the console from now on, or from where another process has ``left`` it."""
        if left is None:
            self._pending = self._mark("log begins", self._clock())
        else:
            self._restore(*left)
        self._console.follow(self)
        self.push()

    def close(self) -> None:
        """Follow no more."""
        if not self.closing:
            self._console.detach(self)
            self.closing = True
            self.retry_at = -math.inf  # its end gets one chance, now
            if self._console.ending is Ending.LEAVE:
                self._last_words = "log ends"
            self._news(self)

    def state(self, bag: Bag) -> Record:
        """What the next process needs to go on."""
        return {
            "position": self.position,
            "told": self._told,
            "transcript": asdict(self.transcript),
            "line_open": self.file.line_open,
            "pending": bag.put_bytes(self._pending),
        }

    def _restore(self, record: Record, bag: Bag) -> None:
        self.position = min(record["position"], self._console.scrollback.end)
        self._told = min(record["told"], self._console.marked)
        self.transcript = Transcript(**record["transcript"])
        self._pending = bag.take_bytes(record["pending"])

    def take(self) -> bytes:
        """Text for the file: what is new, but after a failure first what it did not take."""
        if not self.failures:
            self.more = stamp(_local(self._arrived())) + MORE
            self._pending += b"".join(self._form())
            self._console.progressed()
        return self._pending

    def wrote(self) -> None:
        """Forget what the file has by now."""
        count, self._appended = self.file.appended - self._appended, self.file.appended
        self._pending = self._pending[count:]

    def _form(self) -> Iterator[bytes]:
        scrollback = self._console.scrollback
        formed = 0
        while formed < _MAX_FORMED:
            end = min(self.position + _PIECE, self._end)
            landing = min(scrollback.catch_up(self.position), self._end)
            mark = self._next_mark()
            if mark is not None and mark.position <= landing:
                text = self._change(mark)
            elif self.position < landing:
                text = self._overtaken(landing)
            elif self.position < end:
                text = self._output(end if mark is None else min(end, mark.position))
            elif self._last_words:
                text = self._mark(self._last_words, self._clock())
                self._last_words = ""
            else:
                return
            formed += len(text)
            yield text

    def _next_mark(self) -> Mark | None:
        if self._told >= self._marked:
            return None
        return next(mark for mark in self._console.marks if mark.number > self._told)

    def _change(self, mark: Mark) -> bytes:
        lost, self._told = mark.number - self._told - 1, mark.number
        before = f"{lost} changes of state are missing, then " if lost else ""
        reason = f": {mark.reason}" if mark.reason else ""
        return self._mark(f"{before}{mark.state.name}{reason}", mark.time)

    def _output(self, end: int) -> bytes:
        """The guest's, up to ``end`` or the next time of arrival."""
        when = self._arrived()
        if len(self._arrivals) > 1:
            end = min(end, self._arrivals[1][0])
        data = self._console.scrollback.read(self.position, end - self.position)
        self.position += len(data)
        return self.transcript.feed(data, _local(when))

    def _overtaken(self, landing: int) -> bytes:
        """Go on with what is still held, and say what is gone."""
        count, self.position = landing - self.position, landing
        self.missing += count
        text = self._mark(f"{count} bytes are missing", self._arrived())
        self.transcript = Transcript()  # what comes next continues nothing
        return text

    def _arrived(self) -> float:
        """When the byte at our position came."""
        while len(self._arrivals) > 1 and self._arrivals[1][0] <= self.position:
            self._arrivals.popleft()
        return self._arrivals[0][1]

    def _mark(self, text: str, when: float) -> bytes:
        return self.transcript.mark(f"{self.name}: {text}", _local(when))


def _local(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC).astimezone()
