"""The bytes of a connected socket: read and written without blocking, then left with manners.

``tls.Tls`` puts TLS between.  Whoever is above sees the same face: ``send`` and ``read``
never block and never switch tasks, ``flush`` is a task, ``leave`` the only way out.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from bridge.base.errors import BridgeError
from bridge.base.handover import NOBODY, Keeper, Role
from bridge.upstream.protocol import End

# SIGTERM is to end the service within a second, whatever QEMU does.
LEAVE_LIMIT = 0.7

# QEMU loses what it receives together with the end of the stream (0 to 3 of 15 bytes
# arrived; after 50 ms all had).
LINGER = 0.050


class TransportError(BridgeError):
    """The connection is over, in a way that ``end`` tells."""

    def __init__(self, end: End) -> None:
        super().__init__(end.reason)
        self.end = end


def adopt(fd: int) -> trio.socket.SocketType:
    """The socket that another process has handed over as ``fd``."""
    adopted = socket.socket(fileno=fd)
    adopted.setblocking(False)
    return trio.socket.from_stdlib_socket(adopted)


class Transport:
    """A plain socket."""

    open = True
    """Bytes may pass: there is no handshake below those of the protocol above."""
    portable = True
    """Another process can go on with it."""
    _keeper: Keeper = NOBODY

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.socket = connection
        self.heard = False
        """Anything has come at all."""
        self.ended = False
        """The server has ended its stream."""
        self._tcp = connection.family != socket.AF_UNIX
        self._unsent = b""
        self._not_all_sent = trio.Event()

    def keep(self, keeper: Keeper) -> None:
        """Have somebody keep the socket until it is closed: if we die it is to be left properly."""
        self._keeper = keeper
        keeper.keep(self.socket.fileno(), Role.UPSTREAM)

    def close(self) -> None:
        """Close it, just so."""
        self._keeper.release(self.socket.fileno())
        with suppress(OSError):  # gone already
            self.socket.shutdown(socket.SHUT_WR)
        self.socket.close()

    @property
    def clear(self) -> bool:
        """Everything sent before has left."""
        return not self._unsent

    def send(self, data: bytes) -> None:
        """Send ``data`` with one call if there is room, else let ``flush`` do it.

        One frame, one send: QEMU can be locked by a client that dies amid a frame.
        Raises TransportError only where TLS fails.
        """
        self._write(data)

    @property
    def unsent(self) -> bytes:
        """What ``flush`` has still to send."""
        return self._unsent

    def read(self, limit: int) -> bytes:
        """What has come, perhaps nothing; raises TransportError."""
        return self._read(limit)

    def acknowledge(self) -> None:
        """Let the server know at once that what was read has come.

        QEMU leaves Nagle's algorithm on, and without this one echo in eight comes 40 ms
        late.  The kernel forgets the option by itself (tcp(7)).
        """
        if self._tcp:
            try:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            except OSError:
                return  # reset: the reader is about to meet it

    async def flush(self, on_clear: Callable[[], None]) -> None:
        """Send what had no room, for ever; call ``on_clear`` each time when all has left."""
        while True:
            await self._not_all_sent.wait()
            self._not_all_sent = trio.Event()
            await trio.lowlevel.wait_writable(self.socket)
            data, self._unsent = self._unsent, b""
            self._write(data)
            if self.clear:
                on_clear()

    async def leave(self, last_sent: float) -> bool:
        """Leave a server that has accepted us; tell whether it let us go in time.

        What was begun is sent whole: to end within a frame locks QEMU.  Only this order is
        safe: a QEMU whose client closes while the guest writes, or with a websocket close
        frame while the guest has unread input, never serves another client.
        """
        with trio.CancelScope(shield=True), trio.move_on_after(LEAVE_LIMIT) as limit:
            try:
                await self._send_rest()
                await trio.sleep_until(last_sent + LINGER)
                self._farewell()
                await self._send_rest()
                self.socket.shutdown(socket.SHUT_WR)
                while await self.socket.recv(1 << 16):
                    pass
            except OSError:
                pass  # reset by the server: gone is gone
            finally:
                self.close()
        return not limit.cancelled_caught

    def _farewell(self) -> None:
        """Put what is to be said last into ``_unsent``."""

    async def _send_rest(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[await self.socket.send(self._unsent) :]

    def _write(self, data: bytes) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = os.write(self.socket.fileno(), data)
            except BlockingIOError:
                pass
            except OSError:
                return  # the reader meets the same error and ends the connection
        self._unsent += data[sent:]
        if self._unsent:
            self._not_all_sent.set()

    def _read(self, limit: int) -> bytes:
        try:
            data = os.read(self.socket.fileno(), limit)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise TransportError(self._lost(error)) from error
        self.heard = self.heard or bool(data)
        self.ended = not data
        return data

    def _lost(self, error: OSError) -> End:
        return End(f"connection lost: {os.strerror(error.errno or 0).lower()}")
