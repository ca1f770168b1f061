"""One inotify instance for the whole service: wakes whoever watches a path.

An inotify event is only a reason to look: the kernel merges equal events, so they cannot
be counted.  (A user may have 128 inotify instances, but thousands of watches.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def watch(self, path: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each open and close of ``path``, until the file is gone."""
        self._callbacks[self._inotify.add_watch(path, _MASK)] = callback

    @contextmanager
    def ignoring(self, path: str) -> Iterator[None]:
        """Meanwhile nobody is called back for a watched ``path``.

        The watch stays, with another mask: a new one might not be had.
        """
        self._inotify.add_watch(path, flags.DELETE_SELF)
        try:
            yield
        finally:
            self._inotify.add_watch(path, _MASK)

    async def run(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._inotify.fileno())
            for event in self._inotify.read(timeout=0):
                if event.mask & flags.IGNORED:  # the file, and the watch with it, is gone
                    self._callbacks.pop(event.wd, None)
                elif event.wd in self._callbacks:
                    self._callbacks[event.wd]()
                elif event.mask & flags.Q_OVERFLOW:
                    for callback in tuple(self._callbacks.values()):
                        callback()
