"""``ttybridge wait``: until a console has printed something; for scripts."""

import argparse
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

from bridge.base.printable import printable
from bridge.base.search import WINDOW, Search
from bridge.base.wire import ended
from bridge.commands import common as command
from bridge.commands.client import Client
from bridge.console.manners import MAX_REPLAY

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers

TIMED_OUT = 124  # as timeout(1) has it

LONGEST = 86_400.0  # at a time: poll(2) counts milliseconds in 32 bits


def add_to(commands: "Subparsers") -> None:
    wait = commands.add_parser(
        "wait",
        help="wait until a console prints something",
        epilog=f"Exits with 0 once it was printed, {TIMED_OUT} if it was not in time.",
    )
    wait.add_argument("name", metavar="NAME")
    wait.add_argument("regex", metavar="REGEX", help="Python's syntax; ^ and $ match at lines")
    wait.add_argument("--timeout", type=_seconds, required=True, metavar="S", help="seconds")
    wait.add_argument("--replay", action="store_true", help="look at what was printed before, too")
    command.directory_option(wait)
    wait.set_defaults(command=_wait)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"found '{text}'; allowed: a number of seconds")
    return seconds


def _wait(arguments: argparse.Namespace) -> int:
    pattern = command.pattern(arguments.regex, "REGEX", re.MULTILINE)
    deadline = time.monotonic() + arguments.timeout
    with Client(command.directory(arguments)) as client:
        replay = MAX_REPLAY if arguments.replay else 0
        stream = client.attach(arguments.name, readonly=True, replay=replay, notices=False)
        found = _search(stream, arguments.name, pattern, deadline)
    if found is None:
        name = printable(arguments.name)
        print(f"ttybridge: {name}: not seen in {arguments.timeout:g} s", file=sys.stderr)
        return TIMED_OUT
    command.say(printable(found, 4000))
    return 0


def _search(
    stream: socket.socket, name: str, pattern: re.Pattern[str], deadline: float
) -> str | None:
    """The first text that matches; None if it has not come by then.

    Looks once in any case: a replay is there with the answer to `attach`.
    """
    search = Search()
    while True:
        # Not at 0, which would be a socket that does not block; nor beyond what poll(2) takes.
        left = deadline - time.monotonic()
        stream.settimeout(min(max(left, 0.001), LONGEST))
        try:
            data = stream.recv(WINDOW)
        except TimeoutError:
            if left > LONGEST:
                continue
            return None
        except ConnectionError:
            data = b""
        if not data:
            raise ended(name)
        search.feed(data)
        if found := search.find(pattern, again=True):
            return found.text
        if time.monotonic() > deadline:
            return None
