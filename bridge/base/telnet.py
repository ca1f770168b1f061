"""Telnet without I/O: what a peer's bytes mean, and how ours must look to it.

RFC 854 (the protocol), 855 (options), 856 (BINARY), 857 (ECHO), 858 (SUPPRESS GO AHEAD),
860 (TIMING MARK) and 1143 (negotiation without loops).  One engine serves both sides: the
telnet port is a server to telnet clients, and a client of a chardev with ``telnet=on``.

Nothing here raises on any input or keeps more than two bytes of it, and negotiation has
an end whatever the peer does.  Whoever owns the socket sets SO_OOBINLINE: a client's
Synch sends DM as urgent data, and an IAC without its DM swallows the next key.
"""

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypedDict

from bridge.base.codec import Signal


class Code(enum.IntEnum):
    """What may follow an IAC: RFC 854, and from EOF to ABORT RFC 1184."""

    EOF, SUSP, ABORT = 236, 237, 238
    SE, NOP, DM, BRK, IP, AO, AYT, EC, EL, GA, SB = range(240, 251)
    WILL, WONT, DO, DONT, IAC = range(251, 256)


class Option(enum.IntEnum):
    """The options that we know: RFC 856, 857, 858, 860."""

    BINARY, ECHO, SGA, TIMING_MARK = 0, 1, 3, 6


_IAC = bytes([Code.IAC])

# Commands that stand for a key, as the key that means the same to a Linux terminal as it
# starts (INIT_C_CC).  The guest's real settings can't be seen from here.  PuTTY can be
# told to send EC, IP and SUSP for Backspace, ^C and ^Z.  AO has no such key, and what
# it wants, output thrown away while the program runs, no console could undo: ignored.
# EOF is not ^D, though its key is: plink sends it when its terminal is closed or its
# piped input ends, and the guest's shell would log out.
_KEYS: dict[int, bytes] = {
    Code.SUSP: b"\x1a",
    Code.ABORT: b"\x1c",
    Code.IP: b"\x03",
    Code.EC: b"\x7f",
    Code.EL: b"\x15",
}


class Use(enum.Enum):
    """How an option stands, for one of the two directions.

    RFC 1143 also has WANTNO and a queued change of mind.  They do not exist here, for we
    never ask for an option's end.
    """

    NO = "no"
    WANTED = "wanted"  # asked for, unanswered
    YES = "yes"


class _Side(enum.Enum):
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class _Rules:
    """What differs between the sides."""

    asks: tuple[tuple[int, int], ...]  # the greeting, in order: WILL or DO, option
    local: frozenset[int]  # what we do when asked to
    remote: frozenset[int]  # what the peer may do
    enter: re.Pattern[bytes]  # a CR from the peer with what is swallowed behind it
    here: bytes  # the answer to AYT: "some visible (i.e., printable) evidence" (RFC 854)
    ends_line: bool  # our CR LF goes as it is; else each CR gets its NUL at once


_RULES = {
    # WILL ECHO and WILL SGA bring a client into character mode.  Its CR LF is Enter
    # (busybox); ours is a line's end.
    _Side.SERVER: _Rules(
        asks=(
            (Code.WILL, Option.ECHO),
            (Code.WILL, Option.SGA),
            (Code.DO, Option.SGA),
            (Code.WILL, Option.BINARY),
            (Code.DO, Option.BINARY),
        ),
        local=frozenset({Option.ECHO, Option.SGA, Option.BINARY}),
        remote=frozenset({Option.SGA, Option.BINARY}),
        enter=re.compile(rb"\r[\0\n]"),
        here=b"\r\n[ttybridge: yes]\r\n",
        ends_line=True,
    ),
    # A server's CR LF is a line's end and stays.  What a person types goes as it is: CR
    # and LF are two keys, so a CR is never left for the server to join with an LF.
    _Side.CLIENT: _Rules(
        asks=(),
        local=frozenset({Option.SGA, Option.BINARY}),
        remote=frozenset({Option.ECHO, Option.SGA, Option.BINARY}),
        enter=re.compile(rb"\r\0"),
        here=b"",  # it would be typed into the guest
        ends_line=False,
    ),
}

