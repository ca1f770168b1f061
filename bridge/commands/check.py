"""``ttybridge check``: is a configuration file good?  Needs no service."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.base.errors import ConfigError, StartError
from bridge.commands import common as command
from bridge.endpoints import token

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


def add_to(commands: "Subparsers") -> None:
    check = commands.add_parser("check", help="read a configuration file and say what is wrong")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE")
    command.directory_option(check)
    check.set_defaults(command=_check)


def _check(arguments: argparse.Namespace) -> int:
    file = arguments.file or command.default_config()
    configuration = command.load(file)
    if (path := configuration.service.websocket_token) is not None:
        try:
            token.chosen(path)
        except StartError as error:
            raise ConfigError(f"{file}: {error}") from error
    consoles = configuration.consoles
    command.say(f"{file}: good, {len(consoles)} console{'s' if len(consoles) != 1 else ''}")
    return 0
