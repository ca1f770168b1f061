"""The hub: one VM's serial port, between its upstream and its attachments.

Owns the state, the scrollback, the pacing and the accounting.  All of it is synchronous,
so a cancellation can never fall between a byte's being taken and its being counted.
Knows neither sockets nor PTYs: attachments and the line to the guest are seen through
two small protocols.

Down: ``feed`` appends to the scrollback and lets each attachment push what it can take
at once.  Up: ``kick`` takes what the attachments' queues hold, as the pacer allows, and
sends it.  Both run straight through in the task that brought the byte; no task switch
stands between a key and the guest.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import trio

from bridge.base.handover import Bag, Ending, Record
from bridge.console.pacing import Pacer
from bridge.console.patience import Patience
from bridge.console.scrollback import Scrollback
from bridge.console.states import State

# What an attachment may have typed ahead of the guest; then its client is not read.
QUEUE_LIMIT = 4096

# The same for all of a console's typists together, those included who have left.
TOTAL_LIMIT = 256 * 1024

# Changes of state that a reader which is far behind can still be told of.
MARKS = 64


@dataclass(frozen=True, slots=True)
class Mark:
    """A change of state, at its place in the stream of output."""

    number: int
    """Counts up from 1."""
    position: int
    state: State
    reason: str
    time: float
    """Seconds since the epoch."""


class Line(Protocol):
    """The way to the guest while ONLINE."""

    @property
    def clear(self) -> bool:
        """Everything sent before has left."""

    def send(self, payload: bytes) -> None:
        """Send at once, or as soon as possible; never blocks, never raises."""


class Reader(Protocol):
    """One who follows the output, as the console sees it: an attachment, or the log."""

    position: int

    def push(self) -> None:
        """Write what is new in the scrollback, as much as possible at once; never raises."""


class InputQueue:
    """What one attachment has typed and the guest has not been sent: bounded."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.owned = False
        """Somebody is attached who may add to it, and who hands it over."""
        self.dropped = 0
        """Bytes that will never be sent: the guest went away first."""

    def __len__(self) -> int:
        return len(self._data)

    @property
    def room(self) -> int:
        """How many bytes may be put."""
        return QUEUE_LIMIT - len(self._data)

    def put(self, data: bytes) -> None:
        self._data += data

    def peek(self) -> bytes:
        return bytes(self._data)

    def take(self, count: int) -> bytes:
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken


@dataclass(slots=True)
class Counts:
    """What has happened so far, in bytes where nothing else is said."""

    connections: int = 0  # times that the guest was reached
    frames: int = 0  # of websocket
    sent: int = 0  # to the guest
    discarded: int = 0  # typed while there was no guest to type to
    refused: int = 0  # typed by those who may only read
    skipped: int = 0  # missed by readers that were too slow
    typed: Sequence[Any] = ()  # who typed last: kind, peer, seconds since the epoch
    seconds: dict[State, float] = field(default_factory=lambda: dict.fromkeys(State, 0.0))
    """Spent in each state, up to the last change."""


