"""A console's one connection to QEMU: made at once, kept drained, made again for ever.

Feeds the console what arrives, sends what it says, and names the state the connection is
in.  How the states follow each other:

    CONNECTING --answered 101--> ONLINE --ended--> WAITING --tried again--> ...
        |---- not answered, not accepted: BUSY (stays queued, becomes ONLINE when served)
        |---- nobody there, or ended: WAITING
        `---- answered wrongly, or accepted and not answered: FAILED

WAITING tries again by the clock, when a VM on this machine begins to listen, and when
somebody attaches.  FAILED leaves the clock out where each attempt may type a request into
a guest (protocol.Retry).  A server that never says that it serves us, a plain chardev,
makes the console ONLINE with its first byte, or once it is seen to have accepted us.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Self

import trio

from bridge.base.handover import NOBODY, Bag, Ending, Keeper, Record
from bridge.console.console import Console
from bridge.console.states import State
from bridge.kernel import sockdiag
from bridge.kernel.listeners import Listeners, Listening, is_local, who_listens
from bridge.settings.url import UnixAddress, UpstreamUrl
from bridge.upstream import stranger
from bridge.upstream.backoff import Backoff
from bridge.upstream.credentials import CredentialError
from bridge.upstream.dial import DialError
from bridge.upstream.flood import Flood
from bridge.upstream.protocol import End, Retry, Speech
from bridge.upstream.reach import Reach
from bridge.upstream.transport import Transport, TransportError, adopt

# A flood fills it; what one read costs in calls is a quarter of what its bytes cost.
READ_SIZE = 128 * 1024

# Where more is there than one read takes, so many reads go by without a look at others.
STRAIGHT = 8

# How long a server may be silent until it is looked at, and how often from then on.
FIRST_LOOK = 0.25
NEXT_LOOK = 1.0

# How long one on this machine may be silent after it has accepted us.
SILENCE_LIMIT = 5.0

# A connection that lasted so long was a good one: the next begins with the shortest delay.
STEADY = 5.0

# Bytes of answers that a server may leave unread.
REPLIES = 64 * 1024

HELD = "another client has this console; queued behind it"
QUEUED = "queued, not served yet"
UNSEEN = "no answer yet; most likely another client has this console"
UNSERVED = "nobody has this console, yet nobody is served: QEMU is stopped, or "
LOCKED = UNSERVED + (
    "a client that left badly has locked it (rescue: 'ttybridge rescue', a byte from the guest,"
    " or system_reset)"
)
CROWDED = (
    "others wait for the console, or clients that left badly have locked it (rescue:"
    " 'ttybridge rescue')"
)
UNREAD = UNSERVED + "the guest has still to read what the last client typed"


class Upstream:
    """See the module; ``run`` until cancelled, then QEMU is left properly."""

    def __init__(
        self,
        console: Console,
        reach: Reach,
        listeners: Listeners,
        warn: Callable[[str], None],
        keeper: Keeper = NOBODY,
    ) -> None:
        self._console = console
        self._keeper = keeper
        self._reach = reach
        self._address = reach.url.address
        self._listeners = listeners
        self._warn = warn
        self._handed: _Connection | None = None  # from one process to the next

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            known = who_listens(self._address)
            began = trio.current_time()
            retry = await self._connection()
            if trio.current_time() > began + STEADY:
                backoff.reset()
            delay = math.inf
            if retry is not Retry.NO:
                delay = backoff.delay(watched=not known and self._listeners.sees(self._address))
            with trio.move_on_after(delay):
                await self._wait_cause(known)

    def state(self, bag: Bag) -> Record | None:
        """None where there is no connection, or none that can be handed over."""
        return self._handed.state(bag) if self._handed is not None else None

    def restore(self, record: Record, bag: Bag) -> None:
        connection = _Connection.restore(self._reach, record, bag)
        connection.transport.keep(self._keeper)
        self._handed = connection
        self._console.resume(connection if connection.speech.open else None)

    async def _wait_cause(self, known: Listening) -> None:
        """Wait for an event that makes another attempt worth while."""
        async with trio.open_nursery() as nursery:

            async def wait(cause: Awaitable[None]) -> None:
                await cause
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._console.wait_attached())
            if is_local(self._address):
                nursery.start_soon(wait, self._listeners.wait_other(self._address, known))

    async def _connection(self) -> Retry:
        """Make one connection and serve it to its end."""
        try:
            connection = self._handed or await self._connect()
        except DialError as error:
            if error.full:
                self._tell(State.BUSY, f"{error}; {CROWDED}")
            else:
                self._tell(State.WAITING, str(error))
            return Retry.YES
        except CredentialError as error:
            self._end(End(str(error), Retry.MAYBE))
            return Retry.MAYBE
        self._handed = None
        end = None  # if the service is stopping
        try:
            end = await self._serve(connection)
        finally:
            handing = end is None and self._console.ending is Ending.HAND_OVER
            if handing and connection.transport.portable:
                self._handed = connection
            else:
                await self._close(connection, end)
        if end.explain is not None:
            self._end(replace(end, reason=await end.explain()))
        return end.retry

    async def _connect(self) -> "_Connection":
        connection = _Connection(*await self._reach.connect())
        connection.transport.keep(self._keeper)
        return connection

    async def _close(self, connection: "_Connection", end: End | None) -> None:
        # First, so that nothing is typed into a connection that is ending.
        self._console.hang_up()
        if end is not None and end.explain is None:
            self._end(end)
        if not await connection.close():
            self._warn("QEMU did not let go in time; the console may be locked")

    def _end(self, end: End) -> None:
        self._tell(State.WAITING if end.retry is Retry.YES else State.FAILED, end.reason)

    def _tell(self, state: State, reason: str) -> None:
        self._console.enter(state, reason + self._reach.url.reminder)

    async def _serve(self, connection: "_Connection") -> End:
        """Read until the stream has an end; the two other tasks live as long."""
        async with trio.open_nursery() as nursery:
            reading = trio.CancelScope()
            nursery.start_soon(connection.transport.flush, self._console.kick)
            nursery.start_soon(self._judge_silence, connection, reading)
            connection.begin()
            with reading:
                await self._read(connection)
            nursery.cancel_scope.cancel()
        assert connection.end is not None
        return connection.end

    async def _read(self, connection: "_Connection") -> None:
        flood, counts = Flood(), self._console.counts
        frames_before = counts.frames
        await self._feed(connection)
        while connection.end is None:
            connection.unfed = payload = await connection.receive()
            counts.frames = frames_before + connection.speech.frames
            if connection.speech.open and self._console.line is not connection:
                self._console.connect(connection)
            if payload:
                await self._feed(connection)
            connection.acknowledge()
            if payload and (
                pause := flood.pause(len(payload), connection.frames_sent, trio.current_time())
            ):
                await trio.sleep(pause)

    async def _feed(self, connection: "_Connection") -> None:
        """Feed in pieces of which each leaves the attachments half a ring to take the last."""
        size = self._console.scrollback.capacity // 2
        while connection.unfed:
            piece = connection.unfed[:size]
            await self._console.wait_laggards(len(piece))
            connection.unfed = connection.unfed[size:]
            self._console.feed(piece)

    def _is_held(self, connection: "_Connection") -> bool:
        if isinstance(self._address, UnixAddress):
            return self._listeners.is_held(self._address.path)
        return connection.held_by_another()

    async def _judge_silence(self, connection: "_Connection", reading: trio.CancelScope) -> None:
        """While there is no answer: name the state, and give up on one who will not answer."""
        pause, silence, unheld = FIRST_LOOK, 0.0, 0
        while True:
            await trio.sleep(pause)
            if connection.speech.open or connection.end:
                return
            match connection.accepted():
                case False:
                    # A look may fall between one client's leaving and the next one's
                    # turn: only the second that finds no holder says something.
                    unheld = 0 if self._is_held(connection) else min(unheld + 1, 2)
                    last = LOCKED if connection.speech.greets else UNREAD
                    self._console.enter(State.BUSY, (HELD, QUEUED, last)[unheld])
                case _ if connection.transport.open and not connection.speech.greets:
                    # Nobody says that he serves us; as far as can be seen, he does.
                    connection.speech.open = True
                    self._console.connect(connection)
                    return
                case None if not connection.amid_handshake:
                    self._console.enter(State.BUSY, UNSEEN)
                case _:
                    silence += pause
                    if silence >= SILENCE_LIMIT:
                        connection.give_up(self._reach.url)
                        reading.cancel()
                        return
            pause = NEXT_LOOK


class _Connection:
    """A connection and what is spoken on it: the Line that a console sends through."""

    def __init__(self, transport: Transport, speech: Speech) -> None:
        self.transport = transport
        self.speech = speech
        self._socket = transport.socket
        self._last_sent = -math.inf  # input for the guest
        self.frames_sent = 0
        self._full_reads = 0  # in a row
        self.unfed = b""
        """Output that the console has still to take."""
        self._begun = False

    @classmethod
    def restore(cls, reach: Reach, record: Record, bag: Bag) -> Self:
        """Go on from ``state``."""
        connection = adopt(bag.take(record["fd"]))
        self = cls(*reach.resume(connection, record["speech"]))
        self.transport.send(bag.take_bytes(record["unsent"]))
        self.unfed = bag.take_bytes(record["unfed"])
        self._last_sent = trio.current_time()  # at the latest
        self._begun = True
        return self

    def state(self, bag: Bag) -> Record:
        return {
            "fd": bag.put(self._socket.fileno(), upstream=True),
            "speech": self.speech.state(),
            "unsent": bag.put_bytes(self.transport.unsent),
            "unfed": bag.put_bytes(self.unfed),
        }

    def begin(self) -> None:
        """Say what is said first, if this process is the first to serve the connection."""
        if not self._begun:
            self.transmit(self.speech.hello())
            self._begun = True

    @property
    def end(self) -> End | None:
        return self.speech.end

    @property
    def clear(self) -> bool:
        """Nothing unsent, and no end: after a websocket's end nothing may be framed."""
        return self.transport.clear and self.speech.end is None

    def send(self, payload: bytes) -> None:
        self._last_sent = trio.current_time()
        self.frames_sent += 1
        self.transmit(self.speech.send(payload))

    def send_break(self) -> bool:
        """Send a BREAK; False where none can be said here."""
        said = self.speech.interrupt()
        if said:
            self._last_sent = trio.current_time()
            self.frames_sent += 1
            self.transmit(said)
        return bool(said)

    def transmit(self, data: bytes) -> None:
        try:
            self.transport.send(data)
        except TransportError as error:
            self.speech.end = error.end

    async def receive(self) -> bytes:
        """Wait for bytes, return the payload in them; may set ``end``."""
        if self._full_reads % STRAIGHT == 0:
            await trio.lowlevel.wait_readable(self._socket)
        try:
            data = self.transport.read(READ_SIZE)
        except TransportError as error:
            self.speech.receive_loss(error.end)
            return b""
        self._full_reads = self._full_reads + 1 if len(data) == READ_SIZE else 0
        payload = b""
        if data:
            payload, reply = self.speech.receive(data)
            if reply and len(self.transport.unsent) > REPLIES:
                self.speech.end = End("the server asks without end, and reads no answer")
            elif reply:
                self.transmit(reply)
        if self.transport.ended:
            self.speech.receive_eof()
        return payload

    def acknowledge(self) -> None:
        """Once what was read is passed on; not while there is more, for the next read does it."""
        if not self._full_reads:
            self.transport.acknowledge()

    @property
    def amid_handshake(self) -> bool:
        """Somebody answers, but not all of it yet: amid TLS's handshake, or before telnet."""
        return self.transport.heard and not (self.transport.open and self.speech.open)

    def give_up(self, url: UpstreamUrl) -> None:
        """He has accepted us, and is silent: he is no such server."""
        if why := self.speech.missing:
            self.speech.end = End(why, Retry.NO)
            return
        self.speech.end = stranger.silent(SILENCE_LIMIT, url, amid_tls=not self.transport.open)

    def accepted(self) -> bool | None:
        """Has the server accepted us, or are we queued?  None if that cannot be seen."""
        return sockdiag.accepted(self._socket)

    def held_by_another(self) -> bool:
        """Has the server accepted another client that is still there?

        A locked QEMU keeps the socket of one that is gone: CLOSE_WAIT, or no row at all.
        """
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
        if not self.transport.heard and self.accepted() is False:
            # Still queued, so that nobody would answer our leaving.  When its turn comes
            # QEMU meets request and end of stream together, and lets go.
            self.transport.close()
            return True
        # Without an answer too: QEMU may have begun to serve us since the last look.
        # Only the websocket of a QEMU can be locked; a plain chardev with much to read yet
        # lets go when it has.
        locked = self.speech.open and self.speech.greets
        return await self.transport.leave(self._last_sent) or not locked
