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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from bridge.base.handover import Left
from bridge.console.console import Console
from bridge.logs.consolelog import ConsoleLog
from bridge.logs.file import LogFile, tidy

# How long what is new may wait for more.
BATCH_SECONDS = 0.1

# Text that is held for the disk in all, before it is written; a log's own share comes on top.
_AT_ONCE = 4 << 20

# Text is made of so many logs' news, and then keys come first.
_KEYS = 20

# A disk that failed is tried again after so many seconds, the last again and again.
_RETRIES = (1, 2, 4, 8, 15, 30)

# Files are compressed when their console has not filled another one for so long: under a
# lasting flood they are deleted again before compressing them would have been worth it.
CALM_SECONDS = 10.0

# What the end of the service waits for a disk.
GRACE = 2.0


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
            jobs = []
            formed = 0
            for number, log in enumerate(await self._wait_due(), 1):
                text = log.take()
                closing = log.closing and log.taken
                jobs.append(_Job(log, text, log.more, closing, log.file.rotations))
                formed += len(text)
                if formed > _AT_ONCE:
                    break  # the others are first the next time
                if not number % _KEYS:
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
        if job.closing or not log.closing:  # one that closes stays before its successor
            self._dirty.pop(log, None)
            if not (job.closing or log.idle):
                self._dirty[log] = None  # behind the others

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
