"""What is to outlive the process, however it ends: kept in systemd's descriptor store.

Owns the names of the descriptors there, and the record beside them that says what they
mean.  While the service runs that is a sketch, written anew soon after each change; at its
end, if another process is to go on, it is whole.
"""

import enum
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable

import trio

from bridge.base.handover import Bag, Record, RecordError, Role
from bridge.kernel import succession
from bridge.systemd import fdstore, manager
from bridge.systemd.fdstore import RECORD, Rank, Store
from bridge.systemd.notify import Notifier, listen_fds

log = logging.getLogger("ttybridge")

# To sketch a thousand consoles takes some hundredths of a second, and they come and go in
# crowds: the next sketch waits for ten times what the last one took.
PAUSES = 10

# systemd's answer takes milliseconds; with thousands of descriptors new to it, seconds.
SETTLE_LIMIT = 1.0
END_LIMIT = 5.0

_RANKS = {
    Role.UPSTREAM: Rank.VITAL,
    Role.PTY: Rank.VITAL,
    Role.LISTENER: Rank.LISTENER,  # the next process may listen there anew
    Role.CLIENT: Rank.CLIENT,
}


# A role and a number.
_NAME = re.compile(f"{RECORD}|[{''.join(role.value for role in Role)}][0-9]+")


def passed() -> list[tuple[str, int]]:
    """What systemd has passed to this process from its store; not what else it may have."""
    return [(name, fd) for name, fd in listen_fds() if _NAME.fullmatch(name)]


class Heir(enum.Enum):
    """Who is to go on after a hand-over."""

    EXEC = "what this process becomes"
    SYSTEMD = "what systemd starts next"


class StoreKeeper:
    """A ``handover.Keeper``.  ``passed`` is what the store has already."""

    def __init__(
        self, notifier: Notifier, limit: int, passed: Iterable[tuple[str, int]] = ()
    ) -> None:
        """Raises OSError."""
        self._store = Store(notifier, limit, log.warning)
        fds = self._store.adopt(passed)
        self._meaning = fdstore.Record(fds.pop(RECORD, None))
        self._store.put(RECORD, self._meaning.fd)
        self._names = {fd: name for name, fd in fds.items()}
        self._last = max((int(name[1:]) for name in fds), default=0)
        self._news = trio.Event()
        self._complained = False

    @property
    def names(self) -> dict[str, int]:
        """What the store has by now, the record too."""
        named = {RECORD: self._meaning.fd} | {name: fd for fd, name in self._names.items()}
        return {name: fd for name, fd in named.items() if self._store.has(name)}

    def read(self, bag: Bag) -> Record:
        """What the record in the store says that was there when we came; raises RecordError."""
        data = self._meaning.read()
        if not data:
            raise RecordError("it has no record")
        return succession.decode(data, bag)

    def keep(self, fd: int, role: Role) -> None:
        name = self._names.get(fd)
        if name is None:
            self._last += 1
            name = self._names[fd] = f"{role.value}{self._last}"
        self._store.put(name, fd, _RANKS[role])
        self.changed()

    def release(self, fd: int) -> None:
        if (name := self._names.pop(fd, None)) is not None:
            self._store.remove(name)
            self.changed()

    def changed(self) -> None:
        self._news.set()

    async def settle(self) -> None:
        await self._told(SETTLE_LIMIT)

    async def _told(self, limit: float) -> bool:
        """Return when systemd has read everything; False if that cannot be said."""
        with trio.move_on_after(limit):
            try:
                await self._store.flush()
            except OSError:  # no descriptor is left to wait by
                return False
            return True
        return False

    async def run(self, describe: Callable[[Bag], Record]) -> None:
        """Keep the store and the sketch up to date, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store.run)
            while True:
                await self._news.wait()
                self._news = trio.Event()
                began = time.process_time()
                self.sketch(describe)
                await trio.sleep(PAUSES * (time.process_time() - began))

    def sketch(self, describe: Callable[[Bag], Record]) -> None:
        """Say what is kept, for the case that we die."""
        try:
            self._write(describe, Bag(self._names, whole=False))
        except OSError as error:
            if not self._complained:
                log.warning("what systemd keeps for us cannot be described: %s", error.strerror)
                self._complained = True

    async def hand_over(self, describe: Callable[[Bag], Record]) -> None:
        """Leave everything to the process that systemd starts next; nothing moves any more.

        QEMUs whose connection is not in the store are left.
        """
        told = await self._told(END_LIMIT)
        bag = Bag(self._names)
        try:
            self._write(describe, bag)
        except OSError as error:
            log.warning("nothing is handed over: %s", error.strerror)
            lost = bag.upstreams
        else:
            lost = {n for n in bag.upstreams if not (told and self._store.has(n))}
        succession.leave((bag.fds[name] for name in sorted(lost)), socket.socket.detach)

    async def end(self) -> None:
        """Everything is closed, and was released: return when systemd knows."""
        for fd in tuple(self._names):
            self.release(fd)
        self._store.remove(RECORD)
        await self._told(END_LIMIT)

    async def restarting(self) -> bool:
        """Why does systemd end us: to start us again at once?"""
        return await manager.pending_job() is manager.Job.RESTART

    def _write(self, describe: Callable[[Bag], Record], bag: Bag) -> None:
        self._meaning.write(*succession.encode(describe(bag), bag))
