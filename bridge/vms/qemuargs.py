"""What the command line of a QEMU says of the machine's name and its consoles.

Pure: from argv, and the texts of the files that it names, to a Machine.  Knows every way
in which a chardev can be written (``-chardev``, ``-serial``, ``-readconfig``, ``-set``, ...) and
which device is in front of it.  Where a chardev really listens is for others to find.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.vms.qemuopts import Section, Values, parse_json, parse_set, parse_values, read_config


@dataclass(frozen=True, slots=True)
class Tcp:
    """``host=H,port=P,to=N``.

    ``host`` is "" for every address.  ``port`` is 0 for any port, None for a service's name.
    """

    host: str
    port: int | None
    to: int | None = None
    ipv4: bool = True
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class Unix:
    """A path as QEMU was told it: relative to QEMU's own directory, or an abstract name."""

    path: str
    abstract: bool = False


@dataclass(frozen=True, slots=True)
class Fd:
    """A listening socket that QEMU was started with; None for one that came in by name."""

    number: int | None


Address = Tcp | Unix | Fd


class Device(StrEnum):
    """What stands in front of a chardev, where that is no device of the guest's."""

    MONITOR = "monitor"
    QMP = "qmp"
    GDB = "gdb"


@dataclass(frozen=True, slots=True)
class Chardev:
    """A socket chardev.  ``address`` is None where QEMU listens nowhere (no host given)."""

    id: str
    address: Address | None
    server: bool = False
    websocket: bool = False
    telnet: bool = False
    tls: bool = False
    mux: bool = False
    logfile: str | None = None
    devices: tuple[str, ...] = ()

    @property
    def device(self) -> str | None:
        """The device in front; of several (mux) the first that is a guest's."""
        own = [d for d in self.devices if d not in {Device.MONITOR, Device.QMP, Device.GDB}]
        return next(iter(own or self.devices), None)


@dataclass(frozen=True, slots=True)
class Machine:
    """All of a command line that matters here."""

    name: str | None
    chardevs: tuple[Chardev, ...]
    disk: str | None = None
    """The first disk image: tells machines without a name apart."""
    unread: tuple[str, ...] = ()
    """Files of -readconfig whose text was not given: what they say is invisible."""


def parse_argv(argv: Iterable[str], read: Callable[[str], str | None]) -> Machine:
    """Read the command line of a QEMU; ``read`` gives the text of a file, or None."""
    line = _CommandLine(read)
    line.take(argv)
    return line.machine()


# The options without an argument (qemu-options.hx of 3.1 to 10; a test compares them with
# the help text of the QEMU that is there).  All others take the next word, whatever it is:
# `-append -serial` is no serial port.
_FLAG_WORDS = """
    h help version audio-help mem-prealloc snapshot usb nographic portrait full-screen no-frame
    alt-grab ctrl-grab no-quit sdl curses win2k-hack no-fd-bootchk no-acpi no-hpet rtc-td-hack
    singlestep preconfig S s enable-kvm enable-hax xen-domid-restrict xen-create xen-attach
    no-reboot no-shutdown daemonize old-param semihosting only-migratable nodefaults
    no-user-config nouserconfig async-teardown enable-sync-profile enable-fips no-kvm
    no-kvm-irqchip no-kvm-pit no-kvm-pit-reinjection tdf mem-lock gtk realtime-mlock
"""
FLAGS = frozenset(_FLAG_WORDS.split())

_X86 = re.compile(r"(?:^|/|\.)(?:qemu-system-(?:x86_64|i386)|qemu-kvm|kvm)[^/]*$")

# The option, the id that QEMU gives the chardev, the device before it: on x86, elsewhere.
_LEGACY: Mapping[str, tuple[str, str, str]] = {
    "serial": ("serial{}", "isa-serial", "serial"),
    "parallel": ("parallel{}", "isa-parallel", "parallel"),
    "monitor": ("compat_monitor{}", Device.MONITOR, Device.MONITOR),
    "qmp": ("compat_monitor{}", Device.QMP, Device.QMP),
    "qmp-pretty": ("compat_monitor{}", Device.QMP, Device.QMP),
    "debugcon": ("debugcon", "isa-debugcon", "isa-debugcon"),
    "gdb": ("gdb", Device.GDB, Device.GDB),
}

# QEMU opens those of -chardev and -monitor as it meets them, then these, in this order.
_LATE = ("serial", "parallel", "debugcon", "gdb")

# Options of which each is a section of its own, and the key that a first bare word is for.
_IMPLIED: Mapping[str, str | None] = {
    "chardev": "backend",
    "device": "driver",
    "mon": "chardev",
    "name": "guest",
    "drive": None,
    "blockdev": "driver",
}
_JSON = frozenset({"device", "blockdev"})

_DISKS = frozenset({"hda", "hdb", "hdc", "hdd", "cdrom", "sd", "mtdblock", "fda", "fdb"})


