"""Connect to a console's server, and leave it: both have manners that QEMU insists on."""

import errno
import os
import socket

import trio

from bridge.errors import BridgeError
from bridge.url import TcpAddress, UnixAddress

CONNECT_LIMIT = 5.0

# SIGTERM is to end the service within a second, whatever QEMU does.
LEAVE_LIMIT = 0.7

# QEMU loses what it receives together with the end of the stream (0 to 3 of 15 bytes
# arrived; after 50 ms all had).
LINGER = 0.050


class DialError(BridgeError):
    """Nobody answers at the address, or nobody has room."""

    def __init__(self, reason: str, *, full: bool = False) -> None:
        super().__init__(reason)
        self.full = full
        """Somebody listens, but his queue is full."""


async def dial(address: TcpAddress | UnixAddress) -> trio.socket.SocketType:
    """Return a connected socket; raises DialError, after CONNECT_LIMIT at the latest."""
    try:
        match address:
            case TcpAddress():
                return await _dial_tcp(address)
            case UnixAddress(path):
                return _dial_unix(path)
    except OSError as error:
        raise DialError(_strerror(error)) from error
    except UnicodeError as error:  # a label of a host name that IDNA does not allow
        raise DialError(f"host name: {error}") from error


async def _dial_tcp(address: TcpAddress) -> trio.socket.SocketType:
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


async def leave(connection: trio.socket.SocketType, unsent: bytes, last_sent: float) -> bool:
    """Leave a server that has accepted us; tell whether it let us go in time.

    ``unsent`` is the rest of a frame that was begun: to end within a frame locks QEMU.

    Only this order is safe: a QEMU whose client closes while the guest writes, or with a
    websocket close frame while the guest has unread input, never serves another client.
    """
    with trio.CancelScope(shield=True), trio.move_on_after(LEAVE_LIMIT) as limit, connection:
        try:
            while unsent:
                unsent = unsent[await connection.send(unsent) :]
            await trio.sleep_until(last_sent + LINGER)
            connection.shutdown(socket.SHUT_WR)
            while await connection.recv(1 << 16):
                pass
        except OSError:
            pass  # reset by the server: gone is gone
    return not limit.cancelled_caught


def quick_ack(connection: trio.socket.SocketType) -> None:
    """Acknowledge what was just received at once; to be said after each read.

    QEMU leaves Nagle's algorithm on: without this one echo in eight comes 40 ms late.
    The kernel forgets the option by itself (tcp(7)).
    """
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


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
