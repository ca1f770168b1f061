"""Commands that ask the service for one thing: send, break, rescue, add, remove, reload."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from bridge.base.errors import AskError, ConfigError, UsageError
from bridge.base.printable import printable
from bridge.base.wire import keys
from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers


# How long the new program may take until it listens, with all that it was handed.
_STARTING = 60.0


def add_to(commands: "Subparsers") -> None:
    send = commands.add_parser("send", help="type a text at a console")
    send.add_argument("name", metavar="NAME")
    send.add_argument("text", metavar="TEXT", help="exactly as given")
    send.add_argument("--enter", action="store_true", help="press Enter (CR) after it")
    send.set_defaults(command=_send)

    brk = commands.add_parser("break", help="send a BREAK to a console")
    brk.add_argument("name", metavar="NAME")
    brk.set_defaults(command=_break)

    rescue = commands.add_parser("rescue", help="free a console that a client has left locked")
    rescue.add_argument("name", metavar="NAME")
    rescue.set_defaults(command=_rescue)

    add = commands.add_parser("add", help="bridge one more console")
    add.add_argument("new", metavar="NAME")  # not `name`, which is completed
    add.add_argument("url", metavar="URL")
    add.add_argument("--raw", type=command.port, metavar="PORT", help="its raw port; 0: none")
    add.add_argument("--telnet", type=command.port, metavar="PORT", help="its telnet port; 0: none")
    add.set_defaults(command=_add)

    remove = commands.add_parser("remove", help="bridge a console no longer")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(command=_remove)

    reload = commands.add_parser("reload", help="read the configuration file again")
    reload.add_argument(
        "--exec",
        action="store_true",
        help="start the service's program anew, after an update; all who are attached stay",
    )
    reload.set_defaults(command=_reload)

    for parser in (send, brk, rescue, add, remove, reload):
        command.directory_option(parser)


def _client(arguments: argparse.Namespace) -> Client:
    return Client(command.directory(arguments))


def _send(arguments: argparse.Namespace) -> int:
    # As the shell gave it, be it UTF-8 or not.
    data = keys(os.fsencode(arguments.text), enter=arguments.enter)
    with _client(arguments) as client:
        client.ask("send", name=arguments.name, data=data)
    return 0


def _break(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.ask("break", name=arguments.name)
    return 0


def _rescue(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.ask("rescue", name=arguments.name)
    return 0


def _add(arguments: argparse.Namespace) -> int:
    settings: dict[str, Any] = {"url": arguments.url}
    for key in ("raw", "telnet"):
        port = getattr(arguments, key)
        if port is not None:
            settings[key] = port or False
    with _client(arguments) as client:
        try:
            added = client.ask("add", name=arguments.new, settings=settings)["console"]
        except AskError as error:
            if error.exit_code == ConfigError.exit_code:  # no file of settings, but our words
                raise UsageError(str(error).removeprefix("settings.")) from error
            raise
    command.say(added["link"] or added["raw"] or added["telnet"] or added["name"])
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.ask("remove", name=arguments.name)
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        if arguments.exec:
            client.ask("exec")
            return _wait_new(arguments)
        done = client.ask("reload")
    lines = [f"{what} {name}" for what in ("added", "removed", "changed") for name in done[what]]
    lines += [f"changed [service] {key}" for key in done["service"]]
    lines += [f"failed {printable(error, 1000)}" for error in done["errors"]]
    command.say("\n".join(lines) or "nothing has changed")
    return 1 if done["errors"] else 0


def _wait_new(arguments: argparse.Namespace) -> int:
    """The new program answers on the same socket, as soon as it can."""
    with Client(command.directory(arguments), patience=_STARTING) as client:
        service = client.ask("status")["service"]
    command.say(f"ttybridge {service['version']}, pid {service['pid']}")
    return 0