class _CommandLine:
    """Collects what the words of a command line say."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._x86 = True
        self._sections: list[Section] = []
        self._late: dict[str, list[Section]] = {option: [] for option in _LATE}
        self._fronts: list[tuple[str, str]] = []  # chardev id, device
        self._counts: dict[str, int] = {}
        self._unread: list[str] = []

    def take(self, argv: Iterable[str]) -> None:
        words = iter(argv)
        self._x86 = bool(_X86.search(next(words, "")))
        for word in words:
            if not word.startswith("-") or word == "-":
                self._image(word)
                continue
            option = word.removeprefix("-").removeprefix("-")
            if option == "s":
                self._legacy("gdb", "tcp::1234")
            elif option not in FLAGS:
                self._option(option, next(words, ""))

    def machine(self) -> Machine:
        late = [section for option in _LATE for section in self._late[option]]
        sections = {s.id: s for s in (*self._sections, *late) if s.group == "chardev" and s.id}
        for section in self._sections:
            self._fronts += _fronts_of(section)
        devices: dict[str, list[str]] = {}
        for chardev, device in self._fronts:
            devices.setdefault(chardev, []).append(device)
        return Machine(
            name=self._name(),
            chardevs=tuple(
                _chardev(section, devices.get(chardev, ()))
                for chardev, section in sections.items()
                if section.values.get("backend") == "socket"
            ),
            disk=self._disk(),
            unread=tuple(self._unread),
        )

    def _option(self, option: str, value: str) -> None:
        if option in _IMPLIED:
            values = parse_json(value) if option in _JSON else None
            values = values or parse_values(value, _IMPLIED[option])
            self._sections.append(Section(option, values.get("id"), values))
        elif option in _LEGACY:
            self._legacy(option, value)
        elif option in _DISKS:
            self._image(value)
        elif option == "set":
            self._set(value)
        elif option == "readconfig":
            self._read_config(value)

    def _set(self, value: str) -> None:
        # As in QEMU it changes what came before it.
        if (parsed := parse_set(value)) is None:
            return
        group, name, key, new = parsed
        for section in self._sections:
            if (section.group, section.id) == (group, name):
                section.values[key] = new

    def _read_config(self, path: str) -> None:
        text = self._read(path)
        if text is None:
            self._unread.append(path)
        else:
            self._sections += read_config(text)

    def _legacy(self, option: str, value: str) -> None:
        if option == "monitor" and value.startswith("none"):
            return  # is not counted; `-serial none` is
        pattern, on_x86, elsewhere = _LEGACY[option]
        count = self._counts[pattern] = self._counts.get(pattern, -1) + 1
        device = on_x86 if self._x86 else elsewhere
        if value.startswith("chardev:"):
            self._fronts.append((value.removeprefix("chardev:"), device))
            return
        values = _parse_legacy(value)
        if values is None:
            return
        if option == "gdb":
            values["server"] = "on"  # gdbserver_start() adds it
        name = pattern.format(count)
        section = Section("chardev", name, values)
        self._late.get(option, self._sections).append(section)
        self._fronts.append((name, device))
        if section.flag("mux"):
            self._fronts.append((name, Device.MONITOR))

    def _image(self, path: str) -> None:
        self._sections.append(Section("drive", None, {"file": path}))

    def _name(self) -> str | None:
        names = [s.values.get("guest") for s in self._sections if s.group == "name"]
        return next(filter(None, reversed(names)), None)

    def _disk(self) -> str | None:
        for section in self._sections:
            values = section.values
            path = values.get("file") or values.get("filename")
            # Not the firmware, which is the same for many machines.
            disk = section.group in {"drive", "blockdev"} and values.get("if") != "pflash"
            if disk and path:
                return path
        return None


def _parse_legacy(text: str) -> Values | None:
    """Read ``websocket:HOST:PORT,...`` or ``unix:PATH,...``; None for what is no socket."""
    text, mux = text.removeprefix("mon:"), text.startswith("mon:")
    kind, _, rest = text.partition(":")
    if kind == "unix":
        values = parse_values(rest, "path")
    elif kind in {"tcp", "telnet", "tn3270", "websocket"}:
        # The host has no colon: an IPv6 address can be given by host= only.
        match = re.match(r"([^:]{0,64}):([^,]{1,32})(?:,|$)", rest)
        if match is None:
            return None
        values = {"host": match[1], "port": match[2]} | parse_values(rest[match.end() :])
        if kind in {"telnet", "websocket"}:
            values[kind] = "on"
    else:
        return None
    return values | {"backend": "socket"} | ({"mux": "on"} if mux else {})


def _fronts_of(section: Section) -> Iterator[tuple[str, str]]:
    """Which chardevs a -device or -mon is in front of."""
    values = section.values
    if section.group == "mon":
        control = values.get("mode") == "control"
        yield values.get("chardev", ""), Device.QMP if control else Device.MONITOR
    elif section.group == "device":
        for key, value in values.items():
            if re.fullmatch(r"chardev\d*", key):  # chardev1, chardev2: pci-serial-2x
                yield value, values.get("driver", "")


def _chardev(section: Section, devices: Iterable[str]) -> Chardev:
    values = section.values
    return Chardev(
        id=section.id or "",
        address=_address(section),
        server=section.flag("server"),
        websocket=section.flag("websocket"),
        telnet=section.flag("telnet"),
        tls="tls-creds" in values,
        mux=section.flag("mux"),
        logfile=values.get("logfile"),
        devices=tuple(devices),
    )


def _address(section: Section) -> Address | None:
    values = section.values
    if "path" in values:
        return Unix(values["path"], section.flag("abstract"))
    if "fd" in values:
        return Fd(_number(values["fd"]))
    if "host" not in values or "port" not in values:
        return None
    only4 = section.flag("ipv4") and not section.flag("ipv6")
    only6 = section.flag("ipv6") and not section.flag("ipv4")
    return Tcp(
        values["host"],
        _port(values["port"]),
        _port(values.get("to", "")),
        ipv4=not only6 and section.flag("ipv4", default=True),
        ipv6=not only4 and section.flag("ipv6", default=True),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _port(text: str) -> int | None:
    number = _number(text)
    return number if number is not None and number < 1 << 16 else None
