"""The machine behind a console: what is done to it by QMP, each time by a short visit.

A QMP socket serves one client at a time, and others may want it.  So nothing is kept open,
and the consoles of one machine come one after the other.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import trio

from bridge.base.errors import BridgeError, StartError
from bridge.settings.config import ConsoleSettings
from bridge.settings.monitor import Address
from bridge.vms.qmp import CHARDEVS, send_break
from bridge.vms.qmplink import QmpLink, open_qmp
from bridge.vms.which import chardev_at

NO_BREAK = (
    "there is no way to send one; add '-qmp unix:/PATH,server=on,wait=off' to QEMU's command"
    ' line and qmp = "unix:///PATH" to the console\'s settings; or telnet=on to its -chardev'
    ' and upstream = "telnet" to the settings'
)


class Monitors:
    """The QMP sockets of all machines, each visited by one of us at a time."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Address, trio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def visit(self, address: Address) -> AsyncIterator[QmpLink]:
        """Raises QmpError."""
        lock = self._locks.setdefault(address, trio.Lock())
        async with lock, open_qmp(address) as link:
            yield link


class Machine:
    """That of one console, whose settings are read each time: they may change."""

    def __init__(self, monitors: Monitors, settings: Callable[[], ConsoleSettings]) -> None:
        self._monitors = monitors
        self._settings = settings

    async def send_break(self) -> None:
        """Have the guest see a BREAK; raises BridgeError."""
        settings = self._settings()
        if settings.qmp is None:
            raise StartError(NO_BREAK)
        async with self._monitors.visit(settings.qmp) as qmp:
            chardevs = await qmp.execute(CHARDEVS)
            chardev = chardev_at(settings.url.address, chardevs)
            await qmp.execute(send_break(chardev.label))

    async def attempt_break(self, told: Callable[[str], None]) -> None:
        """The same, with the outcome told: why there was none, or nothing."""
        outcome = "the console is ending"
        try:
            await self.send_break()
            outcome = ""
        except BridgeError as error:
            outcome = str(error)
        finally:
            told(outcome)
