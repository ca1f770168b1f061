"""Where local clients come in by socket: a raw or telnet TCP port, a Unix socket.

Each accepted connection is first asked whose it is and then becomes one attachment.
Raw and Unix are strictly eight bits, both ways: what a client sends goes to the guest as
it is.
"""

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from bridge.base.codec import Codec
from bridge.base.handover import NOBODY, Bag, Keeper, Left, Record, Role
from bridge.console.attach import Attachment
from bridge.console.channel import FdChannel, RejectedError
from bridge.console.console import Console
from bridge.console.manners import Kind, Manners
from bridge.endpoints.guard import looks_like_telnet, looks_like_web
from bridge.kernel import sockdiag
from bridge.kernel.runtime import short_path
from bridge.upstream.transport import adopt

LOOPBACK = "127.0.0.1"

# Per console: each holds kernel buffers, and is written to once per piece of output.
MAX_ATTACHMENTS = 256

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# What the kernel keeps for a client that does not read; the default grows to megabytes.  Has
# room for the pieces that a flood comes in: one that does not fit costs a task switch.
SEND_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Codecs:
    """How a kind of endpoint's codecs are made, for a new client and for one handed over."""

    begin: Callable[[], Codec]
    restore: Callable[[Any], Codec]


@dataclass(frozen=True, slots=True)
class Session:
    """One client of an endpoint."""

    attachment: Attachment
    client: trio.socket.SocketType


class SocketEndpoint:
    """A listening socket of one console; bound when made, serving in ``run``."""

    def __init__(
        self,
        console: Console,
        listener: socket.socket,
        address: str,
        manners: Manners,
        warn: Callable[[str], None],
        codecs: Codecs | None = None,
        keeper: Keeper = NOBODY,
    ) -> None:
        listener.setblocking(False)
        keeper.keep(listener.fileno(), Role.LISTENER)
        self._keeper = keeper
        self._console = console
        self._listener = listener
        self.manners = manners
        self._warn = warn
        self._codecs = codecs
        self._sessions: list[Session] = []
        self.address = address
        """``127.0.0.1:PORT``, or the socket file's path."""
        self._file = _identity(address) if listener.family == socket.AF_UNIX else None

    def close(self) -> None:
        """Stop listening; a socket file goes with it."""
        # Another service's, where the directory was removed and made anew.
        if self._file is not None and _identity(self.address) == self._file:
            Path(self.address).unlink(missing_ok=True)
        close(self._listener, self._keeper)

    def state(self, bag: Bag) -> Record:
        return {
            "fd": bag.put(self._listener.fileno()),
            "sessions": [session_state(session, bag) for session in self._sessions],
        }

    def restore(self, record: Record, bag: Bag) -> None:
        """Take over the clients of another process's endpoint; ``run`` serves them on."""
        for each in present(record["sessions"], bag):
            client = adopt(bag.take(each["client"]))
            self._keeper.keep(client.fileno(), Role.CLIENT)
            codec = self._codecs.restore(each["codec"]) if self._codecs is not None else None
            channel = self._channel(client)
            if not each["new"]:
                channel.inspect = None
            attachment = Attachment.restore(self._console, channel, each["attachment"], bag, codec)
            self._sessions.append(Session(attachment, client))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for session in tuple(self._sessions):
                nursery.start_soon(self._run_session, session)
            await accept_forever(self._listener, self._serve, nursery)

    async def _serve(self, client: trio.socket.SocketType) -> None:
        console = self._console
        why = refusal(client)
        if len(console.readers) >= MAX_ATTACHMENTS:
            why = f"refused a client: {MAX_ATTACHMENTS} are attached already"
        if why:
            self._warn(f"{self.address}: {why}")
            client.close()
            return
        prepare(client)
        self._keeper.keep(client.fileno(), Role.CLIENT)
        codec = self._codecs.begin() if self._codecs is not None else None
        channel, peer = self._channel(client), peer_name(client)
        session = Session(
            Attachment(console, channel, self.manners, codec=codec, peer=peer), client
        )
        self._sessions.append(session)
        await self._run_session(session)

    async def _run_session(self, session: Session) -> None:
        try:
            await session.attachment.run()
        except RejectedError as rejected:
            self._warn(f"{self.address}: {rejected}")
        finally:
            if session.attachment.over:
                self._sessions.remove(session)
                close(session.client, self._keeper)

    def _channel(self, client: trio.socket.SocketType) -> FdChannel:
        if client.family == socket.AF_UNIX:
            return FdChannel(client)  # no web page can open one
        # Both ends of TCP look alike after shutdown and after close; the kernel knows
        # whether a process still holds the other one.
        return FdChannel(client, inspect=self._inspect, gone=lambda: _owner(client) is None)

    def _inspect(self, first_read: bytes) -> None:
        if looks_like_web(first_read):
            raise RejectedError("closed a connection that began like a web browser's (HTTP or TLS)")
        if self.manners.kind is Kind.RAW and looks_like_telnet(first_read):
            self._warn(
                f"{self.address}: a client speaks telnet to the raw port; use the telnet port"
            )


