"""The machine behind the built-in console: a line-oriented guest, as small as can be used.

Sans-I/O: ``boot`` and ``receive`` return what the guest prints.  It behaves as a serial
getty's shell does: echoes what is typed, ends lines with CR LF, knows erase and ^C.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Protocol

PROMPT = b"demo$ "
BANNER = (
    b"\r\nWelcome to the ttybridge demo.\r\n"
    b"This is a console built into ttybridge; no virtual machine is involved.\r\n"
    b"Type 'help' and Enter.\r\n\r\n"
)
FLOOD_LIMIT = 100_000
MAX_LINE = 4096


class Guest(Protocol):
    """Anything that may sit behind a served console."""

    def boot(self) -> Iterator[bytes]:
        """Power on; yield what is printed then."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take input; yield what is printed in answer, in pieces of any size."""


class Shell:
    """A Guest that reads lines and knows a few commands."""

    def __init__(self, now: Callable[[], dt.datetime] = dt.datetime.now) -> None:
        self._now = now
        self._line = bytearray()
        self._after_cr = False
        self._commands: dict[str, tuple[Callable[[str], Iterator[bytes]], str]] = {
            "help": (self._help, "this list"),
            "date": (self._date, "the time"),
            "echo": (self._echo, "the text that follows it"),
            "flood": (self._flood, "that many numbered lines, as fast as they are taken"),
            "bytes": (self._bytes, "all 256 byte values, once each"),
        }

    def boot(self) -> Iterator[bytes]:
        self._line.clear()
        yield BANNER + PROMPT

    def receive(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            yield from self._key(byte)

    def _key(self, byte: int) -> Iterator[bytes]:
        after_cr, self._after_cr = self._after_cr, byte == 0x0D
        match byte:
            case 0x0A if after_cr:  # CR LF is one Enter
                pass
            case 0x0D | 0x0A:
                yield b"\r\n"
                yield from self._enter()
            case 0x08 | 0x7F:
                if self._line:
                    del self._line[-1:]
                    yield b"\b \b"
            case 0x03:
                self._line.clear()
                yield b"^C\r\n" + PROMPT
            case _ if byte < 0x20:
                yield b"^" + bytes([byte + 0x40])
            case _ if len(self._line) >= MAX_LINE:
                yield b"\a"
            case _:
                self._line.append(byte)
                yield bytes([byte])

    def _enter(self) -> Iterator[bytes]:
        line = self._line.decode("utf-8", "replace").strip()
        self._line.clear()
        name, _, argument = line.partition(" ")
        if name in self._commands:
            yield from self._commands[name][0](argument.strip())
        elif name:
            yield f"{name}: not a command; try 'help'\r\n".encode()
        yield PROMPT

    def _help(self, _argument: str) -> Iterator[bytes]:
        for name, (_, text) in self._commands.items():
            yield f"  {name:6} {text}\r\n".encode()

    def _date(self, _argument: str) -> Iterator[bytes]:
        yield f"{self._now():%a %b %d %H:%M:%S %Y}\r\n".encode()

    def _echo(self, argument: str) -> Iterator[bytes]:
        yield f"{argument}\r\n".encode()

    def _flood(self, argument: str) -> Iterator[bytes]:
        if not argument.isdecimal() or len(argument) > 8 or int(argument) > FLOOD_LIMIT:
            yield f"flood wants a number of lines, {FLOOD_LIMIT} at most\r\n".encode()
            return
        for number in range(1, int(argument) + 1):
            yield f"{number:08d}\r\n".encode()

    def _bytes(self, _argument: str) -> Iterator[bytes]:
        yield bytes(range(256)) + b"\r\n"
