"""How many bytes may be on their way to the guest: echo-clocked input.

QEMU 3.1 to 8.2 drops what a websocket chardev receives beyond the 16 bytes that the
guest's UART can take (fixed by QEMU commit 038b4217884c, 9.0).  No time interval is safe,
since a guest may be descheduled for any length of it; but an echo proves that the guest
has read.  So at most a window of bytes is in flight until the guest has echoed them.

- The window starts at 1 (a guest may have no FIFO: firmware, boot loaders), doubles to 16
  once some bytes have been echoed one by one, and falls back to 1 when an echo fails to
  come.  A guest without a FIFO loses one byte of the first two that go together, and
  then gets a thousand one by one before that is tried again.
- Only a *contiguous run* of the bytes in flight found in the output is an echo: 4 of them,
  or all that are in flight.  Taking any output, or a scattered match, for an echo lost
  input beside background output (1561 and 21 of 4096 bytes).
- Where nothing echoes (a password, a program that reads raw) bytes in flight expire, and
  what follows goes by the clock, until an echo is seen again.
- A person's keystroke never waits long, echo or not; but never are more bytes unechoed
  than a FIFO holds.

Pure: the clock is passed in (seconds, monotonic), bytes are counted, never kept or
changed.  One Pacer per upstream connection's console; ``reset`` at each connection.
"""

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from bridge.console.echo import SEEN, find_echo

WINDOW = 16  # bytes: the FIFO of a 16550A
# Bytes echoed one by one before two may go together: from a guest that is not known; from
# one that has shown its FIFO, after a silence in which another may have taken its place
# (a reboot cannot be seen); and from one that seems to have lost a byte of the first two.
SINGLES_UNKNOWN = 64
SINGLES_KNOWN = 16
SINGLES_LOST = 1024
FIFO = 8  # a window this wide is not reached without one
# A keystroke is what is pending when it is no more than this: a key, an escape sequence, a
# terminal's answer to a query (ESC[24;100R).
KEYSTROKE = 16
KEYSTROKE_WAIT = 0.010
ARROW = 4  # bytes that go at that pace to a guest that has not echoed yet
# A receiver without FIFO holds one byte and QEMU, which asks it first, leaves another in
# the socket; of two in the socket one is lost.
WITHOUT_FIFO = 2
UNECHOED_WAIT = 0.050  # until the first byte of a burst counts as not echoed
ECHOED_WAIT = 1.0  # until a gap in a burst that was being echoed counts as a miss
SILENCE = 1.0  # after which a new burst begins with the smallest window
RATE = 800  # bytes per second: 8 per interval lost nothing on Linux
MAX_RATE = 100_000
TIMED_INTERVAL = 0.010
# Before that, single bytes, and seldom: the echo may only be late.  A host that is busy
# shows the first one after 150 ms or more; iPXE, which looks at its port with the BIOS's
# clock, after 100.
PROBES = 10
PROBE_INTERVAL = 0.050
FRAME = 1024  # bytes in direct mode: above 4088 QEMU's TLS stalls, and one send must take all

# Within an escape sequence (ECMA-48, 5.4; SS3).  A guest takes an ESC that comes alone for
# the key Esc (busybox after 50 ms), so the rest of one is treated as a keystroke, even
# where a paste follows it: bracketed paste begins with ESC[200~.
_UNFINISHED = re.compile(rb"\x1b(?:\[[\x20-\x3f]*|O)?\Z")
_LONGEST_SEQUENCE = 32

# Bytes remembered when the clock sends them, to recognise an echo that returns.
_MEMORY = 64


class Input(enum.Enum):
    """The setting ``input``."""

    AUTO = "auto"
    ECHO = "echo"
    PACED = "paced"
    DIRECT = "direct"


class Mode(enum.Enum):
    """What clocks the input now."""

    ECHO = "echo"
    TIMED = "timed"
    DIRECT = "direct"


# Of a server that nothing is known of; a websocket does not show QEMU's version.
_FIRST_MODE = {
    Input.AUTO: Mode.ECHO,
    Input.ECHO: Mode.ECHO,
    Input.PACED: Mode.TIMED,
    Input.DIRECT: Mode.DIRECT,
}


