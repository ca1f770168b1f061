"""The QEMU machines that run: what their command lines say, and what QMP adds to it."""

import os
import re
from dataclasses import dataclass, replace

from bridge.vms import processes
from bridge.vms.processes import Process, Processes
from bridge.vms.qemuargs import Address, Chardev, Machine, Tcp, Unix, parse_argv
from bridge.vms.qmp import CHARDEVS, NAME, CharInfo, QmpRefusedError, Talk, chardev_of, children


@dataclass(frozen=True, slots=True)
class Told:
    """What QMP has answered."""

    name: str | None
    chardevs: tuple[CharInfo, ...]
    devices: dict[str, str]


def inquire() -> Talk[Told]:
    """Ask a QEMU for what its command line may not tell."""
    name = yield NAME
    chardevs = yield CHARDEVS
    devices: dict[str, str] = {}
    for place in ("/machine/unattached", "/machine/peripheral", "/machine/peripheral-anon"):
        for child, kind in (yield children(place)):
            if _MAY_HAVE_CHARDEV.search(kind):
                try:
                    devices[(yield chardev_of(f"{place}/{child}"))] = kind
                except QmpRefusedError:
                    continue  # a bus or a controller
    return Told(name, chardevs, devices)


_MAY_HAVE_CHARDEV = re.compile("serial|console|uart|pl011|debugcon|parallel|vty")


@dataclass(slots=True, eq=False)
class Vm:
    """A QEMU that runs."""

    process: Process
    machine: Machine
    told: Told | None = None
    odd: bool = False
    """Its command line can't be made sense of."""

    @property
    def name(self) -> str:
        """As the user calls it, or something that tells it apart."""
        name = self.machine.name or (self.told.name if self.told else None)
        disk = os.path.splitext(os.path.basename(self.machine.disk or ""))[0]
        return name or disk or f"qemu-{self.process.pid}"

    @property
    def chardevs(self) -> tuple[Chardev, ...]:
        """Those of the command line as QMP completes them, and those of run time."""
        return _complete(self.machine.chardevs, self.told) if self.told else self.machine.chardevs

    @property
    def questions(self) -> bool:
        """Does the command line leave something open that QMP would answer?"""
        floating = [
            c for c in self.machine.chardevs if isinstance(c.address, Tcp) and _floats(c.address)
        ]
        return self.told is None and (bool(self.machine.unread) or len(floating) > 1)


class Vms:
    """Keeps what is known of each VM; ``look`` for those that run now."""

    def __init__(self) -> None:
        self._processes = Processes()
        self._vms: dict[Process, Vm] = {}

    def look(self) -> list[Vm]:
        running = self._processes.look()
        self._vms = {process: self._vms.get(process) or _vm(process) for process in running}
        return list(self._vms.values())


# Files of -readconfig that are looked into, for one QEMU.
MAX_FILES = 16


class _Files:
    """Reads what a process was told to read, up to MAX_FILES."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._left = MAX_FILES

    def read(self, path: str) -> str | None:
        self._left -= 1
        return processes.read_file_of(self._pid, path) if self._left >= 0 else None


def _vm(process: Process) -> Vm:
    return Vm(process, parse_argv(process.argv, _Files(process.pid).read))


def _floats(address: Tcp) -> bool:
    return not address.port or address.to is not None


def _complete(chardevs: tuple[Chardev, ...], told: Told) -> tuple[Chardev, ...]:
    rows = {row.label: row for row in told.chardevs}
    result = []
    for chardev in chardevs:
        # A chardev with mux=on has the socket beneath it.
        row = rows.pop(f"{chardev.id}-base", None) or rows.get(chardev.id)
        rows.pop(chardev.id, None)
        if row is not None:  # else it was removed at run time
            result.append(_completed(chardev, row, told.devices.get(chardev.id)))
    for label, row in rows.items():
        name = label.removesuffix("-base")
        bare = Chardev(name, None, mux=name != label)
        result.append(_completed(bare, row, told.devices.get(name)))
    return tuple(result)


def _completed(chardev: Chardev, row: CharInfo, device: str | None) -> Chardev:
    socket = row.socket
    if device and not chardev.devices:
        chardev = replace(chardev, devices=(device,))
    if socket is None:
        return chardev
    address: Address | None
    if socket.kind == "unix":
        address = Unix(socket.path.removeprefix("@"), abstract=socket.path.startswith("@"))
    elif isinstance(chardev.address, Tcp):  # of "localhost" QMP shows one address of two
        address = replace(chardev.address, port=socket.port, to=None)
    else:
        address = Tcp(socket.host, socket.port) if socket.port else chardev.address
    return replace(
        chardev,
        address=address,
        server=socket.server,
        websocket=chardev.websocket or socket.kind == "websocket",
        telnet=chardev.telnet or socket.kind == "telnet",
    )
