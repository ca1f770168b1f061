"""A console's one connection to QEMU: made at once, kept drained, made again for ever.

Feeds the console what arrives, sends what it says, and names the state the connection is
in.  How the states follow each other:

    CONNECTING --answered 101--> ONLINE --ended--> WAITING --tried again--> ...
        |---- not answered, not accepted: BUSY (stays queued, becomes ONLINE when served)
        |---- nobody there, or ended: WAITING
        `---- answered wrongly, or accepted and not answered: FAILED

WAITING tries again by the clock, when a VM on this machine begins to listen, and when
somebody attaches.  FAILED leaves the clock out: each attempt may type an HTTP request
into a guest.
"""

import math
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from socket import AF_UNIX

import trio

from bridge import sockdiag
from bridge.console import Console
from bridge.dial import DialError, dial, leave, quick_ack
from bridge.handover import Bag, Record
from bridge.listeners import Listeners, Listening, is_local, who_listens
from bridge.states import State
from bridge.url import UpstreamUrl
from bridge.websocket import End, Retry, Wire

READ_SIZE = 64 * 1024

# Where more is there than one read takes, so many reads go by without a look at others.
STRAIGHT = 4

# How long a server may be silent until it is looked at, and how often from then on.
FIRST_LOOK = 0.25
NEXT_LOOK = 1.0

# How long one on this machine may be silent after it has accepted us.
SILENCE_LIMIT = 5.0

# A connection that lasted so long was a good one: the next begins with the shortest delay.
STEADY = 5.0

HELD = "another client has this console; queued behind it"
QUEUED = "queued, not served yet"
UNSEEN = "no answer yet; most likely another client has this console"
LOCKED = (
    "nobody has this console, yet nobody is served: QEMU is stopped, or a client that left"
    " badly has locked it (rescue: a byte from the guest, system_reset, or QMP chardev-change"
    " to another port)"
)


def delays() -> Iterator[float]:
    """Seconds to wait before each further attempt: 0.25 doubling to 15, with jitter."""
    delay = 0.25
    while True:
        yield delay * random.uniform(0.75, 1.0)  # noqa: S311 (spreads load, hides nothing)
        delay = min(2 * delay, 15.0)


