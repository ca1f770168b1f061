"""The telnet engine: conversations, and what holds for any bytes, cut anywhere."""

import pytest

from bridge.codec import Signal
from bridge.telnet import Code, Option, Telnet

IAC, SB, SE = Code.IAC, Code.SB, Code.SE
WILL, WONT, DO, DONT = Code.WILL, Code.WONT, Code.DO, Code.DONT
ECHO, SGA, BINARY = Option.ECHO, Option.SGA, Option.BINARY
TTYPE, TSPEED, NAWS, NEWENV = 24, 32, 31, 39

GREETING = bytes(
    [IAC, WILL, ECHO, IAC, WILL, SGA, IAC, DO, SGA, IAC, WILL, BINARY, IAC, DO, BINARY]
)


def commands(*verbs: tuple[int, int]) -> bytes:
    return b"".join(bytes([IAC, *verb]) for verb in verbs)


AGREES = commands((DO, ECHO), (DO, SGA), (WILL, SGA), (DO, BINARY), (WILL, BINARY))


def test_the_server_greets() -> None:
    telnet = Telnet.server()
    assert telnet.greeting() == GREETING
    assert not telnet.settled
    assert telnet.decode(AGREES) == ([], b"")
    assert telnet.settled


def test_plain_typing() -> None:
    telnet = Telnet.server()
    telnet.greeting()
    assert telnet.decode(b"a\r\0b\r\nc\rd") == ([b"a\rb\rc\rd"], b"")
    assert telnet.decode(b"\r") == ([b"\r"], b"")
    assert telnet.decode(b"\n\r\0\n") == ([b"\r\n"], b"")
    assert telnet.encode(b"a\r\nb\rc\r") == b"a\r\nb\r\0c\r"
    assert telnet.encode(b"\r\xff\n\0") == b"\0\r\0\xff\xff\n\0"


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_break_keeps_its_place(step: int) -> None:
    telnet = Telnet.server()
    stream = b"x" + bytes([IAC, Code.BRK]) + b"h\xff\xff"
    events = []
    for at in range(0, len(stream), step):
        more, reply = telnet.decode(stream[at : at + step])
        events += more
        assert reply == b""
    at = events.index(Signal.BREAK)
    assert b"".join(e for e in events[:at] if isinstance(e, bytes)) == b"x"
    assert b"".join(e for e in events[at + 1 :] if isinstance(e, bytes)) == b"h\xff"
