"""The logs of all consoles: readers of their scrollbacks that never delay them.

A ``ConsoleLog`` is pushed to by its console as an attachment is, but only notes when what
came; a tenth of a second later, or when there is plenty, the one task of ``Logs`` makes
text of what is new on all consoles and has one thread append it to all files.  A thread,
because a write to a hung NFS blocks; one for all, because a hop to a thread costs 60 us of
processor time, and so a thousand quiet consoles cost ten hops a second, not a thousand.

The scrollback is the buffer.  While a disk takes nothing, a log stays where it is, tries
again ever more seldom, and is overtaken like any stuck attachment: the bytes that are
missing are counted, and said in the file when it goes on.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from bridge.console import Console, Mark
from bridge.handover import Bag, Ending, Left, Record
from bridge.logfile import LogFile, tidy
from bridge.transcript import MORE, Transcript, stamp

# How long what is new may wait for more, and when it waits no longer.  (A ring of the
# default size is overtaken by 100 MB/s in 10 ms.)
BATCH_SECONDS = 0.1
BATCH_BYTES = 256 * 1024

# A new time of arrival for each millisecond, which is what a line's time shows; in a burst
# for each hundredth of a second; and no more of them than this while the disk takes nothing:
# then every other one is forgotten.
_RESOLUTION = 0.001
_BURST_RESOLUTION = 0.01
_BURST = 2048
_MAX_ARRIVALS = 1024

# A burst of empty lines grows thirtyfold, so what is formed at once is bounded, too.
_PIECE = 64 * 1024
_MAX_FORMED = 512 * 1024

# A disk that failed is tried again after so many seconds, the last again and again.
_RETRIES = (1, 2, 4, 8, 15, 30)

# Files are compressed when their console has not filled another one for so long: under a
# lasting flood they are deleted again before compressing them would have been worth it.
CALM_SECONDS = 10.0

# What the end of the service waits for a disk.
GRACE = 2.0


class ConsoleLog:
    """One console's log, a reader of its scrollback; made by ``Logs.add``."""

    def __init__(
        self,
        console: Console,
        file: LogFile,
        news: Callable[["ConsoleLog"], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.name = console.name
        self.file = file
        self.transcript = Transcript()
        self.position = console.scrollback.end
        self.plenty = min(BATCH_BYTES, console.scrollback.capacity // 4)
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


@dataclass(slots=True)
class _Job:
    """What the thread is to do for one log, and what came of it."""

    log: ConsoleLog
    text: bytes
    more: bytes
    closing: bool
    """Close the file after this, however it went."""
    rotations: int
    error: OSError | None = None

    def run(self) -> None:
        try:
            self.log.file.append(self.text, self.more)
        except OSError as error:
            self.error = error
            self.closing |= self.log.closing
        if self.closing:
            self.log.file.close()


class Logs:
    """See the module.  ``warn`` is called with a console's name and a message."""

    def __init__(
        self,
        directory: Path,
        warn: Callable[[str, str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._warn = warn
        self._clock = clock
        self._logs: set[ConsoleLog] = set()
        self._dirty: dict[ConsoleLog, None] = {}  # in the order in which they became so
        self._news = trio.Event()
        self._plenty = trio.Event()
        self._untidy: dict[str, float] = {}  # when their rotated files are to be compressed
        self._rotated = trio.Event()
        self._stopping = False
        self._appending = trio.CapacityLimiter(1)
        self._tidying = trio.CapacityLimiter(1)

    def add(
        self, console: Console, *, size: int, keep: int, left: Left | None = None
    ) -> ConsoleLog:
        """Log what ``console`` brings from now on, or since another process has ``left`` it."""
        line_open = left is not None and left[0]["line_open"]
        file = LogFile(self._directory, console.name, size=size, keep=keep, line_open=line_open)
        log = ConsoleLog(console, file, self._wake, clock=self._clock)
        self._logs.add(log)
        log.begin(left)
        return log

    def remove(self, log: ConsoleLog) -> None:
        """Log no more; what is there is still written."""
        self._logs.discard(log)
        log.close()
        self._news.set()

    @property
    def unwritten(self) -> bool:
        """Something is still to be written."""
        return bool(self._dirty)

    async def run(self) -> None:
        """Write until cancelled, and then, two seconds at most, what there is to write."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            with trio.CancelScope(shield=True) as writing:
                nursery.start_soon(self._stop_at_cancel, writing)
                await self._write()
            for log in self._dirty if writing.cancelled_caught else ():
                self._warn(log.name, f"log: {log.file.path}: its end took too long")
            nursery.cancel_scope.cancel()

    async def _stop_at_cancel(self, writing: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            writing.deadline = trio.current_time() + GRACE
            self._stopping = True
            for log in self._logs:
                log.close()
            self._news.set()
            self._plenty.set()

    def _wake(self, log: ConsoleLog) -> None:
        """There is something to write.  While its disk takes nothing, that is no news."""
        self._dirty[log] = None
        if not log.failures:
            self._news.set()
            if log.behind >= log.plenty:
                self._plenty.set()

    async def _write(self) -> None:
        while not self._stopping or self._dirty:
            due = await self._wait_due()
            jobs = []
            for log in due:
                text = log.take()
                closing = log.closing and log.taken
                jobs.append(_Job(log, text, log.more, closing, log.file.rotations))
                await trio.lowlevel.checkpoint()  # a thousand of them must not delay a key
            await trio.to_thread.run_sync(
                _run_all, jobs, abandon_on_cancel=True, limiter=self._appending
            )
            for job in jobs:
                self._done(job)

    async def _wait_due(self) -> list[ConsoleLog]:
        """Wait until there is enough to write, or it has waited long enough."""
        while not (due := self._due()) and not self._stopping:
            self._news = trio.Event()
            with trio.move_on_at(min((log.retry_at for log in self._dirty), default=math.inf)):
                await self._news.wait()
        if not self._stopping and not any(log.behind >= log.plenty for log in due):
            self._plenty = trio.Event()
            with trio.move_on_after(BATCH_SECONDS):
                await self._plenty.wait()
        return self._due()

    def _due(self) -> list[ConsoleLog]:
        now = trio.current_time()
        return [log for log in self._dirty if log.retry_at <= now or self._stopping]

    def _done(self, job: _Job) -> None:
        log = job.log
        log.wrote()
        if job.error is None:
            self._succeeded(log)
        else:
            self._failed(log, job.error)
        if log.file.rotations != job.rotations:
            self._untidy[log.name] = trio.current_time() + CALM_SECONDS
            self._rotated.set()
        if job.closing or (log.idle and not log.closing):
            self._dirty.pop(log, None)

    def _failed(self, log: ConsoleLog, error: OSError) -> None:
        if not log.failures:
            self._warn(log.name, f"log: {log.file.path}: {error.strerror}; trying again")
        delay = _RETRIES[min(log.failures, len(_RETRIES) - 1)]
        log.failures += 1
        log.retry_at = trio.current_time() + delay

    def _succeeded(self, log: ConsoleLog) -> None:
        if log.failures:
            self._warn(log.name, f"log: {log.file.path}: is written again")
            log.failures = 0
            log.retry_at = -math.inf

    async def _tidy(self) -> None:
        """Compress what was rotated, once its console has calmed down."""
        while True:
            self._rotated = trio.Event()
            with trio.move_on_at(min(self._untidy.values(), default=math.inf)):
                await self._rotated.wait()
            now = trio.current_time()
            for name in [name for name, due in self._untidy.items() if due <= now]:
                del self._untidy[name]
                try:
                    await trio.to_thread.run_sync(
                        tidy, self._directory, name, abandon_on_cancel=True, limiter=self._tidying
                    )
                except OSError as error:  # they stay as they are until the next rotation
                    self._warn(name, f"log: {self._directory}: not compressed: {error.strerror}")


def _run_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.run()
