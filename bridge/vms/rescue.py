"""The rescue of a locked console: its chardev listens elsewhere for a moment.

A QEMU whose client has left badly serves nobody else, and nothing that a guest or a client
can do ends that for sure.  chardev-change does, and only to another address, for the old
one is taken by the very listener that is to go.
"""

from bridge.base.printable import printable
from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms.qmp import (
    CHARDEVS,
    Command,
    Listening,
    QmpError,
    QmpRefusedError,
    SocketInfo,
    Talk,
    change_tcp,
    change_unix,
)
from bridge.vms.which import chardev_at

_ELSEWHERE = ".rescue"


def rescue(address: TcpAddress | UnixAddress, host: str | None, how: Listening) -> Talk[None]:
    """Free the chardev at ``address``; raises QmpError, then with where it is.

    ``host`` is what QEMU was told, where that is known: of a name it shows one address.
    """
    row = chardev_at(address, (yield CHARDEVS))
    assert row.socket is not None
    away, back = _changes(row.label, row.socket, host, how)
    yield away
    try:
        yield back
    except QmpRefusedError as error:
        rows = yield CHARDEVS
        now = next((r.filename for r in rows if r.label == row.label), "nowhere")
        raise QmpError(f"free, but it listens at {printable(now)} now: {error}") from error


def _changes(
    label: str, socket: SocketInfo, host: str | None, how: Listening
) -> tuple[Command[None], Command[None]]:
    if socket.kind == "unix":
        elsewhere = socket.path + _ELSEWHERE
        return change_unix(label, elsewhere, how), change_unix(label, socket.path, how)
    host = host or socket.host
    return change_tcp(label, host, 0, how), change_tcp(label, host, socket.port or 0, how)
