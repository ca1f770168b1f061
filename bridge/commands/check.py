"""``ttybridge check``: is a configuration file good?  Needs no service."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.commands import common as command

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


def add_to(commands: "Subparsers") -> None:
    check = commands.add_parser("check", help="read a configuration file and say what is wrong")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE")
    command.directory_option(check)
    check.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    file = arguments.file or command.default_config()
    consoles = command.load(file).consoles
    command.say(f"{file}: good, {len(consoles)} console{'s' if len(consoles) != 1 else ''}")
    return 0
