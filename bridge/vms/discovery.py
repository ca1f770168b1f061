"""The consoles of the QEMU machines on this computer, and who holds them.

Brings together what the command lines say (qemuargs), where QEMU listens (locate), and what
QMP tells, where it was asked.  Nothing is connected to: whether a console is held can be
seen from outside, and a look that connects would take QEMU's only place.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import count
from urllib.parse import quote

from bridge.base.errors import UrlError
from bridge.base.printable import printable
from bridge.kernel import sockdiag
from bridge.settings.monitor import address_text
from bridge.settings.url import Inner, TcpAddress, UnixAddress, UpstreamUrl
from bridge.vms import processes
from bridge.vms.locate import Listener, Sockets, absolute, locate, reachable
from bridge.vms.processes import Process
from bridge.vms.qemuargs import Chardev, Device, Tcp, Unix
from bridge.vms.vms import Vm

log = logging.getLogger("ttybridge")


class Slot(StrEnum):
    """Has somebody QEMU's only place at this console?"""

    FREE = "free"
    HELD = "held"
    UNKNOWN = "unknown"


SERIAL = frozenset(
    {
        "serial",
        "isa-serial",
        "pci-serial",
        "pci-serial-2x",
        "pci-serial-4x",
        "usb-serial",
        "virtconsole",
        "sclpconsole",
        "sclplmconsole",
        "spapr-vty",
    }
)
"""Devices at which a guest's console can be."""

# Listed without websocket=on, too.  Not so what else a socket chardev may be for: a guest
# agent, a TPM, a network card.
_LISTED = SERIAL | {"isa-debugcon", "isa-parallel", "parallel", Device.MONITOR}


@dataclass(frozen=True, slots=True)
class Found:
    """A console, as it is now."""

    vm: str
    number: int | None
    """Its place among the consoles of its VM; None for a monitor and the like."""
    chardev: Chardev
    url: str | None
    """None where it can't be told, or can't be said in a URL (an abstract socket)."""
    process: Process
    qmp: TcpAddress | UnixAddress | None
    listener: Listener | None
    slot: Slot
    clients: tuple[int, ...]
    """Socket inodes of those who hold it; 0 for one that is gone, or on another machine."""
    own: bool
    """We may see into the process: it is ours, or we are root."""

    @property
    def bridged(self) -> bool:
        """Is this a console that one may bridge unasked?  (Free or not.)"""
        return self.own and self.url is not None and self.number is not None

    @property
    def keys(self) -> dict[str, str]:
        """What is known of it beside the URL, as a configuration file has it."""
        known = {"qmp": address_text(self.qmp)} if self.qmp is not None else {}
        return known | ({"upstream": Inner.TELNET.value} if self.chardev.telnet else {})


@dataclass
class Kernel:
    """What the kernel says of sockets at one moment, each asked at most once."""

    _connected: dict[int, list[sockdiag.TcpSocket]] = field(default_factory=dict)

    @cached_property
    def tcp(self) -> list[sockdiag.TcpSocket]:
        return sockdiag.tcp_listeners()

    @cached_property
    def unix(self) -> list[sockdiag.UnixSocket]:
        return sockdiag.unix_listeners()

    @cached_property
    def unix_connected(self) -> list[sockdiag.UnixSocket]:
        return sockdiag.unix_connected()

    @cached_property
    def ours(self) -> frozenset[int]:
        """The sockets of this very process."""
        return frozenset((processes.sockets_of(os.getpid()) or {}).values())

    def held(self, address: TcpAddress | UnixAddress) -> bool:
        """Has a server at a local address accepted anybody?"""
        if isinstance(address, TcpAddress):
            return any(row.inode for row in self.connected(address.port))
        return any(row.inode for row in self.unix_connected if row.name == address.path)

    def connected(self, port: int) -> list[sockdiag.TcpSocket]:
        if port not in self._connected:
            self._connected[port] = sockdiag.connected_to(port)
        return self._connected[port]


