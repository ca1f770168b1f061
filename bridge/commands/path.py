"""``ttybridge path``: the link to a console's PTY, for ``screen $(ttybridge path vm1)``."""

import argparse
from typing import TYPE_CHECKING

from bridge.base.errors import StartError
from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.commands.client import nobody
from bridge.kernel.runtime import find_link, holder

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


def add_to(commands: "Subparsers") -> None:
    path = commands.add_parser("path", help="print the link to a console's PTY")
    path.add_argument("name", metavar="NAME")
    command.directory_option(path)
    path.set_defaults(command=_path)


def _path(arguments: argparse.Namespace) -> int:
    directory = command.directory(arguments)
    link = find_link(directory, arguments.name)
    if link is None:
        if holder(directory) is None:
            raise nobody(directory)
        raise StartError(
            f"no console '{printable(arguments.name)}' in {printable(str(directory), 1000)}"
        )
    command.say_path(link)
    return 0
