"""Input arrives: a pacer against simulated guests, in simulated time."""

import itertools
import json
import math
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.console.echo import find_echo
from bridge.console.pacing import (
    ECHOED_WAIT,
    KEYSTROKE_WAIT,
    PROBE_INTERVAL,
    PROBES,
    SINGLES_UNKNOWN,
    UNECHOED_WAIT,
    WINDOW,
    Input,
    Mode,
    Pacer,
)


@dataclass
class Uart:
    """A guest's UART on QEMU 7.2: what its FIFO cannot take is gone.

    The guest looks every ``latency`` seconds, takes all (or one byte, if it is to
    ``dribble``) and echoes it.
    """

    fifo: int = 16
    latency: float = 0.001
    echo: bool = True
    cooked: bool = True
    dribble: bool = False
    chatter: bytes = b""
    got: bytes = b""
    _waiting: deque[int] = field(default_factory=deque)

    def receive(self, data: bytes) -> None:
        for byte in data:
            if len(self._waiting) < self.fifo:
                self._waiting.append(byte)

    def look(self) -> bytes:
        count = 1 if self.dribble else len(self._waiting)
        taken = bytes(self._waiting.popleft() for _ in range(min(count, len(self._waiting))))
        self.got += taken
        shown = taken.replace(b"\r", b"\r\n") if self.cooked else taken
        return self.chatter + (shown if self.echo else b"")


def paste(pacer: Pacer, guest: Uart, data: bytes, limit: float = 1000.0) -> float:
    """Send ``data`` to ``guest``; return how many seconds it took."""
    now, look, sent = 0.0, guest.latency, 0
    while sent < len(data):
        pending = len(data) - sent
        if count := pacer.allowance(now, pending):
            guest.receive(data[sent : sent + count])
            pacer.sent(data[sent : sent + count], now)
            sent += count
            continue
        deadline = pacer.deadline(pending)
        assert deadline > now, "the pacer is stuck, or would spin"
        now = min(look, deadline)
        assert now < limit
        if now == look:
            look += guest.latency
            pacer.output(guest.look(), now)
    guest.look()
    return now


TEXT = bytes(b for n in range(40) for b in b"The quick brown fox %d\r" % n)


@pytest.mark.parametrize("latency", [0.0001, 0.001, 0.02, 0.07, 0.12])
def test_a_paste_to_an_echoing_guest_is_exact(latency: float) -> None:
    guest = Uart(latency=latency)
    paste(Pacer(), guest, TEXT)
    assert guest.got == TEXT


@given(st.binary(min_size=1, max_size=300), st.floats(0.0001, 0.04))
def test_any_bytes_at_any_latency_are_exact(data: bytes, latency: float) -> None:
    guest = Uart(latency=latency)
    paste(Pacer(), guest, data)
    assert guest.got == data


@given(st.binary(min_size=1, max_size=300), st.floats(0.0001, 0.01))
def test_any_bytes_returned_raw_one_by_one_are_exact(data: bytes, latency: float) -> None:
    """A boot sector's echo.  No control byte counts as echoed before it is."""
    guest = Uart(latency=latency, cooked=False, dribble=True)
    paste(Pacer(), guest, data)
    for _ in data:
        guest.look()
    assert guest.got == data


def test_control_bytes_do_not_stall_a_paste() -> None:
    guest = Uart(latency=0.0005, cooked=False, dribble=True)
    data = bytes(range(256)) * 4
    assert paste(Pacer(), guest, data) < 1.0


def test_a_paste_beside_other_output_is_exact() -> None:
    guest = Uart(chatter=b"[ 1.23] quick fox: The\r\n", latency=0.01)
    paste(Pacer(), guest, TEXT)
    assert guest.got == TEXT


def test_a_paste_reaches_the_full_window() -> None:
    pacer = Pacer()
    guest = Uart(latency=0.001)
    assert paste(pacer, guest, TEXT * 4) < 4 * len(TEXT) * 0.001 / 3
    assert pacer.window == WINDOW


