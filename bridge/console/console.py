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
from collections.abc import Callable, Collection
from dataclasses import asdict

import trio

from bridge.base.handover import Bag, Ending, Record
from bridge.console.ends import Line, Reader
from bridge.console.history import MARKS, Counts, Mark
from bridge.console.pacing import Pacer
from bridge.console.patience import Patience
from bridge.console.queue import InputQueue, Told
from bridge.console.scrollback import Scrollback
from bridge.console.states import State

# What all typists of a console together may have typed ahead, those included who have left.
TOTAL_LIMIT = 256 * 1024

# And what each may even then.
KEYS = 16

# A guest that has bytes to read when the BREAK comes takes one of them for it: QEMU has one
# flag for the whole FIFO.  So it is sent when the guest has had time to read them, and what
# follows when it has had time for the BREAK.
CALM_BEFORE, CALM_AFTER = 0.050, 0.020


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
        on_break: Callable[[Told], None] = lambda told: told("there is no way to send one"),
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
        self._on_break = on_break  # sends one, if there is a way to; never blocks
        self._entered = time.monotonic()
        self.line: Line | None = None
        """The way to the guest while ONLINE."""
        self._queues: deque[InputQueue] = deque()  # those with something in them
        self.pending = 0
        """Bytes typed and not yet sent."""
        self._taken = trio.Event()
        self._timer = math.inf  # when run() will ask the pacer again
        self._calm_at = -math.inf  # when the guest has read what was sent last
        self._held_until = -math.inf  # nothing is sent before
        self._breaking: Told | None = None  # a BREAK is under way
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
            "typed": [[bag.put_bytes(q.peek()), q.breaks] for q in orphans],
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
        typed = [(bag.take_bytes(place), breaks) for place, breaks in record["typed"]]
        self._left = record["pacer"], typed

    def resume(self, line: Line | None) -> None:
        """The connection through ``line`` was handed over with the console; or it was not."""
        pacer, typed = self._left
        self.line = line
        if line is not None:
            self.pacer.restore(pacer, trio.current_time())
        elif self.state is State.ONLINE:
            self.enter(State.CONNECTING)
        for data, breaks in typed:
            self.requeue(InputQueue(), data, breaks)

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
        while laggards := self._laggards():
            began, limit = trio.current_time(), min(map(self._patience.left, laggards))
            self._progress = trio.Event()
            with trio.move_on_after(limit) as scope:
                await self._progress.wait()
            spent = limit if scope.cancelled_caught else trio.current_time() - began
            self._patience.spend(self._laggards(), spent)

    def _laggards(self) -> list[Reader]:
        """Those who would be overtaken, and deserve patience."""
        landing, patience = self._landing, self._patience
        return [r for r in self.readers if r.position < landing and r.reading and patience.left(r)]

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

    def requeue(self, queue: InputQueue, data: bytes, breaks: Collection[int] = ()) -> None:
        """Queue ``data``; it was ``offer``ed already, here or in another process."""
        if self.line is None:
            queue.dropped += len(data)
            self.counts.discarded += len(data)
            return
        waiting = bool(queue)
        queue.put(data, breaks)
        self.pending += len(data)
        if queue and not waiting:
            self._queues.append(queue)

    def interrupt(self, queue: InputQueue) -> None:
        """Send a BREAK behind what ``queue`` holds; it is told of the outcome.

        Without a guest it is sent at once or never: it may help one that nobody reaches.
        """
        if self.line is None:
            self._on_break(queue.told)
            return
        self.requeue(queue, b"", (len(queue),))
        self.kick()

    async def deliver(self, data: bytes) -> int:
        """Type ``data`` of any length; return how much of it was sent, when that is known."""
        queue, at = InputQueue(), 0
        while at < len(data):
            room = await self.wait_room(queue)
            self.offer(queue, data[at : at + room])
            at += room
            while queue:
                await self._wait_taken()
        return len(data) - queue.dropped

    async def wait_room(self, queue: InputQueue) -> int:
        """Wait until ``queue`` may be put to, and return how much: the back-pressure to the typist.

        Some keys always are: a ^C is not to wait for what others have pasted, nor is it to
        go unnoticed that a client has closed.
        """
        while (room := self._room(queue)) <= 0:
            await self._wait_taken()
        return room

    def _room(self, queue: InputQueue) -> int:
        return queue.room if self.pending < TOTAL_LIMIT else KEYS - len(queue)

    async def _wait_taken(self) -> None:
        if self._taken.is_set():
            self._taken = trio.Event()  # one for all who wait
        await self._taken.wait()

    def kick(self) -> None:
        """Send what the pacer allows now; arm the timer for the rest."""
        self._kick(trio.current_time())

    def _kick(self, now: float) -> None:
        while self._queues:
            if self.line is None or not self.line.clear:
                return  # the line kicks when it is clear
            queue = self._queues[0]
            if queue.break_due or now < self._held_until:
                if now < (due := self._due(queue)):
                    self._arm(due)
                    return
                self._break(queue)
                continue
            allowance = self.pacer.allowance(now, self.pending)
            if not allowance:
                break
            self._queues.popleft()
            data = queue.take(allowance)
            self.line.send(data)  # first: the rest is done while the guest reads it
            self.pacer.sent(data, now)
            if queue:  # to the end: every typist gets his turn, but none amid an escape sequence
                self._queues.insert(0 if self.pacer.in_sequence else len(self._queues), queue)
            self._took(data)
            self.counts.sent += len(data)
            self._calm_at = now + CALM_BEFORE
        if self.pending:
            self._arm(self.pacer.deadline(self.pending))

    def _due(self, queue: InputQueue) -> float:
        """When what is next may be sent, whatever the pacer says."""
        if not queue.break_due:
            return self._held_until
        return max(self._held_until, self._calm_at, self.pacer.settled)

    def _arm(self, deadline: float) -> None:
        if deadline < self._timer:
            self._timer = deadline
            self._rearm.set()

    def _break(self, queue: InputQueue) -> None:
        """Begin the BREAK that is next; nothing is sent until its end, and then a moment.

        Until then it stays where it is: another process would begin it anew.
        """

        def told(refusal: str) -> None:
            if self._breaking is not told:  # the guest went away meanwhile
                return
            self._breaking = None
            self._held_until = trio.current_time() + (0 if refusal else CALM_AFTER)
            queue.take_break()
            if not queue:
                self._queues.popleft()
            queue.told(refusal)
            self._taken.set()
            self.kick()

        self._breaking, self._held_until = told, math.inf
        self._on_break(told)

    def _drop_input(self) -> None:
        self._breaking, self._held_until = None, -math.inf
        for queue in self._queues:
            data = queue.take_all()
            queue.dropped += len(data)
            self.counts.discarded += len(data)
            self._took(data)
        self._queues.clear()

    def _took(self, data: bytes) -> None:
        self.pending -= len(data)
        self._taken.set()
