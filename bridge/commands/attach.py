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
from typing import TYPE_CHECKING, NoReturn

from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from types import FrameType

    from bridge.commands.common import Subparsers

LEAVE = 0x1D  # ^]

# After the end of a piped input: how long the answer may be silent.
_QUIET = 1.0

_CHUNK = 1 << 16


def add_to(commands: "Subparsers") -> None:
    attach = commands.add_parser("attach", help="a console in this terminal; ^] leaves")
    attach.add_argument("name", metavar="NAME")
    attach.add_argument("--read-only", action="store_true", help="watch, type nothing")
    command.directory_option(attach)
    attach.set_defaults(command=_attach)


def _attach(arguments: argparse.Namespace) -> int:
    with Client(command.directory(arguments)) as client:
        stream = client.attach(arguments.name, readonly=arguments.read_only)
        stream.setblocking(False)
        keyboard = sys.stdin.fileno()
        if not os.isatty(keyboard):
            return 0 if _session(stream, None if arguments.read_only else keyboard) else 1
        print(f"[ttybridge: attached to {arguments.name}; ^] leaves]", file=sys.stderr)
        with _raw(keyboard):
            left = _session(stream, keyboard, leave=bytes([LEAVE]))
        print("\n[ttybridge: left]" if left else "\n[ttybridge: ended]", file=sys.stderr)
        return 0 if left else 1


def _session(stream: socket.socket, source: int | None, leave: bytes = b"") -> bool:
    """Move bytes both ways; False when the service or the console has ended first.

    ``leave`` among what is typed ends it, and so does the end of ``source`` when the
    console has been silent for a while after it.
    """
    typed, quiet = b"", None
    output, end = stream.fileno(), False
    while True:
        readers = [output] if source is None or typed else [output, source]
        readable, writable, _ = select.select(readers, [output] if typed else [], [], quiet)
        if not readable and not writable:
            return True
        if output in readable:
            if not (data := stream.recv(_CHUNK)):
                return False
            _show(data)
        if writable:
            typed = typed[stream.send(typed) :]
        if source in readable:
            assert source is not None
            typed = os.read(source, _CHUNK)
            end = not typed
            if leave and leave in typed:
                typed, end = typed.partition(leave)[0], True
        if end and not typed:
            if leave:
                return True
            stream.shutdown(socket.SHUT_WR)
            source, quiet, end = None, _QUIET, False


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """The terminal gives each key as it is; afterwards it is as before, whatever happens."""
    before = termios.tcgetattr(terminal)
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(terminal)
        yield
    finally:
        with suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, _frame: "FrameType | None") -> NoReturn:
    raise SystemExit(128 + number)
