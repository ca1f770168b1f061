"""The hub and its attachments on real sockets: fan-out, laggards, back-pressure, accounting."""

import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from bridge.base.handover import Bag, Ending
from bridge.console.attach import Attachment
from bridge.console.channel import FdChannel
from bridge.console.console import KEYS, TOTAL_LIMIT, Console
from bridge.console.manners import Kind, Manners
from bridge.console.pacing import Input, Pacer
from bridge.console.patience import PATIENCE
from bridge.console.queue import QUEUE_LIMIT, InputQueue
from bridge.console.states import State

RING = 64 * 1024
RAW = Manners(Kind.RAW)


class Line:
    """The guest's end, taking everything or, when not ``clear``, nothing."""

    def __init__(self) -> None:
        self.clear = True
        self.sent = b""

    def send_break(self) -> bool:
        return False

    def send(self, payload: bytes) -> None:
        assert self.clear
        self.sent += payload


def console(clocking: Input = Input.DIRECT) -> tuple[Console, Line]:
    hub, line = Console("vm", "ws://h", scrollback=RING, pacer=Pacer(clocking)), Line()
    hub.connect(line)
    return hub, line


@asynccontextmanager
async def attached(
    hub: Console,
    *,
    small: bool = False,
    manners: Manners = RAW,
    gone: Callable[[], bool] = lambda: False,
) -> AsyncIterator[trio.SocketStream]:
    """A client's end of an attachment."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    if small:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with trio.open_nursery() as nursery:
        channel = FdChannel(trio.socket.from_stdlib_socket(ours), gone=gone)
        attachment = Attachment(hub, channel, manners)
        nursery.start_soon(attachment.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as client:
            yield client
        nursery.cancel_scope.cancel()
    ours.close()


async def receive(client: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await client.receive_some()
        assert chunk, f"ended after {len(data)} of {count}"
        data += chunk
    return data


async def test_output_goes_to_all_and_a_latecomer_starts_at_the_present() -> None:
    hub, _ = console()
    async with attached(hub) as one:
        hub.feed(b"before")
        async with attached(hub) as two:
            hub.feed(b" and after")
            assert await receive(one, 16) == b"before and after"
            assert await receive(two, 10) == b" and after"


async def test_a_caught_up_attachment_is_written_straight_through() -> None:
    """No task switch between the feed and the client's socket."""
    hub, _ = console()
    async with attached(hub) as client:
        hub.feed(b"now")
        assert os.read(client.socket.fileno(), 10) == b"now"


async def test_a_laggard_misses_counted_bytes_and_goes_on_at_a_line_start() -> None:
    hub, _ = console()
    text = b"".join(b"%08d\n" % n for n in range(100_000))
    async with attached(hub, small=True) as client:
        for at in range(0, len(text), 1000):
            hub.feed(text[at : at + 1000])
        seen = b""
        while not seen.endswith(b"00099999\n"):
            seen += await client.receive_some()
    assert hub.counts.skipped > 0
    assert len(seen) + hub.counts.skipped == len(text)
    gaps = [
        at
        for at in range(len(seen))
        if (at + hub.counts.skipped) % 9 == 0
        and seen == text[:at] + text[at + hub.counts.skipped :]
    ]
    assert len(gaps) == 1


async def test_a_stuck_reader_costs_no_memory_and_delays_nobody() -> None:
    hub, _ = console()
    line = b"x" * 999 + b"\n"
    async with attached(hub, small=True), attached(hub) as healthy:
        tracemalloc.start()
        try:
            for _ in range(5000):  # 5 MB past a ring of 64 KiB
                hub.feed(line)
                assert await receive(healthy, 1000) == line
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


async def test_reading_waits_for_one_who_moves_but_not_for_one_who_is_stuck() -> None:
    hub, _ = console()
    async with attached(hub, small=True) as slow, attached(hub, small=True):
        sent = b""
        total = b""

        async def read_all() -> None:
            nonlocal total
            while len(total) < 40 * 4096:
                total += await slow.receive_some(2048)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all)
            for number in range(40):
                chunk = b"%04d" % number * 1024
                await hub.wait_laggards(len(chunk))
                hub.feed(chunk)
                sent += chunk
        assert total == sent