class Console:
    """See the module.  ``on_state`` is called after each change of state or reason."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        scrollback: int,
        pacer: Pacer,
        on_state: Callable[["Console"], None] = lambda _console: None,
        on_break: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.url = url
        self.scrollback = Scrollback(scrollback)
        self.pacer = pacer
        self.state = State.CONNECTING
        self.reason = ""
        self.since = time.time()
        """When the state was entered."""
        self.marks: deque[Mark] = deque(maxlen=MARKS)
        self.marked = 0
        """The number of the last mark."""
        self.counts = Counts()
        self.readers: list[Reader] = []
        """All who follow the output; the first to come is the first to be pushed to."""
        self.ending = Ending.LEAVE
        self._on_state = on_state
        self.send_break = on_break
        """Have the guest see a BREAK, if there is a way to it; never blocks."""
        self._entered = time.monotonic()
        self.line: Line | None = None
        """The way to the guest while ONLINE."""
        self._queues: deque[InputQueue] = deque()  # those with something in them
        self.pending = 0
        """Bytes typed and not yet sent."""
        self._taken = trio.Event()
        self._timer = math.inf  # when run() will ask the pacer again
        self._rearm = trio.Event()
        self._attached = trio.Event()
        self._patience = Patience(scrollback // 2)
        self._landing = 0  # what all are to have read before more is read upstream
        self._progress = trio.Event()

    # Handing over.

    def state_record(self, bag: Bag) -> Record:
        """All that the next process needs to go on; the attachments have records of their own."""
        assert bag.whole
        ring = self.scrollback
        # What those have typed who have left, in the order of their turns.
        orphans = [q for q in self._queues if not q.owned]
        return {
            "end": ring.end,
            "past": bag.put_bytes(ring.before(ring.end, ring.capacity)),
            "state": self.state.name,
            "reason": self.reason,
            "since": self.since,
            "marked": self.marked,
            "marks": [[m.number, m.position, m.state.name, m.reason, m.time] for m in self.marks],
            "pacer": self.pacer.state(trio.current_time()),
            "counts": asdict(self.counts) | {"seconds": self._named_seconds()},
            "typed": [bag.put_bytes(q.peek()) for q in orphans],
        }

    def restore(self, record: Record, bag: Bag) -> None:
        """Go on from ``state_record``; the upstream tells by ``resume`` if it is connected."""
        past = bag.take_bytes(record["past"])
        self.scrollback = Scrollback.resume(self.scrollback.capacity, record["end"], past)
        self.since, self.marked = record["since"], record["marked"]
        for number, position, state, reason, at in record["marks"]:
            self.marks.append(Mark(number, position, State[state], reason, at))
        counts = dict(record["counts"])
        seconds = {State[name]: spent for name, spent in counts.pop("seconds").items()}
        self.counts = Counts(**counts, seconds=seconds)
        self.state, self.reason = State[record["state"]], record["reason"]
        self._left = record["pacer"], [bag.take_bytes(place) for place in record["typed"]]

    def resume(self, line: Line | None) -> None:
        """The connection through ``line`` was handed over with the console; or it was not."""
        pacer, typed = self._left
        self.line = line
        if line is not None:
            self.pacer.restore(pacer, trio.current_time())
        elif self.state is State.ONLINE:
            self.enter(State.CONNECTING)
        for data in typed:
            self.requeue(InputQueue(), data)

    def _named_seconds(self) -> dict[str, float]:
        return {state.name: spent for state, spent in self.seconds().items()}

    # The upstream's side.

    def connect(self, line: Line) -> None:
        """There is a guest at the end of ``line``: ONLINE until ``hang_up``."""
        self.line = line
        self.pacer.reset()
        self.counts.connections += 1
        self.enter(State.ONLINE)

    def hang_up(self) -> None:
        """The line is gone, and what was to be sent through it; ``enter`` says why."""
        self.line = None
        self._drop_input()

    def enter(self, state: State, reason: str = "") -> None:
        """The upstream has changed state, or has a new reason for it."""
        assert (state is State.ONLINE) == (self.line is not None)
        self._attached = trio.Event()
        if (state, reason) == (self.state, self.reason):
            return
        if state is not self.state:
            self._mark(state, reason)
        self.state, self.reason = state, reason
        self._on_state(self)
        self._push()

    def seconds(self) -> dict[State, float]:
        """How long it has been in each state so far."""
        spent = dict(self.counts.seconds)
        spent[self.state] += time.monotonic() - self._entered
        return spent

    def _mark(self, state: State, reason: str) -> None:
        now = time.monotonic()
        self.counts.seconds[self.state] += now - self._entered
        self._entered, self.since = now, time.time()
        self.marked += 1
        self.marks.append(Mark(self.marked, self.scrollback.end, state, reason, self.since))

    def feed(self, data: bytes) -> None:
        """Take output of the guest: keep it, pass it on, count echoes, in this order.

        Who waits for an echo has it before it is counted.
        """
        self.scrollback.append(data)
        self._push()
        now = trio.current_time()
        self.pacer.output(data, now)
        self._kick(now)

    def _push(self) -> None:
        for reader in tuple(self.readers):
            reader.push()

    async def wait_laggards(self, count: int) -> None:
        """Wait while ``count`` bytes more would overtake a reader that deserves patience."""
        self._landing = self.scrollback.end + count - self.scrollback.capacity
        while left := [self._patience.left(r) for r in self._laggards()]:
            began, limit = trio.current_time(), min(left)
            self._progress = trio.Event()
            with trio.move_on_after(limit) as scope:
                await self._progress.wait()
            spent = limit if scope.cancelled_caught else trio.current_time() - began
            self._patience.spend(self._laggards(), spent)

    def _laggards(self) -> list[Reader]:
        """Those who would be overtaken, and deserve patience."""
        landing, patience = self._landing, self._patience
        return [r for r in self.readers if r.position < landing and patience.left(r)]

    async def wait_attached(self) -> None:
        """Wait until somebody attaches, or has since the upstream last entered a state."""
        await self._attached.wait()

    async def run(self) -> None:
        """Send by the clock what echoes do not clock."""
        self.kick()  # what was handed over
        while True:
            self._rearm = trio.Event()
            with trio.move_on_at(self._timer):
                await self._rearm.wait()
            self._timer = math.inf
            self.kick()

    # The readers' and typists' side.

    def attach(self, reader: Reader) -> None:
        """Somebody has come to use the console: an upstream that waits tries again at once."""
        self.follow(reader)
        self._attached.set()

    def follow(self, reader: Reader) -> None:
        """Push to ``reader`` from now on."""
        self.readers.append(reader)

    def detach(self, reader: Reader) -> None:
        """The reader is gone; what it had typed is still sent."""
        self.readers.remove(reader)
        self._patience.forget(reader)
        self.progressed()

    def progressed(self) -> None:
        """A reader has caught up somewhat; a PTY does by 10 KB, too often for a task switch."""
        if not self._progress.is_set() and not self._laggards():
            self._progress.set()

    def catch_up(self, reader: Reader) -> int:
        """Move a reader that was overtaken to what is still held; count and return the loss."""
        position = self.scrollback.catch_up(reader.position)
        skipped = position - reader.position
        self.counts.skipped += skipped
        reader.position = position
        self._patience.moved(reader, skipped)
        return skipped

    def offer(self, queue: InputQueue, data: bytes) -> None:
        """Type ``data``, at most ``queue.room`` bytes: sent at once if the pacer allows.

        Without a guest it is discarded and counted: what was typed at one boot must not
        be delivered to the next.
        """
        self.requeue(queue, data)
        if self.line is not None:
            self.kick()

    def requeue(self, queue: InputQueue, data: bytes) -> None:
        """Queue ``data``; it was ``offer``ed already, here or in another process."""
        if self.line is None:
            queue.dropped += len(data)
            self.counts.discarded += len(data)
        elif data:
            if not queue:
                self._queues.append(queue)
            queue.put(data)
            self.pending += len(data)

    async def deliver(self, data: bytes) -> int:
        """Type ``data`` of any length; return how much of it was sent, when that is known."""
        queue = InputQueue()
        for at in range(0, len(data), QUEUE_LIMIT):
            await self.wait_room(queue)
            self.offer(queue, data[at : at + QUEUE_LIMIT])
            while queue:
                await self._wait_taken()
        return len(data) - queue.dropped

    async def wait_room(self, queue: InputQueue) -> None:
        """Wait until ``queue`` may be put to: the back-pressure to the typist."""
        while queue.room <= 0 or self.pending >= TOTAL_LIMIT:
            await self._wait_taken()

    async def _wait_taken(self) -> None:
        if self._taken.is_set():
            self._taken = trio.Event()  # one for all who wait
        await self._taken.wait()

    def kick(self) -> None:
        """Send what the pacer allows now; arm the timer for the rest."""
        self._kick(trio.current_time())

    def _kick(self, now: float) -> None:
        while self.pending:
            if self.line is None or not self.line.clear:
                return  # the line kicks when it is clear
            allowance = self.pacer.allowance(now, self.pending)
            if not allowance:
                break
            queue = self._queues.popleft()
            data = queue.take(allowance)
            self.line.send(data)  # first: the rest is done while the guest reads it
            self.pacer.sent(data, now)
            if queue:  # to the end: every typist gets his turn, but none amid an escape sequence
                self._queues.insert(0 if self.pacer.in_sequence else len(self._queues), queue)
            self._took(data)
            self.counts.sent += len(data)
        if self.pending and (deadline := self.pacer.deadline(self.pending)) < self._timer:
            self._timer = deadline
            self._rearm.set()

    def _drop_input(self) -> None:
        for queue in self._queues:
            data = queue.take(len(queue))
            queue.dropped += len(data)
            self.counts.discarded += len(data)
            self._took(data)
        self._queues.clear()

    def _took(self, data: bytes) -> None:
        self.pending -= len(data)
        self._taken.set()
