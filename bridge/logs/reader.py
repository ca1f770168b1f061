"""Reading a console's log: all its files in order, from a given time on, and as it grows.

Nothing but the files is needed, no service, and nothing is locked: the files may be
rotated, compressed and deleted meanwhile.
"""

import gzip
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Self, cast

from inotify_simple import INotify, flags

from bridge.logs import segments
from bridge.logs.segments import Segment
from bridge.logs.transcript import time_of

CHUNK = 1 << 20

# So near a place is searched line by line.
_NEAR = 64 * 1024

# Without news from inotify (NFS has none) the file is looked at so often, in milliseconds.
_LOOK = 1000

_NEWS = flags.MODIFY | flags.CREATE | flags.MOVED_TO


class LogReader:
    """A log as one stream: first ``read``, then ``follow``; a context.  Raises OSError."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._growing: IO[bytes] | None = None
        self._number = 0  # that the growing file will get: files with greater ones are newer
        self._open_growing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._growing is not None:
            self._growing.close()

    @property
    def exists(self) -> bool:
        return self._growing is not None or bool(segments.rotated(self._directory, self._name))

    def read(self, since: datetime | None = None) -> Iterator[bytes]:
        """All there is, the oldest first; but no line older than ``since``.

        An unfinished line (a prompt) is never old: it lasts until now.
        """
        older = self._rotated()
        if since is not None:
            older = self._needed(older, since)
        for segment in older:
            yield from _segment(segment, since)
        if self._growing is not None:
            if since is not None:
                size = os.fstat(self._growing.fileno()).st_size
                yield _skip(self._growing, since, size)
            yield from _rest(self._growing)

    def follow(self, output: int) -> Iterator[bytes]:
        """What comes, for ever; raises BrokenPipeError when nobody reads ``output`` any more."""
        poll = select.poll()
        poll.register(output, 0)  # only POLLERR and POLLHUP, which are always reported
        with ExitStack() as stack:
            inotify = None
            with suppress(OSError):  # a user may have 128: without one we look now and then
                inotify = stack.enter_context(INotify(nonblocking=True))
                inotify.add_watch(self._directory, _NEWS)
                poll.register(inotify.fileno(), select.POLLIN)
            while True:
                yield from self._news()
                ready = [fd for fd, _ in poll.poll(_LOOK)]
                if output in ready:
                    raise BrokenPipeError
                if ready and inotify is not None:
                    inotify.read(timeout=0)

    def _news(self) -> Iterator[bytes]:
        while True:
            current = self._is_current()  # before it is read: what came before is then read
            if self._growing is not None:
                yield from _rest(self._growing)
            if current:
                return
            read = self._number
            self._open_growing()
            for segment in self._rotated():
                if read < segment.number:
                    yield from _segment(segment, None)
            if self._growing is None:
                return

    def _is_current(self) -> bool:
        """Is the file that we have the one that grows?"""
        if self._growing is None:
            return False
        ours = os.fstat(self._growing.fileno())
        if ours.st_size < self._growing.tell():  # somebody has emptied it
            self._growing.seek(0)
        try:
            theirs = os.stat(segments.current(self._directory, self._name))
        except FileNotFoundError:
            return True  # no other one yet
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def _open_growing(self) -> None:
        """Open what grows now, and note its number: both of the same moment."""
        while True:
            number = segments.following(self._directory, self._name)
            try:
                growing = segments.current(self._directory, self._name).open("rb")
            except FileNotFoundError:  # just renamed, or there is none
                growing = None
            if segments.following(self._directory, self._name) == number:
                break
            if growing is not None:
                growing.close()
        if self._growing is not None:
            self._growing.close()
        self._growing = growing
        self._number = number if growing is not None else number - 1

    def _rotated(self) -> list[Segment]:
        """Those older than the growing file; without one, than the next.

        More may have been rotated since: they come the next time.
        """
        last = self._number if self._growing is None else self._number - 1
        return [s for s in segments.rotated(self._directory, self._name) if s.number <= last]

    def _needed(self, older: list[Segment], since: datetime) -> list[Segment]:
        """Those of ``older`` that may hold lines not older than ``since``."""
        if self._growing is not None:
            begins = time_of(self._growing.readline())
            self._growing.seek(0)
            if begins is not None and begins < since:
                return []
        for at in range(len(older) - 1, -1, -1):
            file = _open(older[at])
            if file is not None:
                with file:
                    begins = time_of(file.readline())
                if begins is not None and begins < since:
                    return older[at:]
        return older


def _open(segment: Segment) -> IO[bytes] | None:
    """In whichever form it is by now; None if it is deleted."""
    for path in (segment.path, segment.compressed_path):
        with suppress(FileNotFoundError):
            if path.suffix == segments.COMPRESSED:
                return cast("IO[bytes]", gzip.GzipFile(path))  # one in all but its type
            return path.open("rb")
    return None


def _segment(segment: Segment, since: datetime | None) -> Iterator[bytes]:
    file = _open(segment)
    if file is None:
        return
    with file:
        if since is not None:
            size = 0 if segment.compressed else os.fstat(file.fileno()).st_size
            yield _skip(file, since, size)
        yield from _rest(file)


def _rest(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(CHUNK):
        yield data


def _skip(file: IO[bytes], since: datetime, size: int) -> bytes:
    """Skip lines older than ``since``; return the first that is not, b"" if there is none.

    Lines are in the order of their times, so that the place is found by halving the
    ``size`` of a file that can be sought in; 0 if it cannot.
    """
    low, high = 0, size
    while high - low > _NEAR:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        place, when = _next_time(file)
        if when is None or when >= since or place >= high:
            high = middle
        else:
            low = place
    if size:
        file.seek(low)
    while line := file.readline():
        when = time_of(line)
        if (when is not None and when >= since) or not line.endswith(b"\n"):
            return line
    return b""


def _next_time(file: IO[bytes]) -> tuple[int, datetime | None]:
    """Where the next line with a time begins, and the time; None at the file's end."""
    place = file.tell()
    while line := file.readline():
        if (when := time_of(line)) is not None:
            return place, when
        place += len(line)
    return place, None