class Upstream:
    """See the module; ``run`` until cancelled, then QEMU is left properly."""

    def __init__(
        self,
        console: Console,
        url: UpstreamUrl,
        listeners: Listeners,
        warn: Callable[[str], None],
    ) -> None:
        self._console = console
        self._url = url
        self._listeners = listeners
        self._warn = warn

    async def run(self) -> None:
        backoff = delays()
        while True:
            known = who_listens(self._url.address)
            began = trio.current_time()
            retry = await self._connection()
            if trio.current_time() > began + STEADY:
                backoff = delays()
            limit = math.inf if retry is Retry.NO else next(backoff)
            with trio.move_on_after(limit):
                await self._wait_cause(known)

    def state(self, _bag: Bag) -> Record | None:
        """QEMU has been left."""
        return None

    def restore(self, record: Record, bag: Bag) -> None:
        """There is nothing that ``state`` would have given."""

    async def _wait_cause(self, known: Listening) -> None:
        """Wait for an event that makes another attempt worth while."""
        async with trio.open_nursery() as nursery:

            async def wait(cause: Awaitable[None]) -> None:
                await cause
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._console.wait_attached())
            if is_local(self._url.address):
                nursery.start_soon(wait, self._listeners.wait_other(self._url.address, known))

    async def _connection(self) -> Retry:
        """Make one connection and serve it to its end."""
        try:
            socket = await dial(self._url.address)
        except DialError as error:
            self._console.enter(State.BUSY if error.full else State.WAITING, str(error))
            return Retry.YES
        connection = _Connection(socket, Wire(self._url), on_clear=self._console.kick)
        end = None  # if the service is stopping
        try:
            end = await self._serve(connection)
        finally:
            # First, so that nothing is typed into a connection that is ending.
            self._console.hang_up()
            if end is not None:
                state = State.FAILED if end.retry is Retry.NO else State.WAITING
                self._console.enter(state, end.reason)
            if not await connection.close():
                self._warn("QEMU did not let go in time; the console may be locked")
        return end.retry

    async def _serve(self, connection: "_Connection") -> End:
        """Read until the stream has an end; the two other tasks live as long."""
        async with trio.open_nursery() as nursery:
            reading = trio.CancelScope()
            nursery.start_soon(connection.flush)
            nursery.start_soon(self._judge_silence, connection, reading)
            connection.transmit(connection.wire.hello())
            with reading:
                await self._read(connection)
            nursery.cancel_scope.cancel()
        assert connection.wire.end is not None
        return connection.wire.end

    async def _read(self, connection: "_Connection") -> None:
        wire = connection.wire
        flood = Flood()
        while wire.end is None:
            payload = await connection.receive()
            if wire.open and self._console.state is not State.ONLINE:
                self._console.connect(connection)
            if payload:
                await self._feed(payload)
                if pause := flood.pause(len(payload), connection.frames_sent, trio.current_time()):
                    await trio.sleep(pause)

    async def _feed(self, payload: bytes) -> None:
        """Feed in pieces of which each leaves the attachments half a ring to take the last."""
        size = self._console.scrollback.capacity // 2
        for at in range(0, len(payload), size):
            piece = payload[at : at + size]
            await self._console.wait_laggards(len(piece))
            self._console.feed(piece)

    async def _judge_silence(self, connection: "_Connection", reading: trio.CancelScope) -> None:
        """While there is no answer: name the state, and give up on one who will not answer."""
        pause, silence, unheld = FIRST_LOOK, 0.0, 0
        while True:
            await trio.sleep(pause)
            if connection.wire.open:
                return
            match connection.accepted():
                case True:
                    silence += pause
                    if silence >= SILENCE_LIMIT:
                        connection.wire.end = End(
                            f"connected, but no answer in {SILENCE_LIMIT:g} s: no websocket server;"
                            " has the chardev websocket=on?",
                            Retry.NO,
                        )
                        reading.cancel()
                        return
                case False:
                    # A look may fall between one client's leaving and the next one's
                    # turn: only the second that finds no holder says something.
                    unheld = 0 if connection.held_by_another() else min(unheld + 1, 2)
                    self._console.enter(State.BUSY, (HELD, QUEUED, LOCKED)[unheld])
                case None:
                    self._console.enter(State.BUSY, UNSEEN)
            pause = NEXT_LOOK


class Flood:
    """Lets a guest that prints without end be read once a millisecond, not per handful of bytes.

    A flood is a streak of small reads, each soon after the one before and with nothing
    sent between them.  So neither the first bytes after quiet are delayed, nor an echo.
    Pure; one per connection.
    """

    PAUSE = 0.001
    GAP = 0.002
    STREAK = 8
    SMALL = READ_SIZE // 8

    def __init__(self) -> None:
        self._streak = 0
        self._last = -math.inf
        self._sent = 0

    def pause(self, size: int, sent: int, now: float) -> float:
        """How long to wait after a read of ``size`` bytes; ``sent`` counts frames sent so far."""
        calm = size > self.SMALL or sent != self._sent or now > self._last + self.GAP
        self._streak = 0 if calm else self._streak + 1
        self._sent, self._last = sent, now
        if self._streak < self.STREAK:
            return 0.0
        self._last += self.PAUSE
        return self.PAUSE


