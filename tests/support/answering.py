"""A terminal that answers whatever might be a question, and writes down all it is told.

A plain state machine, character by character, after Paul Williams' diagram of a VT500's
parser; it shares nothing with bridge/replay.py.  What is not known to be obeyed in
silence is answered.  Terminals differ, so there are several kinds.
"""

import enum
import re
from dataclasses import dataclass, field


class Decoding(enum.Enum):
    """How bytes become characters and controls."""

    LENIENT = "UTF-8; a byte that is none is a Latin-1 character or an 8-bit control"
    STRICT = "UTF-8; what is none is a replacement character"
    SLOPPY = "UTF-8 of old: too long forms are taken for what they encode, and be it ESC"
    EIGHT_BIT = "Latin-1 with 8-bit controls"


class High(enum.Enum):
    """What a character from 0xa0 on does within a sequence."""

    ABORTS = "it is shown, and the sequence is over"
    SKIPPED = "nothing"
    FOLDED = "what the character 0x80 below it does: GR is as good as GL there, says DEC"


@dataclass(frozen=True)
class Kind:
    """One way to be a terminal."""

    decoding: Decoding = Decoding.LENIENT
    esc_ends_string: bool = True  # VT500; screen and tmux stay in it if no backslash follows
    high: High = High.ABORTS
    knows_c1: bool = True  # many terminals of today have no 8-bit controls at all


VT500 = Kind()
KINDS = [
    VT500,
    Kind(esc_ends_string=False),
    Kind(high=High.SKIPPED),
    Kind(Decoding.STRICT),
    Kind(Decoding.STRICT, knows_c1=False),
    Kind(Decoding.STRICT, esc_ends_string=False, high=High.SKIPPED),
    Kind(Decoding.SLOPPY),
    Kind(Decoding.SLOPPY, esc_ends_string=False, high=High.SKIPPED),
]
EIGHT_BIT_KINDS = [
    Kind(Decoding.EIGHT_BIT),
    Kind(Decoding.EIGHT_BIT, high=High.SKIPPED),
    Kind(Decoding.EIGHT_BIT, high=High.FOLDED, esc_ends_string=False),
]

# Control functions that are obeyed in silence: ECMA-48's ICH CUU CUD CUF CUB CNL CPL CHA CUP
# CHT ED EL IL DL DCH SU SD ECH CBT HPA HPR REP VPA VPR HVP TBC SM RM SGR; DECSTBM, SCOSC,
# SCORC; DECSED, DECSEL, DECSET, DECRST; DECSTR; DECSCUSR.
_SILENT_CSI = {*"@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu", "?J", "?K", "?h", "?l", "!p", " q"}
# Modes in which a terminal sends something by itself, at once or later.
_TALKATIVE_MODES = {"1001", "1004", "2031", "2048", "9001"}
_SILENT_ESC = re.compile(r"[78=>DEHMc]|[()*+][0-9A-Z<=>`]|#[3-68]")
_SILENT_OSC = re.compile(r"\][0128];.*", re.DOTALL)

_C1_STRINGS = {"\x90": "P", "\x98": "X", "\x9d": "]", "\x9e": "^", "\x9f": "_"}


class State(enum.Enum):
    GROUND = enum.auto()
    ESCAPE = enum.auto()
    CSI = enum.auto()
    STRING = enum.auto()
    STRING_ESCAPE = enum.auto()


