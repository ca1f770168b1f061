"""What can be seen of the machines behind consoles: on this computer, and by QMP."""

import trio
from trio.to_thread import run_sync

from bridge.kernel.listeners import is_local
from bridge.service.monitors import Monitors
from bridge.settings.monitor import Address
from bridge.vms import neighbours
from bridge.vms.discovery import Found
from bridge.vms.neighbours import Neighbours

# A look at all processes is good for so long.
FRESH = 1.0

# Whoever asks for a status waits so long at most for what is not known yet.
PATIENCE = 0.1


class Surroundings:
    """Shared by all consoles, so that one look is good for all that need it at a time."""

    def __init__(self) -> None:
        self.monitors = Monitors()
        self.holders: dict[Address, str] = {}
        """Who has a console that is not ours, when that was last looked at."""
        self._sought: set[Address] = set()
        self._sought_at = -FRESH
        self._neighbours = Neighbours()
        self._looking = trio.Lock()

    async def find(self, address: Address) -> Found | None:
        """The console of a QEMU of ours at ``address``."""
        if not is_local(address):
            return None
        async with self._looking:
            if not self._neighbours.fresh:
                await run_sync(self._neighbours.look)
        return self._neighbours.at(address)

    async def look(self, held: set[Address], monitors: set[Address]) -> None:
        """Learn who has the consoles at ``held``, and how the machines of ``monitors`` are.

        What takes too long is given up, or known the next time.
        """
        with trio.move_on_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._seek, held)
                nursery.start_soon(self.monitors.look, monitors)

    async def _seek(self, addresses: set[Address]) -> None:
        now = trio.current_time()
        if not addresses or (addresses == self._sought and now < self._sought_at + FRESH):
            return
        self.holders = await run_sync(neighbours.holders, addresses, abandon_on_cancel=True)
        self._sought, self._sought_at = addresses, now