# (how it stands, does the peer want it?, do we?) -> (how it then stands, our answer).
# What is not here changes nothing and is not answered.
_NEXT: dict[tuple[Use, bool, bool], tuple[Use, bool | None]] = {
    (Use.NO, True, True): (Use.YES, True),
    (Use.NO, True, False): (Use.NO, False),
    (Use.YES, False, True): (Use.NO, False),
    (Use.WANTED, True, True): (Use.YES, None),
    (Use.WANTED, False, True): (Use.NO, None),
}

# How often options are negotiated on one connection.  RFC 1143 ends all loops between
# peers that keep to it, but busybox' telnet flips SGA at whatever it is told, and answers:
# with a server that answers each change as it should, it can go on for ever.  A person
# who changes between line and character mode needs four.
_PATIENCE = 256


class TelnetState(TypedDict):
    """A ``Telnet`` as JSON can hold it."""

    side: str
    local: dict[str, str]
    remote: dict[str, str]
    begun: str
    skipping: bool
    after_cr: bool
    nul_due: bool
    patience: int


class Telnet:
    """One connection: send ``greeting``, then ``decode`` what comes and ``encode`` what goes.

    What ``encode`` and ``decode`` (as a reply) return goes out in the order of the calls,
    for a reply may be the very point where the encoding changes.
    """

    def __init__(self, side: _Side, changed: Callable[[], None]) -> None:
        self._side = side
        self._changed = changed
        self._rules = _RULES[side]
        self._local: dict[int, Use] = {}
        self._remote: dict[int, Use] = {}
        self._begun = b""  # of a command: IAC, or IAC and a verb
        self._skipping = False  # in a subnegotiation
        self._after_cr = False  # the last byte of data from the peer
        self._nul_due = False  # our last byte was a CR, whose meaning the next one completes
        self._patience = _PATIENCE

    @classmethod
    def server(cls, changed: Callable[[], None] = lambda: None) -> Self:
        """The side that has a console to show; ``changed`` is told of each option agreed on."""
        return cls(_Side.SERVER, changed)

    @classmethod
    def client(cls) -> Self:
        """The side of who types."""
        return cls(_Side.CLIENT, lambda: None)

    @property
    def settled(self) -> bool:
        """The peer has said whether it takes our bytes as they are (BINARY).

        Before that they are encoded as if not, and a peer that is about to agree may show
        the NUL behind a lone CR: RFC 854's "uncertainty period", in which it says one may
        wish to hold data back.
        """
        return self._local.get(Option.BINARY) is not Use.WANTED

    def greeting(self) -> bytes:
        """Ask for what makes a console of the connection; once, before anything else."""
        for verb, option in self._rules.asks:
            (self._local if verb == Code.WILL else self._remote)[option] = Use.WANTED
        return b"".join(bytes([Code.IAC, verb, option]) for verb, option in self._rules.asks)

    def decode(self, data: bytes) -> tuple[list[bytes | Signal], bytes]:
        """Take ``data`` from the peer; return (data and commands in order, the reply)."""
        data = self._begun + data
        self._begun = b""
        events: list[bytes | Signal] = []
        text: list[bytes] = []  # data since the last command among the events
        reply = bytearray()
        at = 0
        while at < len(data):
            command = data.find(_IAC, at)
            end = command if command >= 0 else len(data)
            if end > at and not self._skipping:
                text.append(self._plain(data[at:end]))
            at = end + self._command_size(data[end : end + 2])
            if at > len(data):
                self._begun = data[end:]
            elif command >= 0:
                meaning = self._obey(data[command + 1 : at], reply)
                if isinstance(meaning, bytes):
                    text.append(meaning)
                else:
                    events += [b"".join(text), meaning]
                    text = []
        events.append(b"".join(text))
        return [event for event in events if event], bytes(reply)

    def encode(self, data: bytes) -> bytes:
        """Return ``data`` as the peer must get it."""
        wire = data.replace(_IAC, _IAC + _IAC)
        if self._local.get(Option.BINARY) is Use.YES or not wire:
            return wire
        # RFC 854 and 1123, 3.3.1: behind a CR comes LF or NUL, nothing else.  A CR at the
        # end is not held back to see what follows; a NUL that it needs goes before that.
        if self._nul_due and not wire.startswith(b"\n"):
            wire = b"\0" + wire
        self._nul_due = False
        if b"\r" not in wire:
            return wire
        wire = wire.replace(b"\r", b"\r\0")
        if self._rules.ends_line:
            wire = wire.replace(b"\r\0\n", b"\r\n")
            if data.endswith(b"\r"):
                self._nul_due = True
                wire = wire[:-1]
        return wire

    def state(self) -> TelnetState:
        """All there is to know, for ``restore`` in another process."""
        return {
            "side": self._side.value,
            "local": {str(option): use.value for option, use in self._local.items()},
            "remote": {str(option): use.value for option, use in self._remote.items()},
            "begun": self._begun.hex(),
            "skipping": self._skipping,
            "after_cr": self._after_cr,
            "nul_due": self._nul_due,
            "patience": self._patience,
        }

    @classmethod
    def restore(cls, state: TelnetState, changed: Callable[[], None] = lambda: None) -> Self:
        """The engine whose ``state`` this was; it is greeted no more."""
        self = cls(_Side(state["side"]), changed)
        self._local = {int(option): Use(use) for option, use in state["local"].items()}
        self._remote = {int(option): Use(use) for option, use in state["remote"].items()}
        self._begun = bytes.fromhex(state["begun"])
        self._skipping = state["skipping"]
        self._after_cr = state["after_cr"]
        self._nul_due = state["nul_due"]
        self._patience = state["patience"]
        return self

    def _plain(self, data: bytes) -> bytes:
        """What ``data`` without commands means: outside BINARY, CR NUL is CR, for one.

        A CR is passed on at once, and what may follow it is swallowed when it comes.
        """
        if self._remote.get(Option.BINARY) is Use.YES:
            return data
        if self._after_cr and self._rules.enter.match(b"\r" + data[:1]):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return self._rules.enter.sub(b"\r", data) if b"\r" in data else data

    def _command_size(self, start: bytes) -> int:
        """How long the command is that begins with ``start``, two bytes of it at most.

        One byte more than there are, if there are too few to tell.
        """
        if start[1:] and start[1] >= Code.WILL and start[1] != Code.IAC and not self._skipping:
            return 3
        return 2 if start else 0

    def _obey(self, command: bytes, reply: bytearray) -> bytes | Signal:
        """Do what ``command`` (without its IAC) wants; return what is left of it to the guest."""
        verb = command[0]
        if self._skipping:
            # Ends with IAC SE only.  We ask for no option that has subnegotiations, so
            # none is kept, and one that never ends costs no memory.  Its bytes are never
            # taken for typing, not even after some limit: no guest gets a command's innards.
            self._skipping = verb != Code.SE
            return b""
        match verb:
            case Code.IAC:  # a byte of data
                return self._plain(_IAC)
            case Code.WILL | Code.WONT | Code.DO | Code.DONT:
                self._negotiate(verb, command[1], reply)
            case Code.SB:
                self._skipping = True
            case Code.AYT:
                reply += self._rules.here
            case Code.BRK:
                return Signal.BREAK
        return _KEYS.get(verb, b"")

    def _negotiate(self, verb: int, option: int, reply: bytearray) -> None:
        if (verb, option) == (Code.DO, Option.TIMING_MARK):
            # Not a state but a question: "is all before this processed?" (RFC 860).  After
            # a ^C inetutils' telnet shows nothing until it has this answer.
            reply += bytes([Code.IAC, Code.WILL, Option.TIMING_MARK])
            return
        if verb in {Code.DO, Code.DONT}:
            uses, willing, yes, no = self._local, self._rules.local, Code.WILL, Code.WONT
        else:
            uses, willing, yes, no = self._remote, self._rules.remote, Code.DO, Code.DONT
        before = uses.get(option, Use.NO)
        wanted = verb in {Code.WILL, Code.DO}
        after, answer = _NEXT.get((before, wanted, option in willing), (before, None))
        if answer is not None:
            if not self._patience:
                return  # it all stays as it is
            self._patience -= 1
            reply += bytes([Code.IAC, yes if answer else no, option])
        uses[option] = after
        if after is not before:
            self._changed()
        if option == Option.BINARY and after is not before:
            # A CR before the change is not joined with what comes after it.
            if uses is self._remote:
                self._after_cr = False
            else:
                self._nul_due = False