@dataclass
class Answering:
    """``feed`` it; see what it ``answered`` to, and what ``events`` there were."""

    kind: Kind = VT500
    answered: list[str] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    _state: State = State.GROUND
    _collected: str = ""  # of a sequence; of a string, its kind first
    _character: bytes = b""  # begun

    def feed(self, data: bytes) -> None:
        for byte in data:
            self._byte(byte)

    @property
    def shown(self) -> bytes:
        """The characters as they were sent, and the controls that move the cursor."""
        shown = "".join(what for how, what in self.events if how in {"print", "move"})
        return shown.encode("utf-8", "surrogateescape")

    # From bytes to characters.

    def _byte(self, byte: int) -> None:
        data = self._character + bytes([byte])
        code = None if self.kind.decoding is Decoding.EIGHT_BIT else self._decode(data)
        if self.kind.decoding is Decoding.EIGHT_BIT:
            self._code(byte)
        elif code is not None:
            self._character = b""
            self._code(code)
        elif self._could_begin(data):
            self._character = data
        else:
            self._character = b""
            lenient = self.kind.decoding is Decoding.LENIENT
            self._code(_latin_1(data[0]) if lenient else 0xFFFD)
            for again in data[1:] if lenient else data[max(1, len(data) - 1) :]:
                self._byte(again)

    def _length(self, lead: int) -> int:
        """How long a character is that begins with ``lead``; 0 if none does."""
        if lead < 0x80:
            return 1
        shortest = 0xC0 if self.kind.decoding is Decoding.SLOPPY else 0xC2
        limits = ((0xF5, 0), (0xF0, 4), (0xE0, 3), (shortest, 2), (0x80, 0))
        return next(length for first, length in limits if lead >= first)

    def _decode(self, data: bytes) -> int | None:
        if len(data) != self._length(data[0]):
            return None
        if self.kind.decoding is not Decoding.SLOPPY:
            try:
                return ord(data.decode())
            except UnicodeDecodeError:
                return None
        if any(byte & 0xC0 != 0x80 for byte in data[1:]):
            return None
        code = data[0] & (0x7F if len(data) == 1 else 0xFF >> (len(data) + 1))
        for byte in data[1:]:
            code = code << 6 | byte & 0x3F
        return min(code, 0x10FFFF)

    def _could_begin(self, data: bytes) -> bool:
        missing = self._length(data[0]) - len(data)
        # What completes it matters only for the second byte, of which the lowest and the
        # highest that may follow bound what is well-formed.
        fills = (b"\x80", b"\x8f", b"\x90", b"\x9f", b"\xa0", b"\xbf")
        return missing > 0 and any(
            self._decode(data + fill * missing) is not None for fill in fills
        )

    # From characters to what they do.

    def _code(self, code: int) -> None:
        char = chr(code)
        if 0x80 <= code < 0xA0:
            if self.kind.knows_c1:
                self._c1(char)
        elif code in {0x18, 0x1A}:
            self._state = State.GROUND
        elif self._state is State.STRING:
            self._in_string(char)
        elif self._state is State.STRING_ESCAPE:
            self._after_string(char)
        elif char == "\x1b":
            self._state, self._collected = State.ESCAPE, ""
        elif code < 0x20 or code == 0x7F:
            self._execute(char)
        else:
            self._graphic(char)

    def _graphic(self, char: str) -> None:
        if char >= "\xa0" and self._state is not State.GROUND:
            match self.kind.high:
                case High.ABORTS:
                    self._state = State.GROUND
                case High.SKIPPED:
                    return
                case High.FOLDED:
                    char = chr(ord(char) & 0x7F)
        if self._state is State.GROUND:
            self.events.append(("print", char))
        elif self._state is State.ESCAPE:
            self._in_escape(char)
        else:
            self._in_csi(char)

    def _c1(self, char: str) -> None:
        in_string = self._state in {State.STRING, State.STRING_ESCAPE}
        self._state = State.GROUND
        if char == "\x9c" and in_string:
            self._end_string()
        elif char == "\x9b":
            self._state, self._collected = State.CSI, ""
        elif char in _C1_STRINGS:
            self._state, self._collected = State.STRING, _C1_STRINGS[char]
        else:
            self.events.append(("c1", char))
            if char == "\x9a":
                self.answered.append("DECID")

    def _in_string(self, char: str) -> None:
        if char == "\x1b":
            self._state = State.STRING_ESCAPE
        elif char == "\x07" and self._collected[0] == "]":
            self._end_string()
        elif char >= " ":
            self._collected += char

    def _after_string(self, char: str) -> None:
        """Go on behind an ESC that was in a string."""
        if char == "\\":
            self._end_string()
        elif self.kind.esc_ends_string:
            self._state, self._collected = State.ESCAPE, ""
            self._code(ord(char))
        else:
            self._state = State.STRING

    def _end_string(self) -> None:
        self._state = State.GROUND
        self.events.append(("string", self._collected))
        if not _SILENT_OSC.fullmatch(self._collected):
            self.answered.append(f"string {self._collected}")

    def _execute(self, char: str) -> None:
        self.events.append(("move" if "\x08" <= char <= "\x0f" else "control", char))
        if char == "\x05":
            self.answered.append("ENQ")

    def _in_escape(self, char: str) -> None:
        if not self._collected and char == "[":
            self._state = State.CSI
        elif not self._collected and char in _C1_STRINGS.values():
            self._state, self._collected = State.STRING, char
        else:
            self._collected += char
            if char >= "0":
                self._state = State.GROUND
                self.events.append(("esc", self._collected))
                if not _SILENT_ESC.fullmatch(self._collected):
                    self.answered.append(f"ESC {self._collected}")

    def _in_csi(self, char: str) -> None:
        self._collected += char
        if char >= "@":
            self._state = State.GROUND
            self.events.append(("csi", self._collected))
            if not _is_silent(self._collected):
                self.answered.append(f"CSI {self._collected}")


def _latin_1(byte: int) -> int:
    """A control, or a character that can be told from the same one in UTF-8 (PEP 383)."""
    return byte if byte < 0xA0 else 0xDC00 + byte


def _is_silent(sequence: str) -> bool:
    """Is this CSI sequence (without CSI) one that no terminal answers?"""
    parsed = re.fullmatch(r"([<=>?]?)([0-9:;]*)([ -/]*)([@-~])", sequence)
    if parsed is None:
        return False
    prefix, numbers, between, final = parsed.groups()
    if prefix + between + final not in _SILENT_CSI:
        return False
    if final == "T" and ";" in numbers:
        return False  # mouse highlighting: the terminal waits for an answer of its own
    modes = set(re.split("[;:]", numbers))
    if prefix == "?" and final in "hl" and "2" in modes:
        return False  # VT52, where all means something else
    return (prefix, final) != ("?", "h") or not modes & _TALKATIVE_MODES
