"""VMs come and go: their consoles are bridged as they come and retired as they go.

Looks, asks QMP where a command line leaves something open, and does to the service what
the roster says.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from bridge.base.errors import BridgeError
from bridge.base.printable import printable
from bridge.settings.config import ConsoleSettings
from bridge.settings.monitor import Address
from bridge.settings.url import UpstreamUrl
from bridge.vms.discovery import Found, Kernel, consoles, qmp_address
from bridge.vms.processes import descriptors_of
from bridge.vms.qmp import QmpError
from bridge.vms.qmplink import open_qmp
from bridge.vms.roster import Change, Key, News, Roster
from bridge.vms.vms import Vm, Vms, inquire

log = logging.getLogger("ttybridge")

# A console is to be reached within a second after its VM has started.
INTERVAL = 0.5

# While a QEMU is about to open its sockets.
HASTE = 0.1

# A QEMU that has just begun is looked at each time, one that goes on when it has opened or
# closed something: there is no other way for a console to become free.
SETTLING = 10


class Consoles(Protocol):
    """What the service lets Discovery do."""

    @property
    def settings(self) -> Collection[ConsoleSettings]:
        """Of all consoles that are bridged, those added here included."""

    @property
    def changing(self) -> bool:
        """Some are being changed, and may be missing for a moment."""

    def add(self, settings: ConsoleSettings) -> None:
        """Raises BridgeError if it can't be bridged."""

    async def remove(self, name: str) -> None:
        """Raises BridgeError if there is none of that name."""


@dataclass(slots=True, eq=False)
class _Seen:
    """A VM, and what was seen of it."""

    vm: Vm
    looks: int = 0
    descriptors: tuple[str, ...] | None = None
    found: list[Found] = field(default_factory=list)
    asked: bool = False


class Discovery:
    """``run`` until cancelled."""

    def __init__(
        self,
        consoles: Consoles,
        make: Callable[[str, UpstreamUrl, Found], ConsoleSettings] | None = None,
        former: Collection[str] = (),
        dismissed: Iterable[Key] = (),
    ) -> None:
        """``make`` gives the settings of a console that is found, by its name and URL, from
        the user's defaults and from what is known of it (its QMP socket, telnet=on).

        ``former``, ``dismissed``: see Roster.
        """
        self._consoles = consoles
        self._make = make or (lambda name, url, _: ConsoleSettings(name, url))
        self._vms = Vms()
        self._seen: dict[Vm, _Seen] = {}
        self._roster = Roster(former, dismissed)

    @property
    def names(self) -> Collection[str]:
        """Of the consoles that were found: what the next process is to know as ``former``."""
        return self._roster.names

    @property
    def dismissed(self) -> Collection[Key]:
        """Of those that are left alone, as ``names``."""
        return self._roster.dismissed

    def relinquish(self, name: str) -> None:
        """The user has a console of this name himself now."""
        self._roster.relinquish(name)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                found = self._look(nursery)
                if not self._consoles.changing:
                    bridged, now = self._consoles.settings, trio.current_time()
                    await self._obey(self._roster.update(found, bridged, now))
                await trio.sleep(HASTE if self._expecting else INTERVAL)

    @property
    def _expecting(self) -> bool:
        """Has a QEMU begun that does not listen yet?"""
        return any(
            seen.looks < SETTLING and not any(found.listener for found in seen.found)
            for seen in self._seen.values()
        )

    def _look(self, nursery: trio.Nursery) -> list[Found]:
        kernel = Kernel()
        running = self._vms.look()
        self._seen = {vm: self._seen.get(vm) or _Seen(vm) for vm in running}
        explicit = self._roster.explicit(self._consoles.settings) if running else set()
        for seen in self._seen.values():
            if not self._is_due(seen, explicit):
                continue
            seen.found = consoles(seen.vm, kernel)
            qmp = qmp_address(seen.vm, kernel) if seen.vm.questions and not seen.asked else None
            # A held QMP socket would be silent; it may be free another time.
            if qmp is not None and not kernel.held(qmp):
                seen.asked = True
                nursery.start_soon(self._ask, seen, qmp)
        return [found for seen in self._seen.values() for found in seen.found]

    def _is_due(self, seen: _Seen, explicit: Collection[object]) -> bool:
        """Can a look at a VM tell anything new?"""
        seen.looks += 1
        if seen.looks <= SETTLING:
            return True
        if all(self._roster.is_settled(f, explicit) for f in seen.found if f.bridged):
            seen.descriptors = None
            return False
        before, seen.descriptors = seen.descriptors, descriptors_of(seen.vm.process.pid)
        return before != seen.descriptors

    async def _ask(self, seen: _Seen, address: Address) -> None:
        vm = seen.vm
        try:
            async with open_qmp(address) as qmp:
                vm.told = await qmp.converse(inquire())
        except QmpError as error:
            log.warning("%s: %s", printable(vm.name), error)
        seen.looks = 0

    async def _obey(self, news: list[News]) -> None:
        again = {item.name for item in news if item.change is Change.APPEARED}
        async with trio.open_nursery() as nursery:
            for item in news:
                _say(item)
                match item.change:
                    case Change.GONE if item.name in again:
                        await self._remove(item.name)
                    case Change.GONE:
                        nursery.start_soon(self._remove, item.name)
                    case Change.APPEARED:
                        self._add(item)
                    case Change.REPLACED:
                        pass  # the upstream finds whoever listens there by itself

    def _add(self, item: News) -> None:
        assert item.found is not None
        assert item.found.url is not None
        try:
            url = UpstreamUrl.parse(item.found.url)
            self._consoles.add(self._make(item.name, url, item.found))
        except BridgeError as error:
            log.warning("%s: not bridged: %s", item.name, error)
            self._roster.dismiss(item.name)

    async def _remove(self, name: str) -> None:
        try:
            await self._consoles.remove(name)
        except BridgeError as error:  # the user was quicker
            log.info("%s", error)


def _say(item: News) -> None:
    found = item.found
    if found is None:
        log.info("%s: retired (its VM is gone)", item.name)
        return
    who = f"VM {printable(found.vm)}, pid {found.process.pid}"
    match item.change:
        case Change.APPEARED:
            log.info("%s: found %s at %s (%s)", item.name, found.chardev.device, found.url, who)
        case Change.GONE:
            log.info("%s: retired (%s)", item.name, who)
        case Change.REPLACED:
            log.info("%s: started again at %s (%s)", item.name, found.url, who)
