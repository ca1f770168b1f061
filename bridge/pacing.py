"""How many bytes may be on their way to the guest: echo-clocked input.

QEMU 3.1 to 8.2 drops what a websocket chardev receives beyond the 16 bytes that the
guest's UART can take (fixed by QEMU commit 038b4217884c, 9.0).  No time interval is safe,
since a guest may be descheduled for any length of it; but an echo proves that the guest
has read.  So at most a window of bytes is in flight until the guest has echoed them.

- The window starts at 1 (a guest may have no FIFO: firmware, boot loaders), doubles to 16
  while echoes come, and falls back to 1 when one does not.
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
from typing import Any

WINDOW = 16  # bytes: the FIFO of a 16550A
RUN = 4  # bytes in a row that prove an echo beside other output
# A keystroke is what is pending when it is no more than this: a key, an escape sequence, a
# terminal's answer to a query (ESC[24;100R).
KEYSTROKE = 16
KEYSTROKE_WAIT = 0.010
UNECHOED_WAIT = 0.050  # until the first byte of a burst counts as not echoed
ECHOED_WAIT = 1.0  # until a gap in a burst that was being echoed counts as a miss
SILENCE = 1.0  # after which a new burst begins with the smallest window
TIMED_BYTES = 8  # lost nothing on Linux at one such portion per TIMED_INTERVAL
TIMED_INTERVAL = 0.010
TIMED_PROBES = 10  # portions of one byte before those: the echo may only be late
FRAME = 1024  # bytes in direct mode: above 4088 QEMU's TLS stalls, and one send must take all

# Within an escape sequence (ECMA-48, 5.4; SS3).  A guest takes an ESC that comes alone for
# the key Esc (busybox after 50 ms), so the rest of one is treated as a keystroke, even
# where a paste follows it: bracketed paste begins with ESC[200~.
_UNFINISHED = re.compile(rb"\x1b(?:\[[\x20-\x3f]*|O)?\Z")
_LONGEST_SEQUENCE = 32

# Output kept to find an echo that arrives in pieces; longer than any window's echo.
_SEEN = 256
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


# QEMU's version cannot be seen on the wire, so `auto` is what is safe everywhere.
_FIRST_MODE = {
    Input.AUTO: Mode.ECHO,
    Input.ECHO: Mode.ECHO,
    Input.PACED: Mode.TIMED,
    Input.DIRECT: Mode.DIRECT,
}


class Pacer:
    """Ask ``allowance``, report what was ``sent`` and what came as ``output``."""

    def __init__(self, setting: Input = Input.AUTO) -> None:
        self._setting = setting
        self.reset()

    def reset(self) -> None:
        """Start anew, as after a connection: nothing in flight, nothing known of the guest."""
        self.mode = _FIRST_MODE[self._setting]
        self.window = 1
        self._in_flight = b""
        self._echoed = False  # anything, in this burst
        self._seen = b""  # output since the oldest byte in flight, without what was matched
        self._probes = 0  # still to be sent in TIMED mode
        self._tail = b""  # the last bytes sent
        self._last_sent = -math.inf
        self._progress = -math.inf  # the time of the last send into an idle line, or echo

    def state(self, now: float) -> dict[str, Any]:
        """All but the setting, for a process that goes on in this one's place."""
        return {
            "mode": self.mode.value,
            "window": self.window,
            "in_flight": self._in_flight.hex(),
            "echoed": self._echoed,
            "seen": self._seen.hex(),
            "probes": self._probes,
            "tail": self._tail.hex(),
            "since_sent": min(now - self._last_sent, SILENCE),
            "since_progress": min(now - self._progress, SILENCE),
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on from ``state``, by this process's clock."""
        self.mode, self.window = Mode(state["mode"]), state["window"]
        self._in_flight = bytes.fromhex(state["in_flight"])
        self._echoed, self._probes = state["echoed"], state["probes"]
        self._seen, self._tail = bytes.fromhex(state["seen"]), bytes.fromhex(state["tail"])
        self._last_sent = now - state["since_sent"]
        self._progress = now - state["since_progress"]

    def allowance(self, now: float, pending: int) -> int:
        """How many of ``pending`` bytes may be sent at time ``now``."""
        self._expire(now)
        match self.mode:
            case Mode.DIRECT:
                room = FRAME
            case Mode.TIMED:
                due = now >= self._last_sent + TIMED_INTERVAL
                room = (1 if self._probes else TIMED_BYTES) if due else 0
            case Mode.ECHO:
                room = max(self.window - len(self._in_flight), self._keystroke_room(now, pending))
        return min(room, pending)

    def deadline(self, pending: int) -> float:
        """When to ask again if there is no output until then; infinity if only output helps."""
        if not pending:
            return math.inf
        match self.mode:
            case Mode.DIRECT:
                return math.inf
            case Mode.TIMED:
                return self._last_sent + TIMED_INTERVAL
            case Mode.ECHO:
                urgent = self._is_keystroke(pending) and len(self._in_flight) < WINDOW
                wait = self._last_sent + KEYSTROKE_WAIT if urgent else math.inf
                return min(self._expiry, wait)

    def sent(self, data: bytes, now: float) -> None:
        """Report that ``data`` went to the guest."""
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
        self._tail = (self._tail + data)[-_LONGEST_SEQUENCE:]
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
            self._credit(now)
        self._seen = seen[-_SEEN:]

    @property
    def _expiry(self) -> float:
        if not self._in_flight:
            return math.inf
        return self._progress + (ECHOED_WAIT if self._echoed else UNECHOED_WAIT)

    def _credit(self, now: float) -> None:
        if self.mode is Mode.TIMED:
            if self._setting is Input.PACED:
                return
            self.mode = Mode.ECHO
        self.window = min(2 * self.window, WINDOW)
        self._echoed = True
        self._progress = now

    def _expire(self, now: float) -> None:
        """Move on where an echo is overdue, or where a new burst begins."""
        if self.mode is Mode.ECHO and now >= self._expiry:
            if self._echoed:  # a miss: count them lost or swallowed, go on carefully
                self._in_flight, self._echoed, self.window = b"", False, 1
            else:  # nothing at all: nobody echoes, or only late
                self.mode, self._probes = Mode.TIMED, TIMED_PROBES
        if now >= max(self._last_sent, self._progress) + SILENCE:
            self._in_flight, self._echoed, self.window = b"", False, 1
            self.mode = _FIRST_MODE[self._setting]

    def _keystroke_room(self, now: float, pending: int) -> int:
        room = WINDOW - len(self._in_flight)
        if room <= 0 or not self._is_keystroke(pending):
            return 0
        opened = self.window > 1  # this burst has been echoed so far
        if opened and self._in_sequence:
            return room
        if now < self._last_sent + KEYSTROKE_WAIT:
            return 0
        return room if opened else 1

    def _is_keystroke(self, pending: int) -> bool:
        return pending <= KEYSTROKE or self._in_sequence

    @property
    def _in_sequence(self) -> bool:
        return _UNFINISHED.search(self._tail) is not None


def find_echo(output: bytes, in_flight: bytes) -> tuple[int, int]:
    """Find an echo of bytes in flight in ``output``.

    Returns how many of them are proved to have been read, and where in ``output`` the
    proof ends; (0, 0) where there is none.  A UART keeps order, so a run from the middle
    (what is before it was not echoed, or is torn apart by an editor's line wrap) proves
    all that was sent before it, too.
    """
    for skipped in range(max(1, len(in_flight) - RUN + 1)):
        count, end = _find_run(output, in_flight[skipped:])
        if count:
            return skipped + count, end
    return 0, 0


def _find_run(output: bytes, run: bytes) -> tuple[int, int]:
    """Find where ``output`` echoes at least RUN bytes of ``run`` from its start, or all of it."""
    enough = min(RUN, len(run))
    if _is_literal(run[:enough]):
        at = output.find(run[:enough])
        return _match(output, at, run) if at >= 0 else (0, 0)
    # Not found at C speed; in a flood only the latest output is looked through.
    for at in range(max(0, len(output) - _SEEN), len(output)):
        count, end = _match(output, at, run)
        if count >= enough:
            return count, end
    return 0, 0


def _match(output: bytes, at: int, run: bytes) -> tuple[int, int]:
    """Match bytes of ``run`` one after the other from ``at``: (how many, where that ends).

    A byte has several forms, of which one may begin another (CR is echoed as CR LF or as
    CR), so all the ways to match are followed at once; there are hardly ever two.  Where
    they leave a choice, fewer bytes are taken to explain the same output: to count one
    that was not echoed would be to send too much.
    """
    ways = {at}
    best = (at, 0)  # the end, and minus the count
    for count, byte in enumerate(run, 1):
        ways = {
            end + len(form) for end in ways for form in _FORMS[byte] if output.startswith(form, end)
        }
        if not ways:
            break
        best = max(best, (max(ways), -count))
    return -best[1], best[0]


def _is_literal(data: bytes) -> bool:
    return all(len(_FORMS[byte]) == 1 for byte in data)


def _forms(byte: int) -> tuple[bytes, ...]:
    raw = bytes([byte])
    match byte:
        case 0x0D | 0x0A:
            return b"\r\n", b"\r", b"\n"
        case 0x08:
            return b"\b \b", b"^H", raw
        case 0x7F:
            return b"\b \b", b"^?", raw
        case _ if byte < 0x20:
            return raw, b"^" + bytes([byte + 0x40])
        case _:
            return (raw,)


# How a guest may echo a byte: a line's end as CR LF (termios ONLCR), an erase as what
# erases on a screen, another control byte as itself or as ^X (ECHOCTL).
_FORMS = tuple(_forms(byte) for byte in range(256))