def consoles(vm: Vm, kernel: Kernel, *, slots: bool = True) -> list[Found]:
    """The consoles and monitors of a VM; without ``slots`` not who has them, which costs most.

    None of one that can't be made sense of: whoever may start a process here may give it
    any command line, and that must end nobody's service.
    """
    try:
        return examine(vm, kernel, slots=slots)
    except OSError:  # out of descriptors, or memory: another time
        return []
    except Exception as error:  # noqa: BLE001 (see above)
        if not vm.odd:
            what = printable(f"{type(error).__name__}: {error}")
            log.warning("%s: its command line is not understood: %s", printable(vm.name), what)
        vm.odd = True
        return []


def examine(vm: Vm, kernel: Kernel, *, slots: bool = True) -> list[Found]:
    """What ``consoles`` returns, unless it raises something."""
    place = _Place.of(vm, kernel)
    own, qmp = place.sockets.own, place.qmp
    result: list[Found] = []
    for chardev in place.chardevs:
        if not _is_listed(chardev):
            continue
        listener = place.listeners.get(chardev.id)
        slot, clients = slot_at(listener, own, kernel) if slots else (Slot.UNKNOWN, ())
        url = _valid(_url(chardev, place.address(chardev)))
        number = sum(f.number is not None for f in result) if _is_console(chardev) else None
        result.append(
            Found(
                vm.name,
                number,
                chardev,
                url,
                vm.process,
                qmp,
                listener,
                slot,
                clients,
                own is not None,
            )
        )
    return result


def qmp_address(vm: Vm, kernel: Kernel) -> TcpAddress | UnixAddress | None:
    """Where QMP can be spoken with a VM, if it is ours.

    What somebody else's QEMU listens for, or what he calls one, takes as long as he likes
    to answer, and says what he likes.
    """
    if vm.odd:
        return None
    place = _Place.of(vm, kernel)
    return place.qmp if place.sockets.own is not None else None


@dataclass(slots=True)
class _Place:
    """The chardevs of a VM and where they listen."""

    chardevs: list[Chardev]
    sockets: Sockets
    listeners: dict[str, Listener]

    @classmethod
    def of(cls, vm: Vm, kernel: Kernel) -> "_Place":
        pid = vm.process.pid
        chardevs = [c for c in vm.chardevs if c.server]
        unix = kernel.unix if any(not isinstance(c.address, Tcp) for c in chardevs) else []
        tcp = kernel.tcp if any(not isinstance(c.address, Unix) for c in chardevs) else []
        sockets = Sockets(tcp, unix, processes.sockets_of(pid), processes.directory_of(pid))
        return cls(chardevs, sockets, locate(chardevs, vm.process.argv, sockets))

    def address(self, chardev: Chardev) -> TcpAddress | UnixAddress | None:
        """Where it listens, or, where that can't be seen, where it was told to."""
        if (listener := self.listeners.get(chardev.id)) is not None:
            return listener.address
        match chardev.address:
            case Tcp(host, int(port), None) if port:
                return TcpAddress(reachable(host), port)
            case Unix(path, False) if full := absolute(path, self.sockets.directory):
                return UnixAddress(full)
        return None

    @property
    def qmp(self) -> TcpAddress | UnixAddress | None:
        """The address of a QMP socket that one can talk to."""
        for chardev in self.chardevs:
            # QMP over a websocket never reads what it is told, and TLS is more than we speak.
            plain = not (chardev.websocket or chardev.tls or chardev.telnet)
            if chardev.device == Device.QMP and plain and (address := self.address(chardev)):
                return address
        return None


def comparable(address: TcpAddress | UnixAddress) -> Iterator[object]:
    """An address as it can be compared: `localhost` is two."""
    if isinstance(address, TcpAddress):
        for host in address.loopback or {address.host}:
            yield host, address.port
    else:
        yield address.path