class _Connection:
    """A connected socket and its protocol state: the Line that a console sends through."""

    def __init__(
        self, socket: trio.socket.SocketType, wire: Wire, on_clear: Callable[[], None]
    ) -> None:
        self.wire = wire
        self._socket = socket
        self._on_clear = on_clear
        self._unsent = b""
        self._not_all_sent = trio.Event()
        self._last_sent = -math.inf  # input for the guest
        self.frames_sent = 0
        self._full_reads = 0  # in a row

    @property
    def clear(self) -> bool:
        """Nothing unsent, and still a websocket: after its end nothing may be framed."""
        return not self._unsent and self.wire.end is None

    def send(self, payload: bytes) -> None:
        self._last_sent = trio.current_time()
        self.frames_sent += 1
        self.transmit(self.wire.send(payload))

    def transmit(self, data: bytes) -> None:
        """Send ``data`` with one call if there is room, else let ``flush`` do it.

        One frame, one send: QEMU can be locked by a client that dies amid a frame.
        """
        sent = 0
        if not self._unsent:
            try:
                sent = os.write(self._socket.fileno(), data)
            except BlockingIOError:
                pass
            except OSError:
                return  # the reader meets the same error and ends the connection
        self._unsent += data[sent:]
        if self._unsent:
            self._not_all_sent.set()

    async def flush(self) -> None:
        """Send what had no room."""
        while True:
            await self._not_all_sent.wait()
            self._not_all_sent = trio.Event()
            await trio.lowlevel.wait_writable(self._socket)
            data, self._unsent = self._unsent, b""
            self.transmit(data)
            if self.clear:
                self._on_clear()

    async def receive(self) -> bytes:
        """Wait for bytes, return the payload in them; may set ``wire.end``."""
        if self._full_reads % STRAIGHT == 0:
            await trio.lowlevel.wait_readable(self._socket)
        try:
            data = os.read(self._socket.fileno(), READ_SIZE)
        except BlockingIOError:
            self._full_reads = 0
            return b""
        except OSError as error:
            self.wire.end = End(f"connection lost: {os.strerror(error.errno or 0).lower()}")
            return b""
        self._full_reads = self._full_reads + 1 if len(data) == READ_SIZE else 0
        quick_ack(self._socket)
        if not data:
            self.wire.receive_eof()
            return b""
        payload, reply = self.wire.receive(data)
        if reply:
            self.transmit(reply)
        return payload

    def accepted(self) -> bool | None:
        """Has the server accepted us, or are we queued?  None if that cannot be seen."""
        if self._socket.family == AF_UNIX:
            return sockdiag.unix_peer_accepted(self._socket.fileno())
        try:
            # The server's end of this connection, if it is on this machine.
            theirs = sockdiag.find_tcp(self._peer, self._own)
        except OSError:  # reset; the reader is about to find out
            return None
        return None if theirs is None else theirs.inode != 0

    def held_by_another(self) -> bool:
        """Has the server accepted another client that is still there?

        A locked QEMU keeps the socket of one that is gone: CLOSE_WAIT, or no row at all.
        """
        if self._socket.family == AF_UNIX:
            return True  # sock_diag does not tell; the usual case is assumed
        try:
            own, (_, port) = self._own, self._peer
        except OSError:
            return True
        return any(
            row.inode and row.state == sockdiag.TcpState.ESTABLISHED and row.remote != own
            for row in sockdiag.connected_to(port)
        )

    @property
    def _own(self) -> sockdiag.Endpoint:
        host, port = self._socket.getsockname()[:2]
        return host, port

    @property
    def _peer(self) -> sockdiag.Endpoint:
        host, port = self._socket.getpeername()[:2]
        return host, port

    async def close(self) -> bool:
        """Leave as QEMU wants it; False if it did not close its end in time."""
        if not self.wire.answered and self.accepted() is False:
            # Still queued, so that nobody would answer our leaving.  When its turn comes
            # QEMU meets request and end of stream together, and lets go.
            self._socket.close()
            return True
        # Without an answer too: QEMU may have begun to serve us since the last look.
        return await leave(self._socket, self._unsent, self._last_sent) or not self.wire.open
