"""Connect to a console's server; ``transport`` leaves it."""

import errno
import os
import socket

import trio

from bridge.base.errors import BridgeError
from bridge.settings.url import TcpAddress, UnixAddress

CONNECT_LIMIT = 5.0


class DialError(BridgeError):
    """Nobody answers at the address, or nobody has room."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full
        """Somebody listens, but his queue is full."""


async def dial(
    address: TcpAddress | UnixAddress, *, pushes_back: bool = False
) -> trio.socket.SocketType:
    """Return a connected socket; raises DialError, after CONNECT_LIMIT at the latest.

    ``pushes_back`` says of the server that it may leave unread what it is sent.
    """
    try:
        match address:
            case TcpAddress():
                return await _dial_tcp(address, pushes_back)
            case UnixAddress(path):
                return _dial_unix(path)
    except OSError as error:
        raise DialError(_strerror(error)) from error
    except UnicodeError as error:  # a label of a host name that IDNA does not allow
        raise DialError(f"host name: {error}") from error


async def _dial_tcp(address: TcpAddress, pushes_back: bool) -> trio.socket.SocketType:
    try:
        with trio.fail_after(CONNECT_LIMIT):
            stream = await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError as error:
        # A local server that does not complete a handshake has a full queue: QEMU's holds
        # two, and does not shrink while somebody has the console.
        full = bool(address.loopback)
        reason = "its queue is full" if full else f"no answer for {CONNECT_LIMIT:g} s"
        raise DialError(reason, full=full) from error
    tcp = stream.socket
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that vanished is noticed by TCP, within half a minute: QEMU's websocket pong
    # swallows what follows the ping, so there are no pings.
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if not pushes_back:
        # It also ends a connection whose other end has had no room for so long.
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return tcp


def _dial_unix(path: str) -> trio.socket.SocketType:
    # Not trio.open_unix_socket: it takes the EAGAIN of a full queue for success.
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        unix.connect(path)
    except BlockingIOError as error:
        unix.close()
        raise DialError("its queue is full", full=True) from error
    except OSError:
        unix.close()
        raise
    return trio.socket.from_stdlib_socket(unix)


def _strerror(error: OSError) -> str:
    """A reason without the address, which the reader of the message has already."""
    if isinstance(error, socket.gaierror):
        return f"host name: {error.strerror}"
    cause = error
    # trio's happy eyeballs: one error, or a group of one per address.
    while cause.errno is None and isinstance(cause.__cause__, (OSError, ExceptionGroup)):
        inner = cause.__cause__
        if isinstance(inner, ExceptionGroup):
            inner = next(e for e in inner.exceptions if isinstance(e, OSError))
        cause = inner
    if cause.errno == errno.ENOENT:
        return "no such socket"
    return os.strerror(cause.errno).lower() if cause.errno else str(error)
