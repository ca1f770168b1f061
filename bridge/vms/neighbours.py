"""What this machine shows of a console by its address: whose QEMU listens, who is its client.

Looks at all QEMUs, or at all processes: some milliseconds, in a thread of its own.
"""

import time
from collections.abc import Iterable

from bridge.kernel.sockdiag import TcpState
from bridge.settings.monitor import Address
from bridge.settings.url import TcpAddress
from bridge.vms import processes
from bridge.vms.discovery import Found, Kernel, comparable, consoles, holder_name, slot_at
from bridge.vms.locate import Listener
from bridge.vms.vms import Vms

# A look serves all consoles whose VMs have just started together.
FRESH = 1.0


class Neighbours:
    """Keeps what was seen in the last look; for one thread at a time."""

    def __init__(self) -> None:
        self._vms = Vms()
        self._found: dict[object, Found] = {}
        self._looked = -FRESH

    @property
    def fresh(self) -> bool:
        """The last look was just now."""
        return time.monotonic() < self._looked + FRESH

    def at(self, address: Address) -> Found | None:
        """The console of a QEMU of ours that listened at ``address`` then."""
        return next((self._found[k] for k in comparable(address) if k in self._found), None)

    def look(self) -> None:
        kernel = Kernel()
        self._found = {
            key: found
            for vm in self._vms.look()
            for found in consoles(vm, kernel, slots=False)
            if found.own and found.listener is not None and found.listener.address is not None
            for key in comparable(found.listener.address)
        }
        self._looked = time.monotonic()


def holders(addresses: Iterable[Address]) -> dict[Address, str]:
    """Who has the consoles at addresses of this machine, as far as somebody has."""
    kernel = Kernel()
    clients = {a: slot_at(Listener(0, a, str(a)), None, kernel)[1] for a in addresses}
    wanted = {inode for inodes in clients.values() for inode in inodes if inode}
    known = processes.holders(wanted) if wanted else {}
    return {a: holder_name(inodes, known) for a, inodes in clients.items() if inodes}


def is_held(address: Address) -> bool:
    """Has a client that is still there the console at an address of this machine?

    A locked QEMU keeps the socket of one that is gone.
    """
    kernel = Kernel()
    if isinstance(address, TcpAddress):
        rows = kernel.connected(address.port)
        return any(row.inode and row.state == TcpState.ESTABLISHED for row in rows)
    clients = [row for row in kernel.unix_connected if row.name == address.path and row.inode]
    return any(row.peer and row.peer not in kernel.ours for row in clients)


def version_of(found: Found) -> str | None:
    """Of the QEMU whose console it is."""
    return processes.version_of(found.process.pid)