def console_name(found: Found, taken: Collection[str]) -> str:
    """A console's name: its VM's, with the chardev's for all but the first, and free."""
    suffix = "" if found.number == 0 else f"-{_fit(found.chardev.id)[: MAX_NAME // 2]}"
    name = (_fit(found.vm) or "vm")[: MAX_NAME - len(suffix)] + suffix
    if name not in taken:
        return name
    for n in count(2):
        other = f"{name[: MAX_NAME - len(str(n)) - 1]}-{n}"
        if other not in taken:
            return other
    raise AssertionError


MAX_NAME = 64


def _fit(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("-._")


@dataclass(frozen=True, slots=True)
class Record:
    """A line of ``ttybridge discover --json``: a contract."""

    vm: str
    chardev: str
    device: str | None
    url: str | None
    pid: int
    qmp: str | None
    slot: str
    holder: str | None


def records(found: Iterable[Found]) -> list[Record]:
    """Name those who hold a console, which takes a look at all processes, once."""
    found = list(found)
    wanted = {inode for f in found for inode in f.clients if inode}
    known = processes.holders(wanted) if wanted else {}
    return [
        Record(
            vm=f.vm,
            chardev=f.chardev.id,
            device=f.chardev.device,
            url=f.url,
            pid=f.process.pid,
            qmp=address_text(f.qmp) if f.qmp else None,
            slot=f.slot.value,
            holder=holder_name(f.clients, known) if f.slot is Slot.HELD else None,
        )
        for f in found
    ]


def holder_name(clients: Collection[int], known: Mapping[int, tuple[int, str]]) -> str:
    """Who has a console, by the inodes of its clients and what is known of them."""
    for inode in clients:
        if inode in known:
            pid, name = known[inode]
            return f"{name}, pid {pid}"
    if any(clients):
        return "another user's process"
    return "a client on another machine, or one that is gone"


def _is_listed(chardev: Chardev) -> bool:
    if chardev.device in {Device.QMP, Device.GDB} or chardev.address is None:
        return False
    return chardev.websocket or chardev.device in _LISTED


def _is_console(chardev: Chardev) -> bool:
    """May it be bridged without being asked for?

    No monitor.  No debugcon: a client that stops reading it stops the whole QEMU.  A virtio
    port may be anything, but one with websocket=on is meant for such as we are.
    """
    device = chardev.device
    return device in SERIAL or (device == "virtserialport" and chardev.websocket)


def slot_at(
    listener: Listener | None, own: Mapping[int, int] | None, kernel: Kernel
) -> tuple[Slot, tuple[int, ...]]:
    """Who has been accepted: a row of the server's side with an inode, so a process has it."""
    if listener is None:
        return Slot.UNKNOWN, ()
    mine = set(own.values()) if own is not None else None
    clients = []
    if isinstance(listener.address, TcpAddress):
        for row in kernel.connected(listener.address.port):
            if row.inode and (mine is None or row.inode in mine):
                client = sockdiag.find_tcp(row.remote, row.local)
                clients.append(client.inode if client else 0)
    else:
        clients = [
            row.peer or 0
            for row in kernel.unix_connected
            if row.name == listener.bound and row.inode and (mine is None or row.inode in mine)
        ]
    # Our own upstream is nobody else.
    others = tuple(c for c in clients if not c or c not in kernel.ours)
    return (Slot.HELD if others else Slot.FREE), others


def _valid(url: str | None) -> str | None:
    """The URL, if it is one: a command line may say anything, and be anybody's."""
    try:
        return str(UpstreamUrl.parse(url))
    except UrlError:
        return None


def _url(chardev: Chardev, address: TcpAddress | UnixAddress | None) -> str | None:
    match address:
        case TcpAddress():
            scheme = (
                ("wss" if chardev.tls else "ws")
                if chardev.websocket
                else ("tls" if chardev.tls else "tcp")
            )
            return f"{scheme}://{address}"
        case UnixAddress(path):
            path = quote(path, errors="surrogateescape")
            return f"{'ws+unix' if chardev.websocket else 'unix'}://{path}"
    return None
