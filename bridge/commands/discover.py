"""``ttybridge discover``: the consoles of the VMs that run here.  Needs no service."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.base.errors import BridgeError
from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


def add_to(commands: "Subparsers") -> None:
    discover = commands.add_parser("discover", help="list the consoles of the VMs that run here")
    discover.add_argument("--json", action="store_true", help="print one JSON object per console")
    command.directory_option(discover)
    discover.set_defaults(command=_discover)


def _discover(arguments: argparse.Namespace) -> int:
    from bridge.vms import listing

    bridged = {} if arguments.json else _bridged(command.directory(arguments))
    listing.show(
        command.say, as_json=arguments.json, directory=arguments.runtime_dir, bridged=bridged
    )
    return 0


def _bridged(directory: Path) -> dict[str, str]:
    """The consoles of a service that may run, their names by URL."""
    try:
        with Client(directory) as client:
            consoles = client.ask("status")["consoles"]
    except BridgeError:  # then none is
        return {}
    return {each["url"]: each["name"] for each in consoles}