def test_without_echo_it_goes_by_the_clock() -> None:
    pacer = Pacer()
    guest = Uart(echo=False, latency=0.002)
    seconds = paste(pacer, guest, TEXT)
    assert guest.got == TEXT
    assert pacer.mode is Mode.TIMED
    assert seconds < 0.1 + PROBES * PROBE_INTERVAL + len(TEXT) / 8 * 0.011


def test_a_returning_echo_clocks_again() -> None:
    pacer = Pacer()
    guest = Uart(echo=False, latency=0.002)
    paste(pacer, guest, TEXT[:100])
    assert pacer.mode is Mode.TIMED
    pacer.sent(b"echoed", 50.0)
    pacer.output(b"echoed", 50.001)
    now: Mode = pacer.mode
    assert now is Mode.ECHO


def test_a_key_goes_at_once_and_the_next_waits_briefly() -> None:
    pacer = Pacer()
    assert pacer.allowance(0.0, 1) == 1
    pacer.sent(b"a", 0.0)
    assert pacer.allowance(0.001, 1) == 0
    assert pacer.deadline(1) == KEYSTROKE_WAIT
    assert pacer.allowance(KEYSTROKE_WAIT, 1) == 1


def test_an_arrow_key_is_not_torn_once_the_window_is_open() -> None:
    pacer = Pacer()
    paste(pacer, Uart(), TEXT[:100])
    now = 0.9
    pacer.sent(b"x", now)
    assert pacer.allowance(now + KEYSTROKE_WAIT, 3) == 3


@pytest.mark.parametrize("behind", [0, 100])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("sequence", [b"\x1b[24;100R", b"\x1b[200~", b"\x1bOA", b"\x1b[1;5C"])
def test_an_escape_sequence_is_not_torn(sequence: bytes, window: int, behind: int) -> None:
    """A guest takes an ESC that is alone for 50 ms (busybox) for the key Esc.

    Neither at the beginning of a paste: bracketed paste begins with one.
    """
    pacer, now, sent, times = Pacer(), 0.0, 0, []
    if window == 2:
        while pacer.window == 1:
            pacer.sent(b"\r", now)
            pacer.output(b"\r\n", now)
        assert pacer.window == 2
    data = sequence + b"x" * behind
    while sent < len(sequence):
        count = pacer.allowance(now, len(data) - sent)
        if count:
            pacer.sent(data[sent : sent + count], now)
            sent += count
            times.append(now)
        else:
            now = pacer.deadline(len(data) - sent)
    assert max((b - a for a, b in itertools.pairwise(times)), default=0) <= 0.011
    if window == 2:
        assert times[-1] == times[0]


@pytest.mark.parametrize("window", [1, 16])
def test_a_guest_without_a_fifo_costs_a_byte_now_and_then(window: int) -> None:
    """Firmware: of two bytes that come together one is lost.  With ``window = 1`` none is."""
    guest = Uart(fifo=1, latency=0.0005, cooked=False)
    data = bytes(random.Random(0).randrange(32, 127) for _ in range(8000))
    paste(Pacer(window=window), guest, data)
    lost = len(data) - len(guest.got)
    assert lost == 0 if window == 1 else 0 < lost < 30


@pytest.mark.parametrize(("rate", "seconds"), [(100, 10.0), (800, 1.25), (4000, 0.25)])
def test_a_rate_is_kept_where_the_clock_clocks(rate: int, seconds: float) -> None:
    guest = Uart(echo=False, latency=0.0005)
    took = paste(Pacer(Input.PACED, rate=rate), guest, bytes(1000))
    assert guest.got == bytes(1000)
    assert seconds * 0.9 < took < seconds * 1.2


@given(st.integers(1, 16), st.binary(min_size=1, max_size=300), st.floats(0.0001, 0.04))
def test_a_smaller_window_is_never_exceeded(window: int, data: bytes, latency: float) -> None:
    guest = Uart(fifo=window, latency=latency)
    paste(Pacer(window=window), guest, data)
    assert guest.got == data


