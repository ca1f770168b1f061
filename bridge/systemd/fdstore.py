"""Descriptors that outlive the process: systemd's descriptor store (sd_notify(3), FDSTORE).

Owns what lies there.  A PTY's master, a listener, a connection put there is not closed by
our death, however we die, and is passed to the next process under its name.  What a name
means is in the ``Record``, a memfd that lies there too.

The manager's copy keeps a connection up: where the other end has to see the end, close is
``remove`` and shutdown(2).
"""

import enum
import errno
import os
import re
import resource
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from bridge.base.handover import Bytes
from bridge.systemd.notify import Notifier

# Names come back in one variable, LISTEN_FDNAMES, and a single one may have 128 KiB
# (MAX_ARG_STRLEN): beyond that exec fails, and with it every restart.  So 10,000 of these.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,12}")
_MOST = 10_000

RECORD = "state"
"""The name of the record."""


class Rank(enum.IntEnum):
    """Who goes first where the store is too small for all."""

    VITAL = 0  # the record, upstreams, PTYs: nothing takes their place
    LISTENER = 1  # the next process may bind it anew
    CLIENT = 2  # a connection of one


@dataclass(slots=True)
class _Entry:
    name: str
    fd: int
    rank: Rank


class Store:
    """What the manager is to keep for us; ``run`` sees to it that it does.

    ``put`` and ``remove`` say what is wanted, try at once, and leave the rest to ``run``.
    systemd compares what is new with everything that is there: 600 descriptors cost it
    0.2 s, 5,000 some 12 s, while nobody waits.  So what came back is not put again.
    A descriptor stays the caller's, who must not close it before he has said ``remove``.
    """

    def __init__(self, notifier: Notifier, limit: int | None, warn: Callable[[str], None]) -> None:
        """``limit`` is manager.store_limit's: None, and nothing is put anywhere."""
        self._notifier = notifier
        self._limit = _capacity(limit or 0)
        self._warn = warn if limit is not None else None
        self._kept: dict[str, _Entry] = {}  # wanted, and within the limit
        self._left_out: dict[str, _Entry] = {}  # wanted, and beyond it
        self._there: set[str] = set()  # what the manager has
        self._to_remove: dict[str, None] = {}  # names, in order, of what it has in vain
        self._to_put: dict[str, None] = {}  # and of what it has not yet
        self._work = trio.Event()
        self._turn = trio.Lock()  # one task at a time may wait for a socket

    def adopt(self, passed: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Take what the manager passed (systemd.listen_fds), which it has still.

        The caller says ``put`` for what he uses, and closes and removes the rest.
        """
        for name, fd in passed:
            if name in self._kept:  # the newest comes first
                os.close(fd)
            else:
                self._kept[name] = _Entry(name, fd, Rank.CLIENT)
                self._there.add(name)
        return {name: entry.fd for name, entry in self._kept.items()}

    @property
    def left_out(self) -> int:
        """How many descriptors will not outlive us, as they are beyond the limit."""
        return len(self._left_out)

    def has(self, name: str) -> bool:
        """Has the manager been given it?"""
        return name in self._there and name not in self._to_remove

    def put(self, name: str, fd: int, rank: Rank = Rank.VITAL) -> None:
        """Have ``fd`` kept under ``name``, in place of what had the name before."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a name for the store: {name!r}")
        known = self._kept.get(name) or self._left_out.get(name)
        if known is not None and known.fd == fd:
            known.rank = rank
            return
        self._forget(name)
        entry = _Entry(name, fd, rank)
        if len(self._kept) < self._limit or self._make_room(rank):
            self._keep(entry)
        else:
            self._leave_out(entry)
        self._settle()

    def remove(self, name: str) -> None:
        """Have nothing kept under ``name``."""
        self._forget(name)
        if self._left_out and len(self._kept) < self._limit:
            first = min(self._left_out.values(), key=lambda entry: entry.rank)
            del self._left_out[first.name]
            self._keep(first)
        self._settle()

    async def run(self) -> None:
        """Bring the manager up to date, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            await self._deliver()

    async def flush(self) -> None:
        """Return when the manager has read everything: it ignores the words of the dead."""
        await self._deliver()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                async with self._turn:
                    while not self._notifier.send("BARRIER=1", fds=[write]):
                        await trio.lowlevel.wait_writable(self._notifier.fileno())
            finally:
                os.close(write)
            # The manager closes its copy when it comes to it.
            await trio.lowlevel.wait_readable(read)
        finally:
            os.close(read)

    def _forget(self, name: str) -> None:
        self._left_out.pop(name, None)
        self._kept.pop(name, None)
        self._to_put.pop(name, None)
        if name in self._there:
            self._to_remove[name] = None

    def _keep(self, entry: _Entry) -> None:
        self._kept[entry.name] = entry
        self._to_put[entry.name] = None

    def _leave_out(self, entry: _Entry) -> None:
        self._left_out[entry.name] = entry
        if self._warn is not None:
            self._warn(
                f"systemd keeps {self._limit} descriptors for us (FileDescriptorStoreMax=, half of"
                " LimitNOFILE=); connections beyond end with a restart"
            )
            self._warn = None  # once

    def _make_room(self, rank: Rank) -> bool:
        """Leave out the newest of those that yield first to ``rank``."""
        newest_first = reversed(self._kept.values())
        yielding = max(newest_first, key=lambda entry: entry.rank, default=None)
        if yielding is None or yielding.rank <= rank:
            return False
        self._forget(yielding.name)
        self._leave_out(yielding)
        return True

    async def _deliver(self) -> None:
        async with self._turn:
            while not self._settle():
                await trio.lowlevel.wait_writable(self._notifier.fileno())

    def _settle(self) -> bool:
        """Say what is new; False if there is no room for all of it now.

        What is removed first makes room for what is put, and two of one name would both be
        kept.
        """
        while self._to_remove:
            name = next(iter(self._to_remove))
            if not self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}"):
                return self._later()
            del self._to_remove[name]
            self._there.remove(name)
        while self._to_put:
            name = next(iter(self._to_put))
            # Without FDPOLL=0 a PTY whose other end is closed is thrown out at once.
            words = ("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0")
            if not self._notifier.send(*words, fds=[self._kept[name].fd]):
                return self._later()
            del self._to_put[name]
            self._there.add(name)
        return True

    def _later(self) -> bool:
        self._work.set()
        return False


def _capacity(limit: int) -> int:
    """How much of the manager's limit can be used.

    A store that is larger than the process may open fails the start (202/FDS), and then
    everything in it is closed; and the process wants to open more than it got.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(limit, _MOST, most // 2 if most != resource.RLIM_INFINITY else _MOST)


class Record:
    """Some bytes in a memfd, replaced in one step: who reads it after our death finds them whole.

    Once in the store it stays there: what is written is seen through every copy of the
    descriptor.  To store another memfd at each change (FDSTOREREMOVE, FDSTORE) would leave
    a moment without any, and take two datagrams that may have to wait.

    New bytes go where the old ones are not; then the head, written in one piece, turns to
    them.  A process that is killed ends a write between pages, not within the head.
    """

    _HEAD = struct.Struct("=QLL")  # where the bytes begin, how many, their CRC-32
    _PAGE = 4096

    def __init__(self, fd: int | None = None) -> None:
        """A new one, or the one that came back as ``fd``; raises OSError."""
        self.fd = os.memfd_create("ttybridge-state", os.MFD_CLOEXEC) if fd is None else fd
        self._at, self._size = self._PAGE, 0
        self.read()

    def read(self) -> bytes:
        """The bytes, none if there never were any."""
        head = os.pread(self.fd, self._HEAD.size, 0)
        if len(head) < self._HEAD.size:
            return b""
        at, size, checksum = self._HEAD.unpack(head)
        data = os.pread(self.fd, size, at) if at + size <= os.fstat(self.fd).st_size else b""
        if len(data) != size or zlib.crc32(data) != checksum:
            return b""  # written by something else
        self._at, self._size = at, size
        return data

    def write(self, *pieces: Bytes) -> None:
        """Replace the bytes; after an OSError (no memory) the old ones are still there."""
        size, checksum = sum(map(len, pieces)), 0
        before = self._at - self._PAGE  # room between the head and the old ones
        at = end = self._PAGE if size <= before else self._at + self._size
        for piece in pieces:
            self._put(piece, end)
            checksum = zlib.crc32(piece, checksum)
            end += len(piece)
        self._put(self._HEAD.pack(at, size, checksum), 0)
        self._at, self._size = at, size
        os.ftruncate(self.fd, end)

    def close(self) -> None:
        os.close(self.fd)

    def _put(self, data: Bytes, at: int) -> None:
        if os.pwrite(self.fd, data, at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
