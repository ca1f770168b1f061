"""A BREAK keeps its place amid what is typed, and takes no byte with it."""

import math
from collections import deque

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.handover import Bag
from bridge.console.console import Console
from bridge.console.pacing import Input, Pacer
from bridge.console.queue import InputQueue, Told

BREAK = None


class Uart:
    """A 16550A as QEMU has it: one flag for the BREAK that the whole FIFO has received."""

    def __init__(self, latency: float) -> None:
        self.clear = True
        self.got: list[int | None] = []
        self.latency = latency
        self._fifo: deque[int] = deque()
        self._broken = False

    def send(self, payload: bytes) -> None:
        self._fifo += payload

    def send_break(self) -> bool:
        self._fifo.append(0)
        self._broken = True
        return True

    async def run(self, hub: Console) -> None:
        while True:
            await trio.sleep(self.latency)
            shown = bytearray()
            while self._fifo:
                byte = self._fifo.popleft()
                if self._broken:  # the driver takes the byte at hand for it
                    self.got.append(BREAK)
                    self._broken = False
                else:
                    self.got.append(byte)
                    shown.append(byte)
            if shown:
                hub.feed(bytes(shown))


PIECES = st.lists(st.one_of(st.binary(min_size=1, max_size=30), st.none()), max_size=6)


def once(got: list[int | None]) -> list[int | None]:
    """Several BREAKs with nothing between may be one."""
    return [each for n, each in enumerate(got) if each is not BREAK or got[n - 1 : n] != [BREAK]]


@pytest.mark.parametrize("slow", [0.0, 0.3])
@pytest.mark.parametrize("setting", list(Input))
@given(PIECES, st.floats(0.001, 0.015))
def test_it_comes_between_what_was_typed_before_and_after(
    slow: float, setting: Input, pieces: list[bytes | None], latency: float
) -> None:
    """In-band, and by one who takes his time."""

    async def scene() -> None:
        uart = Uart(latency)

        def send_break(told: Told) -> None:
            if not slow:
                uart.send_break()
                told("")
                return

            async def later() -> None:
                await trio.sleep(slow)
                uart.send_break()
                told("")

            nursery.start_soon(later)

        hub = Console("vm", "ws://h", scrollback=4096, pacer=Pacer(setting), on_break=send_break)
        hub.connect(uart)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            nursery.start_soon(uart.run, hub)
            queue = InputQueue()
            for piece in pieces:
                if piece is None:
                    hub.interrupt(queue)
                else:
                    hub.offer(queue, piece)
            while queue:
                await trio.sleep(0.01)
            await trio.sleep(slow + 1)
            nursery.cancel_scope.cancel()
        typed = [each for piece in pieces for each in (piece if piece is not None else [BREAK])]
        assert once(uart.got) == once(typed)
        assert hub.pending == 0

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


def test_it_waits_for_a_guest_that_has_echoed_and_is_descheduled() -> None:
    async def scene() -> None:
        uart = Uart(0.001)
        hub = Console(
            *("vm", "ws://h"),
            scrollback=4096,
            pacer=Pacer(Input.AUTO),
            on_break=lambda told: told("" if uart.send_break() else "no"),
        )
        hub.connect(uart)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            nursery.start_soon(uart.run, hub)
            queue = InputQueue()
            hub.offer(queue, b"ab")
            await trio.sleep(0.02)
            uart.latency = 0.3
            await trio.sleep(0.002)
            hub.offer(queue, b"c")
            hub.interrupt(queue)
            hub.offer(queue, b"h")
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert uart.got == [*b"abc", BREAK, *b"h"]

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_guests_end_and_a_refusal_are_told() -> None:
    async def scene() -> None:
        refusals: list[str] = []
        hub = Console("vm", "ws://h", scrollback=4096, pacer=Pacer(Input.DIRECT))
        hub.connect(Uart(math.inf))
        hub.interrupt(InputQueue(refusals.append))
        assert refusals.pop() == "there is no way to send one"
        queue = InputQueue(refusals.append)
        hub.offer(queue, b"a")
        hub.interrupt(queue)
        hub.offer(queue, b"b")
        assert refusals == []  # not yet: `a` is being read
        hub.hang_up()
        assert refusals == ["the guest has gone away"]
        assert (queue.dropped, bool(queue), hub.pending) == (1, False, 0)
        hub.interrupt(queue)  # tried without a guest, too
        assert refusals[1:] == ["there is no way to send one"]

    trio.run(scene)


@pytest.mark.parametrize("under_way", [False, True])
def test_it_is_handed_over_in_its_place(under_way: bool) -> None:
    async def scene() -> None:
        begun: list[Told] = []
        first = Console(
            *("vm", "ws://h"), scrollback=4096, pacer=Pacer(Input.DIRECT), on_break=begun.append
        )
        first.connect(Uart(math.inf))
        queue = InputQueue()
        for piece in (b"a", b"", b"bc"):
            first.offer(queue, piece)
            first.interrupt(queue)
        if under_way:
            await trio.sleep(1)
            first.kick()
        assert len(begun) == under_way
        bag = Bag()
        record = first.state_record(bag)
        uart, breaks = Uart(0.001), []

        def send_break(told: Told) -> None:
            breaks.append(len(uart.got))
            uart.send_break()
            told("")

        second = Console(
            "vm", "ws://h", scrollback=4096, pacer=Pacer(Input.DIRECT), on_break=send_break
        )
        second.restore(record, bag)
        second.resume(uart)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.run)
            nursery.start_soon(uart.run, second)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert uart.got == [BREAK, *b"bc", BREAK]

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_end_of_one_that_nobody_waits_for_ends_no_other() -> None:
    async def scene() -> None:
        begun: list[Told] = []
        refusals: list[str] = []
        hub = Console(
            *("vm", "ws://h"), scrollback=4096, pacer=Pacer(Input.DIRECT), on_break=begun.append
        )
        queue = InputQueue(refusals.append)
        hub.connect(Uart(math.inf))
        hub.interrupt(queue)
        hub.hang_up()
        assert refusals == ["the guest has gone away"]
        uart = Uart(0.001)
        hub.connect(uart)
        hub.interrupt(queue)
        hub.offer(queue, b"h")
        first, second = begun
        first("")
        await trio.sleep(1)
        hub.kick()
        assert (len(refusals), hub.pending) == (1, 1)
        second("no")
        assert (refusals[1:], hub.pending) == (["no"], 0)

    trio.run(scene, clock=trio.testing.MockClock(autojump_threshold=0))
