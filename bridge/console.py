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

import enum
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from bridge.pacing import Input, Pacer
from bridge.scrollback import Scrollback

# What an attachment may have typed ahead of the guest; then its client is not read.
QUEUE_LIMIT = 4096

# The same for all of a console's typists together, those included who have left.
TOTAL_LIMIT = 256 * 1024

# Reading upstream waits so long at most for an attachment that is about to be overtaken.
PATIENCE = 0.020


class State(enum.Enum):
    """Of the upstream connection."""

    CONNECTING = "connecting"
    ONLINE = "online"
    BUSY = "busy"  # another client holds QEMU's only slot
    WAITING = "waiting"  # nobody there; will be tried again
    FAILED = "failed"  # somebody there, but not a console; not tried again by itself


class Line(Protocol):
    """The way to the guest while ONLINE."""

    @property
    def clear(self) -> bool:
        """Everything sent before has left."""

    def send(self, payload: bytes) -> None:
        """Send at once, or as soon as possible; never blocks, never raises."""


class Reader(Protocol):
    """An attachment as the console sees it."""

    position: int

    def push(self) -> None:
        """Write what is new in the scrollback, as much as possible at once; never raises."""


class InputQueue:
    """What one attachment has typed and the guest has not been sent: bounded."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    @property
    def room(self) -> int:
        """How many bytes may be put."""
        return QUEUE_LIMIT - len(self._data)

    def put(self, data: bytes) -> None:
        self._data += data

    def take(self, count: int) -> bytes:
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken


class Console:
    """See the module.  ``on_state`` is called after each change of state or reason."""

    def __init__(
        self,
        name: str,
        *,
        scrollback: int,
        clocking: Input,
        on_state: Callable[["Console"], None] = lambda _console: None,
    ) -> None:
        self.name = name
        self.scrollback = Scrollback(scrollback)
        self.state = State.CONNECTING
        self.reason = ""
        self.discarded = 0
        """Bytes typed while there was no guest to type to."""
        self.skipped = 0
        """Bytes that attachments missed because they read too slowly."""
        self.attachments: list[Reader] = []
        self._on_state = on_state
        self._pacer = Pacer(clocking)
        self._line: Line | None = None
        self._queues: deque[InputQueue] = deque()  # those with something in them
        self._pending = 0  # bytes in them
        self._taken = trio.Event()
        self._timer = math.inf  # when run() will ask the pacer again
        self._rearm = trio.Event()
        self._attached = trio.Event()
        self._positions: dict[Reader, int] = {}
        self._progress = trio.Event()

    # The upstream's side.

    def connect(self, line: Line) -> None:
        """There is a guest at the end of ``line``: ONLINE until ``hang_up``."""
        self._line = line
        self._pacer.reset()
        self.enter(State.ONLINE)

    def hang_up(self) -> None:
        """The line is gone, and what was to be sent through it; ``enter`` says why."""
        self._line = None
        self._drop_input()

    def enter(self, state: State, reason: str = "") -> None:
        """The upstream has changed state, or has a new reason for it."""
        assert (state is State.ONLINE) == (self._line is not None)
        self._attached = trio.Event()
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._on_state(self)

    def feed(self, data: bytes) -> None:
        """Take output of the guest: keep it, pass it on, count echoes."""
        self._pacer.output(data, trio.current_time())
        self.scrollback.append(data)
        for attachment in tuple(self.attachments):
            attachment.push()
        self.kick()

    async def wait_laggards(self, count: int) -> None:
        """Wait, 20 ms at most, while ``count`` bytes more would overtake a moving attachment.

        So a healthy reader that was merely descheduled loses nothing.  One that has not
        moved since the last time is stuck, and is not waited for.
        """
        if not (laggards := self._laggards(count)):
            return
        moving = [a for a in laggards if self._positions.get(a) != a.position]
        self._positions = {a: a.position for a in laggards}
        if not moving:
            return
        with trio.move_on_after(PATIENCE):
            while any(a in moving for a in self._laggards(count)):
                self._progress = trio.Event()
                await self._progress.wait()

    def _laggards(self, count: int) -> list[Reader]:
        """Those whom ``count`` bytes more would overtake."""
        limit = self.scrollback.end + count - self.scrollback.capacity
        return [a for a in self.attachments if a.position < limit]

    async def wait_attached(self) -> None:
        """Wait until somebody attaches, or has since the upstream last entered a state."""
        await self._attached.wait()

    async def run(self) -> None:
        """Send by the clock what echoes do not clock."""
        while True:
            self._rearm = trio.Event()
            with trio.move_on_at(self._timer):
                await self._rearm.wait()
            self._timer = math.inf
            self.kick()

    # The attachments' side.

    def attach(self, attachment: Reader) -> None:
        self.attachments.append(attachment)
        self._attached.set()

    def detach(self, attachment: Reader) -> None:
        """The attachment is gone; what it had typed is still sent."""
        self.attachments.remove(attachment)
        self._positions.pop(attachment, None)
        self.progressed()

    def progressed(self) -> None:
        """An attachment has caught up somewhat."""
        self._progress.set()

    def catch_up(self, attachment: Reader) -> None:
        """Move an attachment that was overtaken to what is still held, and count the loss."""
        position = self.scrollback.catch_up(attachment.position)
        self.skipped += position - attachment.position
        attachment.position = position

    def offer(self, queue: InputQueue, data: bytes) -> None:
        """Type ``data``, at most ``queue.room`` bytes: sent at once if the pacer allows.

        Without a guest it is discarded and counted: what was typed at one boot must not
        be delivered to the next.
        """
        if self._line is None:
            self.discarded += len(data)
            return
        if not queue:
            self._queues.append(queue)
        queue.put(data)
        self._pending += len(data)
        self.kick()

    async def wait_room(self, queue: InputQueue) -> None:
        """Wait until ``queue`` may be put to: the back-pressure to the typist."""
        while queue.room <= 0 or self._pending >= TOTAL_LIMIT:
            if self._taken.is_set():
                self._taken = trio.Event()  # one for all who wait
            await self._taken.wait()

    def kick(self) -> None:
        """Send what the pacer allows now; arm the timer for the rest."""
        now = trio.current_time()
        while self._pending:
            if self._line is None or not self._line.clear:
                return  # the line kicks when it is clear
            allowance = self._pacer.allowance(now, self._pending)
            if not allowance:
                break
            queue = self._queues.popleft()
            data = queue.take(allowance)
            if queue:
                self._queues.append(queue)  # to the end: every typist gets his turn
            self._took(data)
            self._pacer.sent(data, now)
            self._line.send(data)
        deadline = self._pacer.deadline(self._pending)
        if deadline < self._timer:
            self._timer = deadline
            self._rearm.set()

    def _drop_input(self) -> None:
        for queue in self._queues:
            data = queue.take(len(queue))
            self.discarded += len(data)
            self._took(data)
        self._queues.clear()

    def _took(self, data: bytes) -> None:
        self._pending -= len(data)
        self._taken.set()
