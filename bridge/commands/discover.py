"""``ttybridge discover``: the consoles of the VMs that run here.  Needs no service."""

import argparse
from typing import TYPE_CHECKING

from bridge.commands import common as command

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


def add_to(commands: "Subparsers") -> None:
    discover = commands.add_parser("discover", help="list the consoles of the VMs that run here")
    discover.add_argument("--json", action="store_true", help="print one JSON object per console")
    command.directory_option(discover)
    discover.set_defaults(command=_discover)


def _discover(arguments: argparse.Namespace) -> int:
    from bridge.vms import listing

    listing.show(command.say, as_json=arguments.json, directory=arguments.runtime_dir)
    return 0
