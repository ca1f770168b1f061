"""One local session on a console: the only code that moves bytes between the two.

An attachment is a file descriptor, a position in the scrollback and an input queue.
Output is pushed straight from ``Console.feed`` with non-blocking writes that return
their count; only when the descriptor is full does a task wait for it.  (An awaited
``send_all`` loses its count when it is cancelled.)  Input is read when the queue has
room, and queued before the next await.

What is written besides the output at its position (a replay, a notice, a protocol's
answers) waits in one bytes object until it has left: nothing else comes in between.
"""

import select
import time
from collections.abc import Mapping
from typing import Self

import trio

from bridge.base.codec import Codec, Signal
from bridge.base.handover import Bag, Ending, Record
from bridge.base.printable import printable
from bridge.console.channel import Channel, RejectedError
from bridge.console.console import TOTAL_LIMIT, Console
from bridge.console.manners import Kind, Manners
from bridge.console.queue import QUEUE_LIMIT, InputQueue
from bridge.console.replay import replay, unfinished
from bridge.console.states import State, sentence

# As much as the upstream reads at once: the scrollback gives it out without a copy.
CHUNK = 128 * 1024

# What is owed to a client besides output; one that asks more without reading gets no answer.
EXTRA_LIMIT = 256 * 1024

# How often one who has ended its input is looked at.
LOOK_AGAIN = 1.0

# Enough of the past to know whether the cursor is amid a line or an escape sequence.
_TAIL = 256

# Ends a sequence that was cut short: CAN, which is meant for that, and ST for the control
# strings in which screen and tmux take no notice of CAN.
_CANCEL = b"\x18\x1b\\"

_last_number = 0


def _number(given: int | None = None) -> int:
    """A number that no attachment has had, but the one it was ``given`` in another process."""
    global _last_number  # noqa: PLW0603 (unique in the process)
    number = _last_number + 1 if given is None else given
    _last_number = max(_last_number, number)
    return number


