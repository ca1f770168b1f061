"""One inotify instance for the whole service: wakes whoever watches a path.

An inotify event is only a reason to look: the kernel merges equal events, so they cannot
be counted.  (A user may have 128 inotify instances, but thousands of watches.)
"""

from collections.abc import Callable
from typing import Self

import trio
from inotify_simple import INotify, flags

_MASK = flags.OPEN | flags.CLOSE_WRITE | flags.CLOSE_NOWRITE


class Presence:
    """Calls back when a watched file is opened or closed by anybody; ``run`` delivers."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._callbacks: dict[int, Callable[[], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def watch(self, path: str, callback: Callable[[], None]) -> int:
        """Call ``callback`` after each open and close of ``path``, until the file is gone.

        Returns the watch's number.
        """
        watch: int = self._inotify.add_watch(path, _MASK)
        self._callbacks[watch] = callback
        return watch

    async def run(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._inotify.fileno())
            self.deliver()

    def deliver(self, *, but: int | None = None) -> None:
        """Call back for what has come so far; not for the watch ``but``: that was ourselves."""
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.IGNORED:  # the file, and the watch with it, is gone
                self._callbacks.pop(event.wd, None)
            elif event.wd in self._callbacks:
                if event.wd != but:
                    self._callbacks[event.wd]()
            elif event.mask & flags.Q_OVERFLOW:
                for callback in tuple(self._callbacks.values()):
                    callback()
