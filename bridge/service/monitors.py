"""The QMP sockets of all machines: visited shortly, one of us at a time, and what was seen there.

A QMP socket serves one client, and others may want it.  So nothing is kept open, and a
socket that another has is left alone by whoever only wants to know.
"""

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import trio
from trio.to_thread import run_sync

from bridge.kernel.listeners import is_local
from bridge.settings.monitor import Address
from bridge.vms.discovery import Kernel
from bridge.vms.neighbours import holders
from bridge.vms.qmp import CHARDEVS, GREETING_LIMIT, STATUS, CharInfo, QmpError, Version
from bridge.vms.qmplink import QmpLink, open_qmp

log = logging.getLogger("ttybridge")

# How long what was seen is good enough, and how many are asked at once: a visit costs some
# milliseconds, and a service may have a thousand machines.
FRESH = 1.0
AT_ONCE = 8

LOOK_AGAIN = 0.1


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine at one moment."""

    state: str
    version: Version | None
    chardevs: tuple[CharInfo, ...]


async def _wait_free(address: Address) -> None:
    """Wait while another has it, but not for long: then raise QmpError.

    Not in QEMU's own queue: that has two places, which those who have left it still take.
    """
    if not is_local(address):
        return
    with trio.move_on_after(GREETING_LIMIT):
        while Kernel().held(address):
            await trio.sleep(LOOK_AGAIN)
        return
    known = await run_sync(holders, [address])
    raise QmpError(f"QMP at {address}: {known.get(address, 'another client')} has it")


class Monitors:
    """See the module."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Address, trio.Lock] = WeakValueDictionary()
        self._asked: dict[Address, float] = {}
        self.seen: dict[Address, Seen] = {}
        """What the last visit showed; missing where it failed."""

    @asynccontextmanager
    async def visit(self, address: Address) -> AsyncIterator[QmpLink]:
        """Raises QmpError."""
        async with self._locks.setdefault(address, trio.Lock()):
            await _wait_free(address)
            async with open_qmp(address) as link:
                yield link

    async def look(self, addresses: Collection[Address]) -> None:
        """Have a look at those that were not looked at just now, the longest ago first.

        May be cancelled: what has been seen by then is there.
        """
        now = trio.current_time()
        due = [a for a in set(addresses) if now >= self._asked.get(a, -FRESH) + FRESH]
        due.sort(key=lambda a: self._asked.get(a, -FRESH))
        kernel = Kernel()
        async with trio.open_nursery() as nursery:
            for address in due[:AT_ONCE]:
                self._asked[address] = now
                if is_local(address) and kernel.held(address):
                    self.seen.pop(address, None)
                else:
                    nursery.start_soon(self._look, address)

    async def _look(self, address: Address) -> None:
        self.seen.pop(address, None)
        try:
            async with self.visit(address) as qmp:
                state = await qmp.execute(STATUS)
                self.seen[address] = Seen(state, qmp.version, await qmp.execute(CHARDEVS))
        except QmpError as error:  # not known, then; whoever needs it is told
            log.debug("QMP at %s: %s", address, error)
