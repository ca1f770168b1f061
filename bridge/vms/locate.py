"""Which of the sockets that listen on this machine is which chardev's?

A command line says ``port=0``, ``to=4600`` or ``fd=3``; the kernel knows where QEMU listens.  Logic
alone: the rows and QEMU's descriptors come from sockdiag and processes.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.kernel.sockdiag import TcpSocket, UnixSocket
from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms.qemuargs import Chardev, Fd, Tcp, Unix

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens.  ``address`` is where to connect to; None for an abstract name."""

    inode: int
    address: TcpAddress | UnixAddress | None
    bound: str
    """The numeric host, or the name as it was bound."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """What is there to choose from.

    ``own`` is QEMU's descriptors and their inodes in order; None where we may not see
    them, so that an address alone must do.
    """

    tcp: Sequence[TcpSocket]
    unix: Sequence[UnixSocket]
    own: Mapping[int, int] | None
    directory: str | None


def locate(
    chardevs: Iterable[Chardev], argv: Sequence[str], sockets: Sockets
) -> dict[str, Listener]:
    """The listener of each chardev by its id; those that can't be told are missing."""
    tcp, unix = list(sockets.tcp), list(sockets.unix)
    if sockets.own is not None:
        place = {inode: i for i, inode in enumerate(sockets.own.values())}
        tcp = sorted((r for r in tcp if r.inode in place), key=lambda r: place[r.inode])
        unix = [r for r in unix if r.inode in place]
    found: dict[str, Listener] = {}
    floating = []
    for chardev in chardevs:
        match chardev.address:
            case Tcp(port=int(port), to=None) as wanted if port:
                fits = [r for r in tcp if r.local[1] == port and _fits(wanted, r.local[0])]
                _note(found, chardev.id, [_tcp(row, wanted) for row in fits])
            case Tcp() as wanted:
                floating.append((chardev.id, wanted))
            case Unix(path, abstract):
                names = ["@" + path] if abstract else [path]
                _note(found, chardev.id, [_unix(r, sockets) for r in unix if r.name in names])
            case Fd(int(number)) if sockets.own is not None:
                inode = sockets.own.get(number)
                rows = [_tcp(r, None) for r in tcp if r.inode == inode]
                rows += [_unix(r, sockets) for r in unix if r.inode == inode]
                _note(found, chardev.id, rows)
    if sockets.own is not None:
        taken = {listener.inode for listener in found.values()}
        free = [row for row in tcp if row.inode not in taken]
        found |= _float(floating, free, argv)
    return found


def _float(
    wanting: Iterable[tuple[str, Tcp]], rows: list[TcpSocket], argv: Sequence[str]
) -> dict[str, Listener]:
    """Give each of those that want a free port one of the rows that are left.

    QEMU opens its chardevs in order, so that the order of its descriptors is theirs.
    Any port: none that the command line names, such as that of a hostfwd.
    """
    named = {int(n) for word in argv for n in re.findall(r"(?<![0-9])[0-9]{1,5}(?![0-9])", word)}
    found: dict[str, Listener] = {}
    for name, wanted in wanting:
        fits = [
            row
            for row in rows
            if _fits(wanted, row.local[0])
            and (
                wanted.port <= row.local[1] <= (wanted.to or wanted.port)
                if wanted.port
                else row.local[1] not in named
            )
        ]
        if not fits:
            continue
        mine = fits[:1]
        # A name or all addresses: one socket each for IPv4 and IPv6.
        if fits[1:] and (":" in fits[0].local[0]) != (":" in fits[1].local[0]):
            mine = fits[:2]
        rows = [row for row in rows if row not in mine]
        _note(found, name, [_tcp(row, wanted) for row in mine])
    return found


def _note(found: dict[str, Listener], name: str, listeners: list[Listener]) -> None:
    if listeners:
        found[name] = min(listeners, key=lambda listener: ":" in listener.bound)  # IPv4 first


def _fits(wanted: Tcp, host: str) -> bool:
    """May a socket that is bound to ``host`` be what was asked for?"""
    if not (wanted.ipv6 if ":" in host else wanted.ipv4):
        return False
    if wanted.host in {"", *_WILDCARDS}:
        return host in (_WILDCARDS if not wanted.host else {wanted.host})
    loopback = TcpAddress(wanted.host, 0).loopback
    if loopback:
        return host in loopback
    numeric = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%]*", wanted.host)
    return host == wanted.host if numeric else True


def _tcp(row: TcpSocket, wanted: Tcp | None) -> Listener:
    host, port = row.local
    return Listener(
        row.inode, TcpAddress(reachable(wanted.host if wanted else host, host), port), host
    )


def reachable(wanted: str, bound: str = "") -> str:
    """The host to connect to: as written if it is one, else where it is bound."""
    host = wanted if wanted and wanted not in _WILDCARDS else bound
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _unix(row: UnixSocket, sockets: Sockets) -> Listener:
    path = None if row.name.startswith("@") else absolute(row.name, sockets.directory)
    return Listener(row.inode, UnixAddress(path) if path else None, row.name)


def absolute(path: str, directory: str | None) -> str | None:
    """Where a path of QEMU's is; None for a relative one if its directory can't be seen."""
    if path.startswith("/"):
        return path
    return os.path.join(directory, path) if directory else None
