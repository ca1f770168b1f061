"""What another process has left to this one, by exec(2) or in systemd's store, and who keeps it.

It is used as a whole or not at all; and however that ends, no connection to a QEMU is just
closed: what nobody goes on with is left.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from bridge.base.errors import BridgeError
from bridge.base.handover import NOBODY, Bag, Keeper, Left, Record, RecordError, Role
from bridge.base.printable import printable
from bridge.kernel import succession
from bridge.service import process
from bridge.systemd import keeping, manager
from bridge.systemd import notify as systemd
from bridge.systemd.fdstore import RECORD
from bridge.systemd.keeping import StoreKeeper

log = logging.getLogger("ttybridge")


class Heritage:
    """See the module.  After ``claim`` it is either ``accept``ed or ``renounce``d."""

    def __init__(self, record: Record | None, bag: Bag, store: StoreKeeper | None) -> None:
        self.store = store
        self.stored = False
        """It comes from another process than what ours was."""
        self._record, self._bag = record, bag
        self._connections: list[int] = []
        """To all QEMUs, once more: whoever has taken one may fail."""

    @classmethod
    async def claim(cls) -> "Heritage":
        """What has been passed to this process; what cannot be used is left already."""
        bag, stored, record = Bag(), keeping.passed(), None
        try:
            record = succession.inherit(bag)
        except RecordError as error:
            _say(error)
        if stored or bag.fds:
            process.hold_signals()
        store = await _store(stored or bag.kept.items())
        _add(bag, store.names.items() if store is not None else [])
        if stored and store is not None:
            try:
                record = store.read(bag)
            except RecordError as error:
                _say(error)
        self = cls(record, bag, store)
        self.stored = bool(stored) and record is not None
        if record is None:
            self._close()
        elif not bag.whole:
            self._leave()
        else:
            await self._hold()
        return self

    def __bool__(self) -> bool:
        return self._record is not None

    @property
    def keeper(self) -> Keeper:
        return self.store or NOBODY

    def part(self, name: str) -> Left | None:
        """A part of the record; None for a plain start."""
        return (self._record[name], self._bag) if self._record is not None else None

    def descriptor(self, name: str) -> int | None:
        """One that the record names, if it is there; the caller's from now on."""
        known = self._record.get(name) if self._record is not None else None
        return self._bag.take(known) if known is not None and known in self._bag else None

    def text(self, name: str) -> bytes:
        """Bytes of the record, none if there are none."""
        place = self._record.get(name) if self._record is not None else None
        return self._bag.take_bytes(place or [0, 0])

    def accept(self) -> None:
        """Everything is taken up that is to be."""
        for connection in self._connections:
            os.close(connection)
        self._connections.clear()
        self._close()

    async def renounce(self, error: Exception) -> NoReturn:
        """It has turned out to be of no use: begin anew, with nothing of it open."""
        _say(error)
        succession.leave(self._connections)
        await self.end()
        succession.begin_anew()

    async def end(self) -> None:
        """Nothing is to outlive us."""
        if self.store is not None:
            await self.store.end()

    async def _hold(self) -> None:
        """Keep a descriptor of each connection, for ``renounce``."""
        try:
            for name in self._bag.upstreams & self._bag.fds.keys():
                self._connections.append(os.dup(self._bag.fds[name]))
        except OSError as error:  # there are no more
            self._leave()
            await self.renounce(error)

    def _leave(self) -> None:
        """Leave all QEMUs whose connection nobody has taken."""
        bag = self._bag
        connections = [bag.take(name) for name in sorted(bag.upstreams & bag.fds.keys())]
        succession.leave(connections)
        for fd in connections:
            self.keeper.release(fd)

    def _close(self) -> None:
        """Close what nobody has taken."""
        self._leave()
        for fd in self._bag.fds.values():
            self.keeper.release(fd)
            os.close(fd)
        self._bag.fds.clear()


def decline() -> None:
    """Leave what has been passed to this process, which is not going to be a service."""
    bag = Bag()
    with suppress(RecordError):  # no matter what it says
        succession.inherit(bag)
    _add(bag, keeping.passed())
    succession.close(bag)


def _add(bag: Bag, passed: Iterable[tuple[str, int]]) -> None:
    """Put into ``bag`` what is not there yet, but for the store's own record."""
    known = set(bag.fds.values())
    for name, fd in passed:
        if name != RECORD and fd not in known:
            bag.fds[name] = fd
            if name.startswith(Role.UPSTREAM.value):
                bag.upstreams.add(name)


async def _store(passed: Iterable[tuple[str, int]]) -> StoreKeeper | None:
    """Who keeps what is to outlive us, if systemd does that; it has ``passed`` already."""
    passed, notifier = list(passed), systemd.notifier()
    limit = None
    if not isinstance(notifier, systemd.Silence):
        limit = await manager.store_limit()
    return StoreKeeper(notifier, limit or len(passed), passed) if limit or passed else None


def _say(error: Exception) -> None:
    what = str(error) or type(error).__name__
    if isinstance(error, OSError):
        what = error.strerror or what
    elif not isinstance(error, (RecordError, BridgeError)):
        what = f"{type(error).__name__}: {what}"
    log.warning(
        "what the service before has left is not used, and everything begins anew: %s",
        printable(what, 400),
    )