def test_statistics_tell_what_happened() -> None:
    pacer, guest = Pacer(), Uart(latency=0.001)
    paste(pacer, guest, TEXT)
    pacer.output(b"", 1.0)
    told = pacer.statistics()
    assert (told.mode, told.sent, told.misses, told.timed) == (Mode.ECHO, len(TEXT), 0, 0)
    assert told.echoed + told.in_flight == told.sent
    assert told.window == SINGLES_UNKNOWN // 4


@pytest.mark.parametrize("rest", range(1, 17))
def test_the_end_of_a_paste_never_overfills_the_fifo(rest: int) -> None:
    """A guest that is descheduled: keys may go unechoed, but never more than it can hold."""
    guest = Uart(latency=0.045)
    paste(Pacer(), guest, TEXT[: 79 + rest])
    assert guest.got == TEXT[: 79 + rest]


def test_nothing_to_wait_for_when_nothing_is_pending() -> None:
    pacer = Pacer()
    pacer.sent(b"a", 0.0)
    assert pacer.deadline(0) == math.inf


def test_direct_sends_all_and_paced_never_trusts_echoes() -> None:
    assert Pacer(Input.DIRECT).allowance(0.0, 700) == 700
    pacer = Pacer(Input.PACED)
    guest = Uart()
    paste(pacer, guest, TEXT)
    assert guest.got == TEXT
    assert pacer.mode is Mode.TIMED


def test_a_miss_and_a_silence_close_the_window() -> None:
    pacer = Pacer()
    paste(pacer, Uart(), TEXT)
    assert pacer.window == WINDOW
    assert pacer.allowance(100.0, 50) == 1


@pytest.mark.parametrize(
    ("output", "in_flight", "found"),
    [
        (b"abcd", b"abcdef", (4, 4)),
        (b"abc", b"abcdef", (0, 0)),  # three in a row prove nothing yet
        (b"abc", b"abc", (3, 3)),  # unless it is all
        (b"xxabcdyy", b"abcd", (4, 6)),
        (b"a b c d", b"abcd", (0, 0)),  # scattered
        (b"ls\r\n", b"ls\r", (3, 4)),
        (b"^C", b"\x03", (1, 2)),
        (b"\b \b", b"\x7f", (1, 3)),
        (b"ab \rcdef", b"abcdef", (6, 8)),  # readline at the right edge: the run behind it
        (b"hello", b"\x01hello", (6, 5)),  # ^A is not echoed by a line editor
        (b"hel", b"\x01hel", (0, 0)),  # three do not prove it
        (b"\x0e", b"\x0e\x0e", (0, 0)),
        (b"\x0e\x0eabc", b"\x0e\x0eabcd", (5, 5)),
        (b"\r\n", b"\r\n", (0, 0)),  # one line's end, or CR and LF? fewer are counted
        (b"\r\nabcd", b"\r\nabcd", (6, 6)),
        (b"\r\n\r\nab", b"\r\nab", (4, 6)),
        (b"", b"a", (0, 0)),
    ],
)
def test_find_echo(output: bytes, in_flight: bytes, found: tuple[int, int]) -> None:
    assert find_echo(output, in_flight) == found


# Without erases and LF: where output can be read in two ways, fewer bytes are counted.
PLAIN = st.lists(
    st.sampled_from([b for b in range(256) if b not in b"\b\x7f\n"]), min_size=1, max_size=16
).map(bytes)


@given(st.binary(max_size=100), PLAIN, st.binary(max_size=100))
def test_a_whole_echo_is_found_in_any_surroundings(
    before: bytes, in_flight: bytes, after: bytes
) -> None:
    count, end = find_echo(before + in_flight + after, in_flight)
    assert count >= min(4, len(in_flight))
    assert 0 < end <= len(before + in_flight + after)


def test_the_slow_start() -> None:
    """One by one until 64 are echoed; then 2, 4, 8, 16 together as echoes come."""
    pacer, now = Pacer(), 0.0
    portions: list[int] = []
    while not portions or portions[-1] < WINDOW:
        count = pacer.allowance(now, 1000)
        portions.append(count)
        pacer.sent(b"x" * count, now)
        assert pacer.allowance(now, 1000) == 0
        now += 0.001
        pacer.output(b"x" * count, now)
    assert portions == [1] * (SINGLES_UNKNOWN + 1) + [2, 4, 8, 16]


