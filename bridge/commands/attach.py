"""``ttybridge attach``: a console in this terminal, or in a pipe."""

import argparse
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from bridge.base.errors import StartError
from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from types import FrameType

    from bridge.commands.common import Subparsers

LEAVE = b"\x1d"  # ^]

# After the end of a piped input: how long the answer may be silent.
_QUIET = 1.0

_CHUNK = 1 << 16

# What is read ahead of a console that takes nothing: from a pipe, and from a terminal, where
# the key that leaves must be found behind it.
_AHEAD, _TYPED_AHEAD = 1 << 16, 1 << 20

_INPUT, _OUTPUT = 0, 1

_DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# What a guest's program that was left in its midst may have set, and the shell would not
# unset: keypad and cursor keys' mode, alternate screen, mouse, bracketed paste, hidden
# cursor, colours, character set.  Not 1049, which moves the cursor where it was not in use.
_UNSET = (
    b"\x1b>\x1b[?1l\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l"
    b"\x1b[?25h\x1b[m\x0f\x1b(B"
)


def add_to(commands: "Subparsers") -> None:
    attach = commands.add_parser("attach", help="a console in this terminal; ^] leaves")
    attach.add_argument("name", metavar="NAME")
    attach.add_argument("--read-only", action="store_true", help="watch, type nothing")
    command.directory_option(attach)
    attach.set_defaults(command=_attach)


def _attach(arguments: argparse.Namespace) -> int:
    if sys.stdout is None:
        raise StartError("standard output is closed")
    watch = arguments.read_only
    with Client(command.directory(arguments)) as client:
        stream = client.attach(arguments.name, readonly=watch)
        if not os.isatty(_INPUT):
            return 0 if _Session(stream, None if watch else _INPUT).run() else 1
        print(f"[ttybridge: attached to {arguments.name}; ^] leaves]", file=sys.stderr)
        with _raw(_INPUT):
            left = _Session(stream, _INPUT, leave=LEAVE, mute=watch).run()
        why = "left" if left else "the console has been removed, or the service has ended"
        print(f"\n[ttybridge: {why}]", file=sys.stderr)
        return 0 if left else 1


class _Session:
    """Moves bytes both ways, neither of which waits for the other.

    ``leave`` among what is typed ends it, and so does the end of ``source`` when the
    console has been silent for a while after it.
    """

    def __init__(
        self, stream: socket.socket, source: int | None, *, leave: bytes = b"", mute: bool = False
    ) -> None:
        self._stream = stream
        self._stream.setblocking(False)
        self._source = source
        self._leave = leave
        self._mute = mute
        self._limit = _TYPED_AHEAD if leave else _AHEAD
        self._typed = b""  # to be sent
        self._output = b""  # to be shown
        self._quiet: float | None = None  # the silence that ends it, in seconds
        self._ended = self._left = False

    def run(self) -> bool:
        """False when the console has ended first.  Raises BrokenPipeError if nobody looks on."""
        while not self._left and (self._output or not self._ended):
            ready = self._wait()
            if not ready:
                return True
            if ready.get(_OUTPUT, 0) & ~select.POLLOUT:
                raise BrokenPipeError
            if _OUTPUT in ready:
                self._show()
            if ready.get(self._stream.fileno(), 0) & ~select.POLLOUT and not self._output:
                self._receive()
            if self._typed:
                self._send()
            if self._source is not None and self._source in ready:
                self._read(self._source)
        return self._left

    def _wait(self) -> dict[int, int]:
        """What can be moved, as poll(2) has it; nothing after the silence."""
        poll = select.poll()
        # Always, for what cannot be asked not to be told: that nobody reads there any more.
        poll.register(_OUTPUT, select.POLLOUT if self._output else 0)
        events = (0 if self._output else select.POLLIN) | (select.POLLOUT if self._typed else 0)
        if events and not self._ended:
            poll.register(self._stream, events)
        if self._source is not None and len(self._typed) < self._limit:
            poll.register(self._source, select.POLLIN)
        idle = self._quiet is not None and not self._typed and not self._output
        return dict(poll.poll(self._quiet and self._quiet * 1000 if idle else None))

    def _show(self) -> None:
        # Blocking: whoever gave us the descriptor had it so.
        with command.speaking(), suppress(BlockingIOError):
            # PIPE_BUF: a pipe that can be written to takes so much without blocking.
            written = os.write(_OUTPUT, self._output[: select.PIPE_BUF])
            self._output = self._output[written:]

    def _receive(self) -> None:
        try:
            self._output = self._stream.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self._ended = not self._output

    def _send(self) -> None:
        try:
            self._typed = self._typed[self._stream.send(self._typed) :]
            if self._source is None and not self._typed:
                self._stream.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:  # it is gone; its last words are still to be shown
            self._typed, self._source = b"", None

    def _read(self, source: int) -> None:
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal is gone
            data = b""
        ended = not data
        if self._leave:
            data, found, _ = data.partition(self._leave)
            self._left = ended or bool(found)
        elif ended:
            self._source, self._quiet = None, _QUIET
        self._typed += b"" if self._mute else data
        if ended or self._left:
            # Once, if the console takes nothing now: who leaves must not have to wait for it.
            self._send()


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """The terminal gives each key as it is; afterwards it is as before, whatever happens."""
    before = termios.tcgetattr(terminal)

    def stop(_number: int, _frame: "FrameType | None") -> None:
        _restore(terminal, before)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)  # returns when we are continued
        signal.signal(signal.SIGTSTP, stop)
        _set_raw(terminal)

    # A shell that stopped us otherwise has given the terminal its own settings meanwhile.
    wanted = dict.fromkeys(_DEADLY, _end) | {
        signal.SIGTSTP: stop,
        signal.SIGCONT: lambda *_: _set_raw(terminal),
    }
    handlers = {number: signal.getsignal(number) for number in wanted}
    try:
        for number, former in handlers.items():
            if former is not signal.SIG_IGN:  # as nohup(1) has it
                signal.signal(number, wanted[number])
        _set_raw(terminal)
        yield
    finally:
        _restore(terminal, before)
        for number, former in handlers.items():
            signal.signal(number, former)


def _restore(terminal: int, before: list[Any]) -> None:
    with suppress(OSError, termios.error):  # the terminal itself is gone
        if os.isatty(_OUTPUT):
            os.write(_OUTPUT, _UNSET)
        # Answers to what the guest asked the terminal are not for the shell.
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _set_raw(terminal: int) -> None:
    with suppress(termios.error):  # gone; reading it tells
        # Not TCSAFLUSH, setraw's default: what was typed ahead is not to be lost.
        tty.setraw(terminal, termios.TCSADRAIN)


def _end(number: int, _frame: "FrameType | None") -> NoReturn:
    for deadly in _DEADLY:
        signal.signal(deadly, signal.SIG_IGN)  # a second one must not cut the restoring short
    raise SystemExit(128 + number)
