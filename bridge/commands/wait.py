"""``ttybridge wait``: until a console has printed something; for scripts."""

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from bridge.base.errors import StartError, UsageError
from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.commands.client import Client
from bridge.console.manners import MAX_REPLAY

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers

TIMED_OUT = 124  # as timeout(1) has it

# Output in which a match may begin; what is older is forgotten.
_WINDOW = 1 << 20

# What a terminal would not show: escape sequences and control bytes but line ends and tabs.
_UNSHOWN = re.compile(
    r"\x1b(?:\[[ -?]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])|[\x00-\x08\x0b-\x1f\x7f]"
)


def add_to(commands: "Subparsers") -> None:
    wait = commands.add_parser("wait", help="wait until a console prints something")
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
    try:
        pattern = re.compile(arguments.regex, re.MULTILINE)
    except re.error as error:
        raise UsageError(f"REGEX '{printable(arguments.regex)}': {error}") from None
    deadline = time.monotonic() + arguments.timeout
    with Client(command.directory(arguments)) as client:
        replay = MAX_REPLAY if arguments.replay else 0
        options = {"readonly": True, "replay": replay, "notices": False}
        stream = client.attach(arguments.name, **options)
        seen = b""
        while True:
            # Not at 0, which would be a socket that does not block.
            stream.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = stream.recv(1 << 16)
            except TimeoutError:
                name = printable(arguments.name)
                print(f"ttybridge: {name}: not seen in {arguments.timeout:g} s", file=sys.stderr)
                return TIMED_OUT
            if not data:
                raise StartError("the service has gone away")
            seen = (seen + data)[-_WINDOW:]
            if match := pattern.search(shown(seen)):
                print(printable(match[0], 4000))
                return 0


def shown(output: bytes) -> str:
    """``output`` as a person reads it: text, tabs and line ends."""
    return _UNSHOWN.sub("", output.decode("utf-8", "replace"))
