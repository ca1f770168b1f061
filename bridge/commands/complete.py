"""``ttybridge completion``: what a shell needs to complete our words; and what it then asks.

The scripts are as small as can be: they hand over the words so far and get what may come
next, which is read off the parser itself, and names of consoles from the service.  They ask
at each press of Tab, so nothing heavy is imported, and nothing is said if nothing is known.
"""

import argparse
import os
from collections.abc import Iterator
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.base.errors import BridgeError
from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers

SHELLS = ("bash", "zsh", "fish")

# Exit code: nothing of ours, but a file's name.
FILES = 3

# How long Tab may wait for a service.
_PATIENCE = 1.0

# A word that may come next, and what it means.
Word = tuple[str, str]


class _WantsFileError(Exception):
    """What comes next is a file's name."""


def add_to(commands: "Subparsers", top: argparse.ArgumentParser) -> None:
    completion = commands.add_parser("completion", help="print what a shell needs for Tab")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    completion.set_defaults(command=_completion)

    complete = commands.add_parser("complete")  # hidden, for it has no help; words behind --
    complete.add_argument("words", nargs="*")
    complete.set_defaults(command=partial(_complete, top))


def _completion(arguments: argparse.Namespace) -> int:
    from importlib import resources

    scripts = resources.files("bridge.commands")
    command.say(scripts.joinpath(f"completion.{arguments.shell}").read_text("utf-8").rstrip("\n"))
    return 0


def _complete(top: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Print what may come in place of the last word: a word, a tab and what it means."""
    *before, last = arguments.words or [""]
    # bash makes three words of `--since=1d`, the others leave it one.
    before = [part for word in before if word != "=" for part in _parted(word)]
    try:
        line = reduce(_Line.take, before, _Line(top))
        words = [word for word in line.following() if _fits(word[0], last)]
    except _WantsFileError:
        return FILES
    if words:
        command.say("\n".join("\t".join(word) for word in words))
    return 0


def _parted(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--") else [word]


def _fits(word: str, begun: str) -> bool:
    """Options are for those who have begun one."""
    return word.startswith(begun) and (begun != "" or not word.startswith("-"))


class _Line:
    """A command line so far, as its parser understands it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        actions = parser._actions  # noqa: SLF001 (there is no other way to them)
        self._options = {name: action for action in actions for name in action.option_strings}
        self._positionals = [action for action in actions if not action.option_strings]
        self._used: set[argparse.Action] = set()
        self._open: argparse.Action | None = None  # an option whose value is next
        self._directory: str | None = None

    def take(self, word: str) -> "_Line":
        """The line with one more word."""
        option = self._options.get(word)
        first = self._positionals[0] if self._positionals else None
        if self._open is not None:
            if self._open.dest == "runtime_dir":
                self._directory = word
            self._open = None
        elif option is not None:
            self._used.add(option)
            self._open = option if option.nargs != 0 else None
        elif isinstance(first, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            return _Line(first.choices.get(word) or argparse.ArgumentParser(add_help=False))
        elif first is not None and first.nargs not in {"*", "+"}:
            self._positionals.pop(0)
        return self

    def following(self) -> Iterator[Word]:
        """All that may come next; raises _WantsFileError."""
        if self._open is not None:
            yield from self._values(self._open)
            return
        if self._positionals:
            yield from self._values(self._positionals[0])
        for action in dict.fromkeys(self._options.values()):
            if action not in self._used:
                yield max(action.option_strings, key=len), action.help or ""

    def _values(self, action: argparse.Action) -> Iterator[Word]:
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (as above)
            shown = action._choices_actions  # noqa: SLF001 (as above)
            yield from ((choice.dest, choice.help or "") for choice in shown)
        elif action.choices is not None:
            yield from ((str(choice), "") for choice in action.choices)
        elif action.dest == "name":  # of a console that is there
            yield from _names(self._directory)
        elif action.type in {Path, command.some_path}:
            raise _WantsFileError


def _names(directory: str | None) -> Iterator[Word]:
    """The consoles of the running service, and their states; none if none runs."""
    given = Path(os.path.expanduser(directory)) if directory else None
    where = command.directory(argparse.Namespace(runtime_dir=given))
    try:
        with Client(where, patience=_PATIENCE) as client:
            consoles = client.ask("status")["consoles"]
    except (BridgeError, OSError):
        return
    yield from ((console["name"], console["state"]) for console in consoles)