class Attachment:
    """See the module.  Begins at the console's present; ``run`` lasts until its end."""

    def __init__(
        self,
        console: Console,
        channel: Channel,
        manners: Manners,
        *,
        codec: Codec | None = None,
        peer: str = "",
        held: bool = False,
        greeting: bytes = b"",
    ) -> None:
        self.number = _number()
        self.manners = manners
        self.peer = peer
        """Who this is, as far as it is known; for people to read."""
        self.since = time.time()
        self.typed_at: float | None = None
        """When input last came (seconds since the epoch)."""
        self.position = console.scrollback.end
        self._console = console
        self.channel = channel
        self._codec = codec
        self._queue = InputQueue(self._tell_break)
        self._queue.owned = True
        self._input_ended = False
        self.over = False
        """The client is gone."""
        self._extra = codec.greeting() if codec is not None else greeting
        self._line_start: int | None = self.position  # where the cursor stands at one for sure
        self._told = console.marked
        self.held = self._blocked = held
        self.hung_up = False
        """A write has told that nobody is there."""
        self._resumed = False
        self._wait_to_write = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve until the client is gone.

        Raises RejectedError if the first read gave a reason to.
        """
        self._console.attach(self)
        await self._serve()

    def end(self) -> None:
        """End ``run``: the console is gone, if the client is not."""
        self._scope.cancel()

    def state(self, bag: Bag) -> Record:
        """All that the next process needs to go on, but for the descriptor."""
        return {
            "number": self.number,
            "kind": self.manners.kind.value,
            "replay": self.manners.replay,
            "notices": self.manners.notices,
            "writable": self.manners.writable,
            "peer": self.peer,
            "since": self.since,
            "typed_at": self.typed_at,
            "position": self.position if bag.whole else None,
            "line_start": self._line_start,
            "told": self._told,
            "held": self.held,
            "input_ended": self._input_ended,
            "extra": bag.put_bytes(self._extra),
            "typed": bag.put_bytes(self._queue.peek()),
            "breaks": self._queue.breaks,
        }

    @classmethod
    def restore(
        cls,
        console: Console,
        channel: Channel,
        record: Record,
        bag: Bag,
        codec: Codec | None = None,
    ) -> Self:
        """Go on from ``state``; ``run`` then serves on, without a word to the client."""
        manners = Manners(
            Kind(record["kind"]), record["replay"], record["notices"], record["writable"]
        )
        self = cls(console, channel, manners, peer=record["peer"], held=record["held"])
        self.number = _number(record["number"])
        self._codec = codec
        self.since, self.typed_at = record["since"], record["typed_at"]
        self._input_ended = record["input_ended"]
        self._resumed = True
        if record["position"] is None:  # a sketch: the output goes on, but not where it was
            self._line_start = None
            self._say(f"{console.name}: the service has died; output may be missing")
            return self
        self.position, self._line_start = record["position"], record["line_start"]
        self._told = record["told"]
        self._extra = bag.take_bytes(record["extra"])
        console.requeue(self._queue, bag.take_bytes(record["typed"]), record["breaks"])
        return self

    def codec_state(self) -> Mapping[str, object] | None:
        """What the codec's ``restore`` takes; None without a codec."""
        return self._codec.state() if self._codec is not None else None

    async def _serve(self) -> None:
        rejected = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_when_writable)
                    if self._resumed:
                        self.push()
                    elif not self.held:
                        self.begin()
                    try:
                        await self._read_input()
                        await self._wait_gone()
                    except RejectedError as reason:
                        rejected = reason  # past the nursery, which would wrap it in a group
                    nursery.cancel_scope.cancel()
            self.over = True
        finally:
            if self.over or self._console.ending is Ending.LEAVE:
                self.over = True
                self._queue.owned = False
                self._console.detach(self)
        if rejected is not None:
            raise rejected

    # Output.

    def begin(self) -> None:
        """Show a newcomer what it missed, then let output flow.

        What has come since it came itself is live, and not touched.
        """
        console, ring = self._console, self._console.scrollback
        console.catch_up(self)
        past = ring.before(self.position, self.manners.replay)
        shown = replay(past, cut=len(past) < self.position)
        self._owe(shown)
        self._line_start = None if shown else self.position
        self._told = console.marked
        if console.state is not State.ONLINE:
            self._say(sentence(console.name, console.url, console.state, console.reason))
        self.held = self._blocked = self.hung_up = False
        self.push()

    @property
    def reading(self) -> bool:
        return not (self.held or self.hung_up)

    def hold(self) -> None:
        """Write nothing until ``begin``: the client is gone, another may come."""
        self.held = self._blocked = True
        self._extra = b""

    def skip_to_present(self) -> None:
        """Another client has come: what is in the scrollback now is its past."""
        self.position = self._console.scrollback.end

    def push(self) -> None:
        if self._blocked:
            return
        try:
            self._push()
        except BlockingIOError:
            self._blocked = True
            self._wait_to_write.set()
        except OSError:
            # EPIPE, ECONNRESET, EIO: nobody reads any more.  What was typed before is still
            # to be taken; its end is the end of the attachment.
            self._blocked = self.hung_up = True

    def _push(self) -> None:
        console, ring = self._console, self._console.scrollback
        while True:
            if self._extra:
                self._write_extra()
            if self.position < ring.start:
                self._skip()
                continue
            stop = ring.end
            if self._told < console.marked:
                mark = next(mark for mark in console.marks if mark.number > self._told)
                if mark.position <= self.position:
                    self._told = mark.number
                    self._say(sentence(console.name, console.url, mark.state, mark.reason))
                    continue
                stop = mark.position
            if self.position == stop:
                return
            self._write(ring.read(self.position, min(CHUNK, stop - self.position)))

    def _write(self, data: bytes) -> None:
        """Write output from ``position`` on; raise BlockingIOError if not all is written."""
        if self._codec is not None:
            self.position += len(data)
            self._owe(data)
            self._console.progressed()
            return
        written = self.channel.write(data)
        self.position += written
        self._console.progressed()
        if written < len(data):
            raise BlockingIOError

    def _write_extra(self) -> None:
        written = self.channel.write(self._extra)
        self._extra = self._extra[written:]
        if self._extra:
            raise BlockingIOError

    def _owe(self, data: bytes) -> None:
        self._extra += self._codec.encode(data) if self._codec is not None else data

    def _skip(self) -> None:
        skipped = self._console.catch_up(self)
        # What was shown last is gone from the ring: expect the worst of it.
        self._say(
            f"{self._console.name}: {skipped} bytes skipped, read too slowly", _CANCEL + b"\r\n"
        )

    def _say(self, text: str, lead: bytes | None = None) -> None:
        """Write a notice on a line of its own, after ``lead`` or what the output so far calls for."""
        if not self.manners.notices:
            return
        if lead is None:
            lead = b"" if self.position == self._line_start else self._new_line()
        self._owe(lead + f"[ttybridge: {text}]\r\n".encode())
        self._line_start = self.position

    def _new_line(self) -> bytes:
        """What brings a terminal that shows all before ``position`` to the start of a line."""
        tail = self._console.scrollback.before(self.position, _TAIL)
        cancel = _CANCEL if unfinished(tail) else b""
        at_start = tail.rstrip(b"\r").endswith(b"\n")  # \n\r is a line's end, too
        return cancel + (b"\r" if at_start else b"\r\n")

    async def _write_when_writable(self) -> None:
        while True:
            await self._wait_to_write.wait()
            self._wait_to_write = trio.Event()
            await trio.lowlevel.wait_writable(self.channel.fd)
            if not self.held:
                self._blocked = False
                self.push()

    # Input.

    async def _read_input(self) -> None:
        """Read until the end of input.  An OSError then means the client is gone."""
        while not self._input_ended:
            room = await self._console.wait_room(self._queue)
            if self.typed_at is None:
                room = QUEUE_LIMIT  # the first read tells a web page's: it needs its first line
            await trio.lowlevel.wait_readable(self.channel.fd)
            try:
                data = self.channel.read(room)
            except BlockingIOError:
                continue
            except OSError:
                self._scope.cancel()
                return
            if data == b"" or (data is not None and not self._take(data)):
                self._input_ended = True

    def take_rest(self) -> bool:
        """Take what a client who is gone has typed, and end ``run``; False if it is too much.

        Without a guest, who types it away, it might come without end: from the next client.
        """
        for _ in range(TOTAL_LIMIT // QUEUE_LIMIT):
            if self._console.pending >= TOTAL_LIMIT:
                break
            try:
                data = self.channel.read(QUEUE_LIMIT)
            except OSError:  # the end; or nothing, and the next client is there
                data = b""
            if data == b"":
                self._scope.cancel()
                return True
            if data is not None:
                self._take(data)
        return False

    def _take(self, data: bytes) -> bool:
        """Pass on what was read; False at the end of input."""
        if self._codec is None:
            self._type(data)
            return True
        pieces, answer = self._codec.decode(data)
        if answer and len(self._extra) < EXTRA_LIMIT:
            self._extra += answer
            self.push()
        for piece in pieces:
            match piece:
                case bytes():
                    self._type(piece)
                case Signal.BREAK:
                    if self.manners.writable:
                        self._note_typing()
                        self._console.interrupt(self._queue)
                case Signal.END:
                    return False
        return True

    def _type(self, data: bytes) -> None:
        if not self.manners.writable:
            self._console.counts.refused += len(data)
            return
        self._note_typing()
        self._console.offer(self._queue, data)

    def _note_typing(self) -> None:
        self.typed_at = time.time()
        self._console.counts.typed = (self.manners.kind.value, self.peer, self.typed_at)

    def _tell_break(self, refusal: str) -> None:
        if refusal and not self.held and len(self._extra) < EXTRA_LIMIT:
            self._say(f"{self._console.name}: no BREAK: {printable(refusal, 400)}")
            self.push()

    async def _wait_gone(self) -> None:
        """Output goes on after the end of input (``printf ... | nc -N``), until the client closes.

        What tells is POLLHUP or POLLERR, which no poll can be asked not to report; so an
        epoll that asks for nothing else becomes readable exactly then.  But TCP's other end
        closes without a sign if it was shut down before (telnet's `quit` does that), so it
        is looked at again and again.
        """
        try:
            epoll = select.epoll(1)
        except OSError:  # out of descriptors: this client has said all it had to say
            return
        with epoll:
            epoll.register(self.channel.fd, 0)
            while not self.channel.gone():
                with trio.move_on_after(LOOK_AGAIN):
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    return
