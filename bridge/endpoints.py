"""Where local clients come in by socket: a raw TCP port, a Unix socket.

Each accepted connection is first asked whose it is and then becomes one attachment.
Strictly eight bits, both ways: what a client sends goes to the guest as it is.
"""

import os
import socket
import struct
from collections.abc import Callable
from functools import partial

import trio

from bridge import sockdiag
from bridge.attach import Attachment, FdChannel, RejectedError
from bridge.console import Console
from bridge.guard import looks_like_web

LOOPBACK = "127.0.0.1"

# Per console: each holds kernel buffers, and is written to once per piece of output.
MAX_ATTACHMENTS = 256

# What the kernel keeps for a client that does not read; the default grows to megabytes.
SEND_BUFFER = 64 * 1024


class RawEndpoint:
    """A listening socket of one console; bound when made, serving in ``run``."""

    def __init__(self, listener: socket.socket, warn: Callable[[str], None]) -> None:
        self._listener = listener
        self._warn = warn

    @classmethod
    def tcp(cls, port: int, warn: Callable[[str], None]) -> "RawEndpoint":
        """Listen on ``port`` of the loopback address, any free one for 0.

        Raises OSError.  No other address: elsewhere a client's owner cannot be known.
        """
        return cls(socket.create_server((LOOPBACK, port), backlog=128), warn)

    @classmethod
    def unix(cls, path: str, warn: Callable[[str], None]) -> "RawEndpoint":
        """Listen on a socket file of mode 0600 at ``path``; raises OSError."""
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # the mode must be right when the name appears
        try:
            listener.bind(path)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        return cls(listener, warn)

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``, or the socket file's path."""
        name = self._listener.getsockname()
        return name if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def close(self) -> None:
        self._listener.close()

    async def run(self, console: Console) -> None:
        listener = trio.SocketListener(self._trio_listener())
        await trio.serve_listeners(partial(self._serve, console), [listener])

    def _trio_listener(self) -> trio.socket.SocketType:
        self._listener.setblocking(False)
        return trio.socket.from_stdlib_socket(self._listener)

    async def _serve(self, console: Console, stream: trio.SocketStream) -> None:
        with stream.socket as client:
            try:
                if refusal := _refusal(client, console):
                    raise RejectedError(refusal)
                _prepare(client)
                await Attachment(console, _channel(client)).run()
            except RejectedError as rejected:
                self._warn(f"{self.address}: {rejected}")


def _refusal(client: trio.socket.SocketType, console: Console) -> str:
    """Why this client may not attach; empty if it may.  Nothing of it has been read."""
    if len(console.attachments) >= MAX_ATTACHMENTS:
        return f"refused a client: {MAX_ATTACHMENTS} are attached already"
    owner = _owner(client)
    if owner is None:
        return "refused a client that had left before it could be asked who it is"
    if owner not in {os.geteuid(), 0}:
        return f"refused a client of uid {owner}: only uid {os.geteuid()}'s own may attach"
    return ""


def _owner(client: trio.socket.SocketType) -> int | None:
    """The uid that the other end of a local connection belongs to, None if unknown."""
    if client.family == socket.AF_UNIX:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid: int = struct.unpack("=iII", credentials)[1]
        return uid
    # Not SO_PEERCRED: for TCP it succeeds, with uid -1.
    row = _their_row(client)
    return row.uid if row is not None and row.inode else None


def _their_row(client: trio.socket.SocketType) -> sockdiag.TcpSocket | None:
    try:
        return sockdiag.find_tcp(client.getpeername()[:2], client.getsockname()[:2])
    except OSError:  # reset since it was accepted
        return None


def _channel(client: trio.socket.SocketType) -> FdChannel:
    if client.family == socket.AF_UNIX:
        return FdChannel(client.fileno())  # no web page can open one
    # Both ends of TCP look alike after shutdown and after close; the kernel knows
    # whether a process still holds the other one.
    return FdChannel(client.fileno(), inspect=_inspect, gone=lambda: _owner(client) is None)


def _inspect(first_read: bytes) -> None:
    if looks_like_web(first_read):
        raise RejectedError("closed a connection that began like a web browser's (HTTP or TLS)")


def _prepare(client: trio.socket.SocketType) -> None:
    """Bound its buffer; let TCP find out when one that ended its input has closed altogether."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
