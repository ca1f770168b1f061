"""Which of a machine's chardevs is the console at an address?"""

from collections.abc import Iterable
from pathlib import PurePath

from bridge.base.printable import printable
from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms.qmp import CharInfo, QmpError

_ANY_HOST = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 (compared, not bound)


def chardev_at(address: TcpAddress | UnixAddress, rows: Iterable[CharInfo]) -> CharInfo:
    """The row of query-chardev for ``address``; raises QmpError where none is, or two may be."""
    servers = [row for row in rows if row.socket is not None and row.socket.server]
    for fits in (_exactly, _roughly):
        found = [row for row in servers if fits(address, row)]
        if len(found) == 1:
            return found[0]
    seen = ", ".join(f"{row.label} ({row.filename})" for row in servers) or "none"
    raise QmpError(f"QMP shows no chardev at {address}; it shows: {printable(seen, 300)}")


def peer_at(address: TcpAddress | UnixAddress, rows: Iterable[CharInfo]) -> str | None:
    """The address of the client that has the console; None where QEMU shows none."""
    try:
        socket = chardev_at(address, rows).socket
    except QmpError:
        return None
    return socket.peer if socket is not None else None


def _exactly(address: TcpAddress | UnixAddress, row: CharInfo) -> bool:
    assert row.socket is not None
    if isinstance(address, UnixAddress):
        return row.socket.path == address.path
    hosts = _ANY_HOST | (address.loopback or {address.host})
    return row.socket.port == address.port and row.socket.host in hosts


def _roughly(address: TcpAddress | UnixAddress, row: CharInfo) -> bool:
    """As a relative path, or by another of the host's names."""
    assert row.socket is not None
    if isinstance(address, UnixAddress):
        return PurePath(row.socket.path).name == PurePath(address.path).name
    return row.socket.port == address.port
