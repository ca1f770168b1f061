"""The machine behind one console: found, asked, and helped where its console needs it."""

from collections.abc import Callable
from typing import Any

from bridge.base.errors import BridgeError, StartError
from bridge.console.console import Console
from bridge.console.pacing import Input
from bridge.console.states import State
from bridge.kernel.listeners import is_local
from bridge.service.surroundings import Surroundings
from bridge.settings.config import ConsoleSettings, is_lossless
from bridge.settings.monitor import Address
from bridge.vms.discovery import Found
from bridge.vms.neighbours import version_of
from bridge.vms.qmp import CHARDEVS, VERSION, QmpError, send_break
from bridge.vms.which import chardev_at, peer_at

QMP_MISSING = (
    "add '-qmp unix:/PATH,server=on,wait=off' to QEMU's command line"
    ' and qmp = "unix:///PATH" to the console\'s settings'
)
NO_BREAK = (
    f"there is no way to send one; {QMP_MISSING}; or telnet=on to its -chardev"
    ' and upstream = "telnet" to the settings'
)


class Machine:
    """See the module.  The settings are read each time: they may change."""

    def __init__(
        self,
        console: Console,
        surroundings: Surroundings,
        settings: Callable[[], ConsoleSettings],
    ) -> None:
        self.surroundings = surroundings
        self._console = console
        self._settings = settings
        self.found: Found | None = None
        """Its console, if it is a QEMU of this computer that we may see."""
        self._version: str | None = None

    @property
    def address(self) -> Address:
        return self._settings().url.address

    @property
    def qmp(self) -> Address | None:
        """Where it can be asked: as the user says, or as was seen when it was last looked for."""
        return self._settings().qmp or (self.found.qmp if self.found is not None else None)

    async def monitor(self, missing: str) -> Address:
        """The same, once it has been looked for; raises StartError, which says ``missing``."""
        if self._settings().qmp is None:
            self.found = await self.surroundings.find(self.address)
        if (qmp := self.qmp) is None:
            raise StartError(missing)
        return qmp

    async def learn(self) -> None:
        """Find out whose the console is, and clock its input as that QEMU needs it.

        For each connection: the next one may lead to another QEMU.
        """
        connections = self._console.counts.connections
        self.found = await self.surroundings.find(self.address)
        self._version = await self._ask_version()
        settings, console = self._settings(), self._console
        unsaid = settings.input is Input.AUTO and settings.qemu is None
        if unsaid and is_lossless(self._version) and console.counts.connections == connections:
            console.pacer.trust()
            console.kick()

    def forget(self) -> None:
        """It is gone, and another may come."""
        self.found = self._version = None

    async def _ask_version(self) -> str | None:
        # Its program comes first: a QMP socket is for one client, and when a machine has
        # just started, that may be somebody else's moment.
        if self.found is not None and (version := version_of(self.found)):
            return version
        if (qmp := self.qmp) is None:
            return None
        try:
            async with self.surroundings.monitors.visit(qmp) as link:
                return (await link.execute(VERSION)).text
        except QmpError:
            return None

    async def send_break(self) -> None:
        """Have the guest see a BREAK; raises BridgeError."""
        qmp = await self.monitor(NO_BREAK)
        async with self.surroundings.monitors.visit(qmp) as link:
            chardevs = await link.execute(CHARDEVS)
            await link.execute(send_break(chardev_at(self.address, chardevs).label))

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

    def status(self) -> dict[str, Any] | None:
        """What is known of it; ``state`` as QEMU calls it."""
        seen = self.surroundings.monitors.seen.get(self.qmp) if self.qmp is not None else None
        version = seen.version.text if seen is not None and seen.version else self._version
        if seen is None and version is None:
            return None
        return {"state": seen.state if seen is not None else None, "qemu": version}

    @property
    def wants_holder(self) -> bool:
        """Could a look at this computer's processes tell who has the console?"""
        return self._console.state is State.BUSY and is_local(self.address)

    @property
    def holder(self) -> str | None:
        """Who has the console, where that is known and it is not ours."""
        if self._console.state is not State.BUSY:
            return None
        if is_local(self.address):
            return self.surroundings.holders.get(self.address)
        seen = self.surroundings.monitors.seen.get(self.qmp) if self.qmp is not None else None
        return peer_at(self.address, seen.chardevs) if seen is not None else None
