"""The service under systemd: is it ready, how is it, is it alive?

Owns when systemd is told what.  Without systemd the same calls tell nobody.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from bridge.console.states import State
from bridge.systemd.notify import Notifier, watchdog_interval

# A flapping console changes the status many times a second; nobody reads it as often.
_STATUS_INTERVAL = 1.0


class Supervision:
    """What systemd knows of us: ``run`` tells it, the other calls never wait."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._turn = trio.Lock()  # one task at a time may wait for a socket
        self._milestones, self._told = trio.open_memory_channel[str](math.inf)
        self._watchdog = watchdog_interval()
        self._news = trio.Event()

    def ready(self) -> None:
        """Everything is bound: what was ordered after us may start."""
        self._milestones.send_nowait("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload is under way within the context, and over after it, well or not."""
        # systemd 253 with Type=notify-reload waits for the time stamp; others ignore it.
        now = time.monotonic_ns() // 1000
        self._milestones.send_nowait(f"RELOADING=1\nMONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self.ready()

    def stopping(self) -> None:
        """From here on we end, and no sign of life is expected."""
        # At once and at most once: ``run`` ends as well.
        self._notifier.send("STOPPING=1")

    def changed(self) -> None:
        """A console has come, gone, or changed its state."""
        self._news.set()

    async def run(self, counts: Callable[[], Mapping[State, int]]) -> None:
        """Tell, and give signs of life, until cancelled.

        ``counts`` says how many consoles are in which state; it is asked after changes, a
        second apart.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_milestones)
            nursery.start_soon(self._tell_status, counts)
            if self._watchdog is not None:
                nursery.start_soon(self._feed_watchdog, self._watchdog / 2)

    async def _tell_milestones(self) -> None:
        async for message in self._told:
            await self._tell(message)

    async def _tell_status(self, counts: Callable[[], Mapping[State, int]]) -> None:
        told = ""
        while True:
            self._news = trio.Event()
            text = describe(counts())
            if text != told:
                await self._tell(f"STATUS={text}")
                told = text
                await trio.sleep(_STATUS_INTERVAL)
            await self._news.wait()

    async def _feed_watchdog(self, interval: float) -> None:
        """Be a task among the others, which is woken only while the loop goes round.

        A thread would go on feeding beside a loop that hangs.  Half the interval is what
        sd_watchdog_enabled(3) advises.
        """
        while True:
            await self._tell("WATCHDOG=1")
            await trio.sleep(interval)

    async def _tell(self, message: str) -> None:
        async with self._turn:
            while not self._notifier.send(message):
                await trio.lowlevel.wait_writable(self._notifier.fileno())


def describe(counts: Mapping[State, int]) -> str:
    """``3 consoles: 2 online, 1 busy``, the states in the order of their definition."""
    total = sum(counts.values())
    head = f"{total} console{'s' if total != 1 else ''}"
    states = ", ".join(f"{counts[s]} {s.value}" for s in State if counts.get(s))
    return f"{head}: {states}" if states else head