def _identity(path: str) -> tuple[int, int] | None:
    """Which file is at ``path``."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def session_state(session: Session, bag: Bag) -> Record:
    """The record of one client, its descriptor included."""
    channel = session.attachment.channel
    return {
        "client": bag.put(session.client.fileno()),
        "new": isinstance(channel, FdChannel) and channel.inspect is not None,
        "codec": session.attachment.codec_state(),
        "attachment": session.attachment.state(bag),
    }


def present(sessions: Iterable[Record], bag: Bag) -> list[Record]:
    """Those whose descriptor is there; a keeper may not have had room for all."""
    return [each for each in sessions if each["client"] in bag]


def adopt_listener(left: Left) -> socket.socket:
    """The listening socket that was handed over."""
    record, bag = left
    return socket.socket(fileno=bag.take(record["fd"]))


def close(closing: socket.socket | trio.socket.SocketType, keeper: Keeper) -> None:
    """Close a socket that ``keeper`` was told of, who may take a while to close his copy."""
    keeper.release(closing.fileno())
    with suppress(OSError):  # gone already
        closing.shutdown(socket.SHUT_RDWR)
    closing.close()


async def accept_forever(
    listener: socket.socket,
    serve: Callable[[trio.socket.SocketType], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    """Run ``serve`` in ``nursery`` for each client, who is its own to close.

    Not trio.serve_listeners, which closes listener and clients when it is cancelled: they
    may have to live on in another process.
    """
    accepting = trio.socket.from_stdlib_socket(listener)
    while True:
        try:
            client, _ = await accepting.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                await trio.sleep(0.1)  # no event tells when there is room again
            elif error.errno != errno.ECONNABORTED:
                raise
        else:
            nursery.start_soon(serve, client)


def listen_tcp(port: int) -> socket.socket:
    """Listen on ``port`` of the loopback address, any free one for 0; raises OSError.

    No other address: elsewhere a client's owner cannot be known.
    """
    return socket.create_server((LOOPBACK, port), backlog=128)


def listen_unix(path: str) -> socket.socket:
    """Listen on a socket file of mode 0600 at ``path``, in place of a stale one; raises OSError."""
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)  # the mode must be right when the name appears
    try:
        with short_path(path) as short:
            listener.bind(short)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def peer_name(client: trio.socket.SocketType) -> str:
    """A name for the other end, for people to read."""
    if client.family == socket.AF_UNIX:
        pid = struct.unpack("=iII", _credentials(client))[0]
        return f"pid {pid}"
    try:
        return "{}:{}".format(*client.getpeername()[:2])
    except OSError:  # reset since it was accepted
        return ""


def refusal(client: trio.socket.SocketType) -> str:
    """Why this client may not come in; empty if it may.  Nothing of it has been read."""
    owner = _owner(client)
    if owner is None:
        return "refused a client that had left before it could be asked who it is"
    if owner not in {os.geteuid(), 0}:
        return f"refused a client of uid {owner}: only uid {os.geteuid()}'s own may attach"
    return ""


def _owner(client: trio.socket.SocketType) -> int | None:
    """The uid that the other end of a local connection belongs to, None if unknown."""
    if client.family == socket.AF_UNIX:
        uid: int = struct.unpack("=iII", _credentials(client))[1]
        return uid
    # Not SO_PEERCRED: for TCP it succeeds, with uid -1.
    row = _their_row(client)
    return row.uid if row is not None and row.inode else None


def _credentials(client: trio.socket.SocketType) -> bytes:
    """pid, uid and gid of who connected (unix(7), SO_PEERCRED)."""
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)


def _their_row(client: trio.socket.SocketType) -> sockdiag.TcpSocket | None:
    try:
        return sockdiag.find_tcp(client.getpeername()[:2], client.getsockname()[:2])
    except OSError:  # reset since it was accepted
        return None


def prepare(client: trio.socket.SocketType) -> None:
    """Bound its buffer; let TCP find out when one that ended its input has closed altogether."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if client.family != socket.AF_UNIX:
        # Else an echo waits for the acknowledgment of the one before, which may be 40 ms late.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A telnet client's Synch sends a DM as urgent data, which belongs in its place.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