def open_wide(pacer: Pacer) -> float:
    """Echo until the window is open; return the time of the last echo."""
    now = 0.0
    while pacer.window < WINDOW:
        count = pacer.allowance(now, 1000)
        pacer.sent(b"x" * count, now)
        now += 0.001
        pacer.output(b"x" * count, now)
    return now


def test_a_miss_closes_the_window_and_is_counted() -> None:
    pacer = Pacer()
    now = open_wide(pacer)
    pacer.sent(b"0123456789abcdef", now)
    assert pacer.allowance(now + ECHOED_WAIT - 0.001, 1000) == 0
    assert pacer.deadline(1000) == pytest.approx(now + ECHOED_WAIT)
    assert pacer.allowance(now + ECHOED_WAIT, 1000) == 1
    told = pacer.statistics()
    assert (told.window, told.misses, told.in_flight) == (1, 1, 0)


def test_a_reset_closes_the_window_and_forgets() -> None:
    pacer = Pacer()
    now = open_wide(pacer)
    pacer.sent(b"in flight", now)
    pacer.reset()
    told = pacer.statistics()
    assert (told.window, told.in_flight, told.sent) == (1, 0, 0)
    assert pacer.allowance(now, 1000) == 1


def test_the_first_unechoed_byte_is_waited_for_briefly() -> None:
    pacer = Pacer()
    pacer.sent(b"x", 0.0)
    assert pacer.allowance(UNECHOED_WAIT - 0.001, 1000) == 0
    pacer.allowance(UNECHOED_WAIT, 1000)
    assert pacer.mode is Mode.TIMED
    assert pacer.statistics().timed == 1


def test_a_partial_echo_is_no_miss() -> None:
    """What is echoed in pieces, each in time, keeps the window open."""
    pacer = Pacer()
    now = open_wide(pacer)
    pacer.sent(b"0123456789abcdef", now)
    for piece in (b"0123", b"4567", b"89ab", b"cdef"):
        now += 0.9 * ECHOED_WAIT
        pacer.output(piece, now)
    assert pacer.statistics().misses == 0
    assert pacer.window == WINDOW


class Polled(Uart):
    """Looks with the clock of the BIOS, as iPXE does; what it gets is shown at the next look.

    Without a FIFO.  While its one byte is not taken QEMU reads no further, so one more may
    wait in the socket; all that waits there is then read at once, and only one is kept.
    """

    def __init__(self) -> None:
        super().__init__(fifo=1, latency=0.055, cooked=False)
        self._socket = b""
        self._shown = b""

    def receive(self, data: bytes) -> None:
        if self._waiting:
            self._socket += data
        else:
            super().receive(data)

    def look(self) -> bytes:
        shown, self._shown = self._shown, super().look()
        super().receive(self._socket)
        self._socket = b""
        return shown


def test_a_guest_that_looks_with_the_clock_of_the_bios() -> None:
    guest = Polled()
    data = b"dhcp net0 && chain http://boot.example.org/menu.ipxe"
    paste(Pacer(), guest, data)
    guest.look()
    guest.look()
    assert guest.got == data


@pytest.mark.parametrize("late", [0.1, 0.2, 0.4])
def test_a_busy_host_that_shows_the_first_echo_late(late: float) -> None:
    guest = Uart(latency=late)
    paste(Pacer(), guest, TEXT[:200])
    assert guest.got == TEXT[:200]


def test_state_is_restored_in_another_process() -> None:
    pacer, other = Pacer(), Pacer()
    now = open_wide(pacer)
    pacer.sent(b"0123456789", now)
    other.restore(json.loads(json.dumps(pacer.state(now + 0.1))), 7.0)
    for one, clock in ((pacer, now + 0.2), (other, 7.1)):
        one.output(b"01234", clock)
        assert one.statistics() == pacer.statistics()
        assert one.allowance(clock, 1000) == 16 - 5
    assert other.statistics().sent == pacer.statistics().sent > 0