async def test_a_stuck_reader_is_waited_for_once(autojump_clock: trio.testing.MockClock) -> None:
    hub, _ = console()
    async with attached(hub, small=True):
        hub.feed(b"x" * RING)
        began = trio.current_time()
        for _ in range(100):
            await hub.wait_laggards(1000)
            hub.feed(b"x" * 1000)
        assert trio.current_time() - began == pytest.approx(PATIENCE)


async def test_nobody_is_waited_for_who_is_not_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Though he has not ended yet: what he typed is still to be taken."""
    hub, _ = console()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        channel = FdChannel(trio.socket.from_stdlib_socket(ours))
        for held in (False, True):
            reader = Attachment(hub, channel, Manners(Kind.RAW), held=held)
            hub.attach(reader)
        theirs.close()
        hub.feed(b"x" * RING)
        began = trio.current_time()
        await hub.wait_laggards(RING)
        assert trio.current_time() == began


async def test_one_who_was_descheduled_and_moves_on_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A tenth of a second without a look at its socket, again and again, amid a flood."""
    hub, _ = console()
    chunk = bytes(range(256)) * 16
    total = b""
    async with attached(hub, small=True) as client:

        async def read() -> None:
            nonlocal total
            while len(total) < 100 * len(chunk):
                await trio.sleep(PATIENCE / 2)
                rest = min(RING, 100 * len(chunk) - len(total))
                while rest > 0:
                    total += (some := await client.receive_some(1024))
                    rest -= len(some)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for _ in range(100):
                await hub.wait_laggards(len(chunk))
                hub.feed(chunk)
    assert hub.counts.skipped == 0
    assert total == 100 * chunk


async def test_a_drop_now_and_then_buys_no_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One who reads a little each time, but for ever, may hold up a flood no further than so."""
    hub, _ = console()
    async with attached(hub, small=True) as client:
        began = trio.current_time()
        for _ in range(1000):
            await hub.wait_laggards(4096)
            hub.feed(b"x" * 4096)
            with trio.move_on_after(0):
                await client.receive_some(100)
        spent = trio.current_time() - began
    assert spent <= PATIENCE * (1 + 1000 * 4096 / (RING // 2))


async def test_a_typist_is_held_back_when_the_guest_takes_nothing() -> None:
    hub, line = console()
    line.clear = False
    async with attached(hub) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        text = bytes(range(256)) * 256
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, text)
            await trio.testing.wait_all_tasks_blocked()
            assert sum(map(len, hub._queues)) == QUEUE_LIMIT  # noqa: SLF001
            line.clear = True
            hub.kick()
            while len(line.sent) < len(text):
                await trio.testing.wait_all_tasks_blocked()
        assert line.sent == text


async def test_what_a_client_typed_before_leaving_is_sent() -> None:
    hub, line = console()
    line.clear = False
    async with attached(hub) as client:
        await client.send_all(b"last words")
        await trio.testing.wait_all_tasks_blocked()
    assert hub.readers == []
    line.clear = True
    hub.kick()
    assert line.sent == b"last words"


async def test_keys_are_taken_though_others_have_pasted_all_there_is_room_for() -> None:
    hub, line = console()
    line.clear = False
    hub.requeue(InputQueue(), bytes(TOTAL_LIMIT))
    async with attached(hub) as client:
        await client.send_all(b"\x03")
        await trio.testing.wait_all_tasks_blocked()
        assert hub.pending == TOTAL_LIMIT + 1
        await client.send_all(b"y" * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert hub.pending == TOTAL_LIMIT + KEYS
    async with attached(hub) as client:
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not hub.readers


async def test_the_first_read_is_seen_whole_whoever_has_pasted() -> None:
    """A web page's request is known by its first line."""
    hub, line = console()
    line.clear = False
    hub.requeue(InputQueue(), bytes(TOTAL_LIMIT))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: list[bytes] = []
    with ours, theirs:
        theirs.sendall(b"POST /a/long/path HTTP/1.1\r\n")
        channel = FdChannel(trio.socket.from_stdlib_socket(ours), inspect=seen.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Attachment(hub, channel, RAW).run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert seen == [b"POST /a/long/path HTTP/1.1\r\n"]


async def test_input_is_discarded_and_counted_without_a_guest() -> None:
    hub, line = console()
    line.clear = False
    async with attached(hub) as client:
        await client.send_all(b"queued")
        await trio.testing.wait_all_tasks_blocked()
        hub.hang_up()
        hub.enter(State.WAITING, "gone")
        await client.send_all(b"typed")
        await trio.testing.wait_all_tasks_blocked()
        fresh = Line()
        hub.connect(fresh)
        await client.send_all(b"new")
        await trio.testing.wait_all_tasks_blocked()
        assert fresh.sent == b"new"
    assert hub.counts.discarded == len(b"queued") + len(b"typed")


async def test_what_was_typed_to_a_guest_whose_connection_is_not_handed_over_is_discarded() -> None:
    """The next one may be another boot's."""
    hub, line = console()
    line.clear = False
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = FdChannel(trio.socket.from_stdlib_socket(ours))
    attachment, bag = Attachment(hub, channel, RAW), Bag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attachment.run)
        theirs.sendall(b"halt\r")
        await trio.testing.wait_all_tasks_blocked()
        hub.ending = Ending.HAND_OVER
        nursery.cancel_scope.cancel()
    hub.requeue(InputQueue(), b"reboot\r")  # of one who has left
    record, typist = hub.state_record(bag), attachment.state(bag)
    after = Console("vm", "ws://h", scrollback=RING, pacer=Pacer(Input.DIRECT))
    after.restore(record, bag)
    after.resume(None)
    Attachment.restore(after, channel, typist, bag)
    after.connect(line := Line())
    after.kick()
    assert (line.sent, after.pending) == (b"", 0)
    assert after.counts.discarded == len(b"halt\rreboot\r")
    ours.close()
    theirs.close()