class Clocking(NamedTuple):
    """What the settings say of a console's input."""

    input: Input = Input.AUTO
    window: int = WINDOW
    """Bytes in flight at most, 1 to WINDOW."""
    rate: int = RATE
    """Bytes per second where the clock clocks, 1 to MAX_RATE."""


@dataclass(slots=True)
class _Counts:
    sent: int = 0
    echoed: int = 0
    misses: int = 0
    timed: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """The state now, and what has happened since the connection was made."""

    mode: Mode
    window: int
    in_flight: int
    sent: int
    """Bytes."""
    echoed: int
    """Bytes of them that are proved to have been read."""
    misses: int
    """How often an echo failed to come where it had come before."""
    timed: int
    """How often nothing was echoed and the clock took over."""


class Pacer:
    """Ask ``allowance``, report what was ``sent`` and what came as ``output``."""

    def __init__(self, setting: Input = Input.AUTO, window: int = WINDOW, rate: int = RATE) -> None:
        assert 1 <= window <= WINDOW
        assert 1 <= rate <= MAX_RATE
        self._setting = setting
        self._most = window
        self._portion = max(1, min(window, round(rate * TIMED_INTERVAL)))
        self._interval = self._portion / rate
        self.reset()

    def reset(self) -> None:
        """Start anew, as after a connection: nothing in flight, nothing known of the guest."""
        self.mode = _FIRST_MODE[self._setting]
        self.window = 1
        self._singles = SINGLES_UNKNOWN  # bytes still to be echoed one by one
        self._fifo = False  # the guest has shown that it has one
        self._in_flight = b""
        self._echoed = False  # anything, in this burst
        self._seen = b""  # output since the oldest byte in flight, without what was matched
        self._probes = 0  # still to be sent in TIMED mode
        self._tail = b""  # the last bytes sent
        self._last_sent = -math.inf
        self._progress = -math.inf  # the time of the last send into an idle line, or echo
        self._counts = _Counts()

    def state(self, now: float) -> dict[str, Any]:
        """All but the setting, for a process that goes on in this one's place."""
        return {
            "mode": self.mode.value,
            "window": self.window,
            "singles": self._singles,
            "fifo": self._fifo,
            "in_flight": self._in_flight.hex(),
            "echoed": self._echoed,
            "seen": self._seen.hex(),
            "probes": self._probes,
            "tail": self._tail.hex(),
            "since_sent": min(now - self._last_sent, SILENCE),
            "since_progress": min(now - self._progress, SILENCE),
            "counts": asdict(self._counts),
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on from ``state``, by this process's clock."""
        self.mode, self.window = Mode(state["mode"]), state["window"]
        self._singles, self._fifo = state["singles"], state["fifo"]
        self._in_flight = bytes.fromhex(state["in_flight"])
        self._echoed, self._probes = state["echoed"], state["probes"]
        self._seen, self._tail = bytes.fromhex(state["seen"]), bytes.fromhex(state["tail"])
        self._last_sent = now - state["since_sent"]
        self._progress = now - state["since_progress"]
        self._counts = _Counts(**state["counts"])

    def statistics(self) -> Statistics:
        return Statistics(self.mode, self.window, len(self._in_flight), **asdict(self._counts))

    def allowance(self, now: float, pending: int) -> int:
        """How many of ``pending`` bytes may be sent at time ``now``."""
        self._expire(now)
        match self.mode:
            case Mode.DIRECT:
                room = FRAME
            case Mode.TIMED:
                due = now >= self._last_sent + self._pause(pending)
                room = (1 if self._probes else self._portion) if due else 0
            case Mode.ECHO:
                room = self.window - len(self._in_flight)
                if room < pending:
                    room = max(room, self._keystroke_room(now, pending))
        return min(room, pending)

    def deadline(self, pending: int) -> float:
        """When to ask again if there is no output until then; infinity if only output helps."""
        if not pending:
            return math.inf
        match self.mode:
            case Mode.DIRECT:
                return math.inf
            case Mode.TIMED:
                return self._last_sent + self._pause(pending)
            case Mode.ECHO:
                urgent = self._is_keystroke(pending) and len(self._in_flight) < self._limit(pending)
                wait = self._last_sent + KEYSTROKE_WAIT if urgent else math.inf
                return min(self._expiry, wait)

    @property
    def in_sequence(self) -> bool:
        """What was sent last is the beginning of an escape sequence: nothing may come between."""
        return _UNFINISHED.search(self._tail) is not None

    def sent(self, data: bytes, now: float) -> None:
        """Report that ``data`` went to the guest."""
        self._counts.sent += len(data)
        self._tail = (self._tail + data)[-_LONGEST_SEQUENCE:]
        if self.mode is Mode.DIRECT:
            return
        if not self._in_flight:
            self._progress = now
            self._seen = b""
        self._in_flight += data
        if self.mode is Mode.TIMED:
            # Not a window, only what a returning echo is recognised by.
            self._in_flight = self._in_flight[-_MEMORY:]
            self._probes = max(0, self._probes - 1)
        self._last_sent = now

    def output(self, data: bytes, now: float) -> None:
        """Report ``data`` from the guest: give credit for the echoes in it."""
        if not self._in_flight:
            return
        self._expire(now)
        seen = self._seen + data
        while self._in_flight:
            count, end = find_echo(seen, self._in_flight)
            if not count:
                break
            seen = seen[end:]
            self._in_flight = self._in_flight[count:]
            self._credit(count, now)
        self._seen = seen[-SEEN:]

    @property
    def _expiry(self) -> float:
        if not self._in_flight:
            return math.inf
        return self._progress + (ECHOED_WAIT if self._echoed else UNECHOED_WAIT)

    def _credit(self, count: int, now: float) -> None:
        self._counts.echoed += count
        if self.mode is Mode.TIMED:
            if self._setting is Input.PACED:
                return
            self.mode = Mode.ECHO
        if self._singles > 0:
            self._singles -= count
        else:
            self.window = min(2 * self.window, self._most)
            self._fifo = self._fifo or self.window >= FIFO
        self._echoed = True
        self._progress = now

    def _expire(self, now: float) -> None:
        """Move on where an echo is overdue, or where a new burst begins."""
        if self.mode is Mode.ECHO and now >= self._expiry:
            if self._echoed:  # a miss: count them lost or swallowed, go on carefully
                self._counts.misses += 1
                lost = 2 <= self.window < FIFO and len(self._in_flight) > 1
                self._begin_burst(SINGLES_LOST if lost else SINGLES_KNOWN)
            else:  # nothing at all: nobody echoes, or only late
                self._counts.timed += 1
                self.mode, self._probes = Mode.TIMED, PROBES
        if now >= max(self._last_sent, self._progress) + SILENCE:
            self._begin_burst(SINGLES_KNOWN if self._fifo else SINGLES_UNKNOWN)
            self.mode = _FIRST_MODE[self._setting]

    def _begin_burst(self, singles: int) -> None:
        self._in_flight, self._echoed, self.window = b"", False, 1
        self._singles = max(self._singles, singles)

    def _pause(self, pending: int) -> float:
        """Seconds between two portions by the clock."""
        if not self._probes:
            return self._interval
        careful = pending > ARROW and not self.in_sequence
        return PROBE_INTERVAL if careful else TIMED_INTERVAL

    def _keystroke_room(self, now: float, pending: int) -> int:
        room = self._limit(pending) - len(self._in_flight)
        if room <= 0 or not self._is_keystroke(pending):
            return 0
        opened = self.window > 1  # this burst has been echoed so far
        if opened and self.in_sequence:
            return room
        if now < self._last_sent + KEYSTROKE_WAIT:
            return 0
        return room if opened else 1

    def _limit(self, pending: int) -> int:
        """How many bytes of keystrokes may be unechoed."""
        known = self.window > 1 or self.in_sequence
        unheard = not self._echoed and pending <= ARROW
        return self._most if known or unheard else min(WITHOUT_FIFO, self._most)

    def _is_keystroke(self, pending: int) -> bool:
        return pending <= KEYSTROKE or self.in_sequence
