"""Several typists on one console: nothing lost, nothing reordered, nobody waits for another.

The hub with its pacer between simulated typists and a simulated UART, in simulated time.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bridge.console.console import Console
from bridge.console.pacing import Input, Pacer
from bridge.console.queue import QUEUE_LIMIT, InputQueue

Typing = list[tuple[float, bytes]]  # (seconds to wait first, what is then typed)


class Guest:
    """A UART on QEMU 7.2 behind a Line: overruns its FIFO, echoes every ``latency`` seconds."""

    def __init__(self, latency: float = 0.001, *, echo: bool = True) -> None:
        self.clear = True
        self.sent = b""
        """What was sent to it, lost or not."""
        self.got = b""
        self._latency, self._echo = latency, echo
        self._fifo: deque[int] = deque()

    def send_break(self) -> bool:
        return False

    def send(self, payload: bytes) -> None:
        self.sent += payload
        self._fifo += payload[: 16 - len(self._fifo)]

    def look(self) -> bytes:
        taken = bytes(self._fifo)
        self._fifo.clear()
        self.got += taken
        return taken if self._echo else b""

    async def run(self, hub: Console) -> None:
        while True:
            await trio.sleep(self._latency)
            if shown := self.look():
                hub.feed(shown)


def simulate(scene: Callable[[], Awaitable[None]]) -> None:
    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


async def type_all(hub: Console, guest: Guest, typists: list[Typing]) -> None:
    """Let all type at once, until everything has been sent."""

    async def typist(typing: Typing) -> None:
        queue = InputQueue()
        for pause, data in typing:
            await trio.sleep(pause)
            for at in range(0, len(data), QUEUE_LIMIT):
                await hub.wait_room(queue)
                hub.offer(queue, data[at : at + queue.room])

    async with trio.open_nursery() as around:
        around.start_soon(hub.run)
        around.start_soon(guest.run, hub)
        async with trio.open_nursery() as typing:
            for one in typists:
                typing.start_soon(typist, one)
        while hub.pending:
            await trio.sleep(0.1)
        around.cancel_scope.cancel()
    guest.look()


def console(guest: Guest, clocking: Input = Input.ECHO, window: int = 16) -> Console:
    hub = Console("vm", "ws://h", scrollback=4096, pacer=Pacer(clocking, window))
    hub.connect(guest)
    return hub


def typing(number: int) -> st.SearchStrategy[Typing]:
    """Of one typist, who uses bytes that no other uses."""
    own = st.integers(0, 63).map(lambda n: 64 * number + n)
    pieces = st.one_of(
        st.lists(own, min_size=1, max_size=4), st.lists(own, min_size=50, max_size=200)
    )
    return st.lists(
        st.tuples(st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0]), pieces.map(bytes)), max_size=4
    )


@given(
    st.tuples(typing(0), typing(1), typing(2)),
    st.sampled_from(Input),
    st.integers(1, 16),
    st.floats(0.0002, 0.03),
    st.booleans(),
)
def test_nothing_is_lost_or_reordered_on_the_way(
    typists: tuple[Typing, ...], clocking: Input, window: int, latency: float, echo: bool
) -> None:
    guest = Guest(latency, echo=echo)

    async def scene() -> None:
        await type_all(console(guest, clocking, window), guest, list(typists))

    simulate(scene)
    for number, one in enumerate(typists):
        own = bytes(byte for byte in guest.sent if byte // 64 == number)
        assert own == b"".join(data for _, data in one)
    if echo and clocking in {Input.AUTO, Input.ECHO}:
        assert guest.got == guest.sent


@pytest.mark.parametrize("clocking", [Input.ECHO, Input.PACED])
@pytest.mark.parametrize("echo", [True, False])
def test_a_key_of_another_does_not_wait_for_a_paste(clocking: Input, echo: bool) -> None:
    """The ^C of one who has come to stop it; and it goes within some milliseconds."""
    guest = Guest(echo=echo)

    async def scene() -> None:
        paste, interrupt = [(0.0, b"p" * 2000)], [(1.0, b"\x03")]
        await type_all(console(guest, clocking), guest, [paste, interrupt])

    simulate(scene)
    sent_before = guest.sent.index(b"\x03")
    reference = Guest(echo=echo)

    async def alone() -> None:
        hub = console(reference, clocking)
        with trio.move_on_after(1.0):
            await type_all(hub, reference, [[(0.0, b"p" * 2000)]])

    simulate(alone)
    assert sent_before <= len(reference.sent) + 16


def test_the_interrupt_of_the_paster_himself_stays_in_its_place() -> None:
    guest = Guest()

    async def scene() -> None:
        await type_all(console(guest), guest, [[(0.0, b"p" * 500 + b"\x03" + b"q" * 500)]])

    simulate(scene)
    assert guest.got == b"p" * 500 + b"\x03" + b"q" * 500


def test_two_pastes_share_the_line() -> None:
    guest = Guest()

    async def scene() -> None:
        pastes: list[Typing] = [[(0.0, b"a" * 3000)], [(0.0, b"b" * 3000)]]
        await type_all(console(guest), guest, pastes)

    simulate(scene)
    runs = [len(run) for run in re.findall(rb"a+|b+", guest.got[:4000])]
    assert max(runs) <= 64


SEQUENCES = [b"\x1b[A", b"\x1bOB", b"\x1b[1;5C", b"\x1b[24;100R"]


@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.sampled_from(SEQUENCES)), min_size=1, max_size=8),
    st.booleans(),
)
def test_nobodys_key_comes_amid_an_escape_sequence(arrows: Typing, echo: bool) -> None:
    guest = Guest(0.005, echo=echo)

    async def scene() -> None:
        await type_all(console(guest), guest, [arrows, [(0.0, b"p" * 300)]])

    simulate(scene)
    kept = re.findall(rb"\x1b\[[0-9;]*[A-Z]|\x1bO[A-Z]", guest.sent)
    assert kept == [data for _, data in arrows]


def test_what_is_typed_at_a_vm_that_goes_is_counted_per_typist() -> None:
    async def scene() -> None:
        guest = Guest(echo=False)
        hub = console(guest)
        queues = InputQueue(), InputQueue()
        for queue, data in zip(queues, (b"x" * 100, b"y" * 50), strict=True):
            hub.offer(queue, data)
        sent = len(guest.sent)
        hub.hang_up()
        assert sum(queue.dropped for queue in queues) == 150 - sent == hub.counts.discarded
        assert hub.pending == 0

    simulate(scene)


def test_a_key_waits_ten_milliseconds_at_most_on_a_guest_that_never_echoes() -> None:
    """One at a time, as a hand types; whatever the clock of the unechoed is at."""
    times: list[float] = []

    class Watched(Guest):
        def send_break(self) -> bool:
            return False

        def send(self, payload: bytes) -> None:
            times.append(trio.current_time())
            super().send(payload)

    guest = Watched(echo=False)

    async def scene() -> None:
        keys = [(0.1, b"%c" % key) for key in b"secret"]
        await type_all(console(guest), guest, [keys])

    simulate(scene)
    assert guest.got == b"secret"
    assert all(b - a == pytest.approx(0.1, abs=0.011) for a, b in pairwise(times))