async def test_typists_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    """A paste by one does not keep another's keys waiting for its end."""
    hub, line = console(Input.PACED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        async with attached(hub) as paster, attached(hub) as typist:
            await paster.send_all(b"p" * 1000)
            await trio.testing.wait_all_tasks_blocked()
            await typist.send_all(b"K")
            while len(line.sent) < 1001:
                await trio.sleep(0.01)
            assert line.sent.index(b"K") < 100
        nursery.cancel_scope.cancel()


async def test_a_full_line_is_not_polled(autojump_clock: trio.testing.MockClock) -> None:
    """Only its becoming clear helps; a deadline of the pacer's would pass at once, for ever."""
    hub, line = console(Input.ECHO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        async with attached(hub) as client:
            await client.send_all(b"ab")
            await trio.testing.wait_all_tasks_blocked()
            assert line.sent == b"a"
            line.clear = False
            await trio.sleep(1)  # the clock jumps only if nobody is busy
            assert line.sent == b"a"
            line.clear = True
            hub.kick()
            assert line.sent == b"ab"
        nursery.cancel_scope.cancel()


async def test_the_end_of_input_is_not_the_end_of_output() -> None:
    hub, line = console()
    async with attached(hub) as client:
        await client.send_all(b"reboot\r")
        await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert line.sent == b"reboot\r"
        hub.feed(b"rebooting")
        assert await receive(client, 9) == b"rebooting"
    assert hub.readers == []


async def test_one_who_closes_without_a_sign_is_missed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """TCP tells nothing of a close that follows a shutdown of both directions."""
    hub, _ = console()
    closed = False
    async with attached(hub, gone=lambda: closed) as client:
        await client.send_eof()
        await trio.sleep(10)
        assert hub.readers
        closed = True
        await trio.sleep(2)
        assert not hub.readers


# Notices.

TERMINAL = Manners(Kind.TELNET, notices=True)
WAITING = b"[ttybridge: vm is waiting for ws://h]\r\n"
ONLINE = b"[ttybridge: vm is online]\r\n"


def hang_up(hub: Console) -> None:
    hub.hang_up()
    hub.enter(State.WAITING, "gone")


async def test_who_attaches_is_told_why_nothing_comes() -> None:
    hub, _ = console()
    hang_up(hub)
    async with attached(hub, manners=TERMINAL) as client:
        assert await receive(client, len(WAITING)) == WAITING
        hub.enter(State.FAILED, "bad \x1b[31m")
        failed = b"[ttybridge: vm has failed: bad \\x1b[31m]\r\n"
        assert await receive(client, len(failed)) == failed


async def test_who_attaches_while_all_is_well_is_told_nothing() -> None:
    hub, _ = console()
    async with attached(hub, manners=TERMINAL) as client:
        hub.feed(b"login: ")
        assert await client.receive_some() == b"login: "


@pytest.mark.parametrize(
    ("output", "lead"),
    [
        (b"", b""),
        (b"login: ", b"\r\n"),
        (b"a line\r\n", b"\r"),
        (b"a line\n\r", b"\r"),
        (b"a line\n", b"\r"),
        (b"\r\nred \x1b[3", b"\x18\x1b\\\r\n"),
        (b"\x1b]0;title", b"\x18\x1b\\\r\n"),
        (b"\xe2\x82", b"\x18\x1b\\\r\n"),
        (b"\x1b[31mred", b"\r\n"),
    ],
)
async def test_a_notice_has_a_line_of_its_own_and_is_within_no_sequence(
    output: bytes, lead: bytes
) -> None:
    hub, line = console()
    async with attached(hub, manners=TERMINAL) as client:
        hub.feed(output)
        hang_up(hub)
        hub.connect(line)
        hub.feed(b"booting")
        expected = output + lead + WAITING + ONLINE + b"booting"
        assert await receive(client, len(expected)) == expected


async def test_a_notice_has_its_place_in_the_stream() -> None:
    """However late it is read."""
    hub, line = console()
    before, after = b"before\r\n" * 4000, b"after\r\n"
    async with attached(hub, small=True, manners=TERMINAL) as client:
        hub.feed(before)
        hang_up(hub)
        hub.connect(line)
        hub.feed(after)
        expected = before + b"\r" + WAITING + ONLINE + after
        assert await receive(client, len(expected)) == expected


async def test_who_was_overtaken_is_told_how_much_is_missing() -> None:
    hub, _ = console()
    text = b"".join(b"%08d\r\n" % n for n in range(20_000))
    async with attached(hub, small=True, manners=TERMINAL) as client:
        for at in range(0, len(text), 1000):
            hub.feed(text[at : at + 1000])
        seen = b""
        while not seen.endswith(b"00019999\r\n"):
            seen += await client.receive_some()
    notice = b"\x18\x1b\\\r\n[ttybridge: vm: %d bytes skipped, read too slowly]\r\n" % (
        hub.counts.skipped
    )
    first, found, rest = seen.partition(notice)
    assert found
    assert first == text[: len(first)]
    assert rest == text[len(first) + hub.counts.skipped :]


async def test_programs_are_told_nothing() -> None:
    hub, line = console()
    async with attached(hub) as raw, attached(hub, manners=Manners(Kind.TELNET)) as quiet:
        hub.feed(b"one")
        hang_up(hub)
        hub.connect(line)
        hub.feed(b"two")
        assert await receive(raw, 6) == b"onetwo"
        assert await receive(quiet, 6) == b"onetwo"
    hang_up(hub)
    async with attached(hub) as raw:
        hub.connect(line)
        hub.feed(b"three")
        assert await receive(raw, 5) == b"three"


# Replay.


async def test_the_past_is_shown_and_the_present_goes_on() -> None:
    hub, _ = console()
    hub.feed(b"old\r\n" * 10 + b"login: \x1b[6n\x1b[3")
    async with attached(hub, manners=Manners(Kind.TELNET, replay=24)) as client:
        hub.feed(b"1mred\x1b[6n")
        expected = b"old\r\nlogin: \x1b[31mred\x1b[6n"
        assert await receive(client, len(expected)) == expected
    async with attached(hub, manners=Manners(Kind.TELNET, replay=0)) as client:
        hub.feed(b"live")
        assert await receive(client, 4) == b"live"


async def test_the_past_comes_before_the_notice_at_attach() -> None:
    hub, _ = console()
    hub.feed(b"panic \x1b[6n")
    hang_up(hub)
    async with attached(hub, manners=Manners(Kind.TELNET, replay=100, notices=True)) as client:
        expected = b"panic \r\n" + WAITING
        assert await receive(client, len(expected)) == expected
