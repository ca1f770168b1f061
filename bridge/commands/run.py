"""``ttybridge run`` and ``demo``: the service, in the foreground."""

import argparse
import dataclasses
import json
import logging
import os
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.base.errors import ConfigError, StartError
from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.kernel.homes import passed_over
from bridge.service import messages

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers
    from bridge.service.bridged import Place
    from bridge.service.daemon import Plan
    from bridge.settings.config import Configuration

_log = logging.getLogger("ttybridge")

_NOTHING_TO_RUN = """\
nothing to run: no CONSOLE given, and no {config}
  ttybridge demo                          try it without a virtual machine
  ttybridge run vm1=ws://127.0.0.1:4555   bridge one console
  ttybridge run --discover                bridge the VMs that you run, as they come and go
  {config}   list the consoles there, then: ttybridge run"""


def add_to(commands: "Subparsers") -> None:
    run = commands.add_parser("run", help="bridge consoles until stopped")
    run.add_argument(
        "consoles",
        nargs="*",
        metavar="CONSOLE",
        help="URL or NAME=URL (ws://, wss://, tcp://, ...)",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="read consoles from FILE")
    run.add_argument(
        "--discover", action="store_true", help="bridge your VMs' consoles as they come and go"
    )
    _service_options(run)
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="bridge a built-in console: needs no VM")
    _service_options(demo)
    demo.set_defaults(command=_demo)


def _service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--raw",
        type=command.port,
        metavar="PORT",
        help="first console's raw port, from which the others' count up; 0: none",
    )
    parser.add_argument(
        "--telnet", type=command.port, metavar="PORT", help="the same for the telnet port"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per console")
    parser.add_argument(
        "--log-level", choices=messages.LEVELS, default="info", help="say nothing below it"
    )
    command.directory_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    from bridge.service import heritage

    try:
        plan = _plan(arguments)
    except BaseException:
        heritage.decline()  # QEMU must be left, whatever it is
        raise
    return _serve(plan, arguments)


def _plan(arguments: argparse.Namespace) -> "Plan":
    from bridge.service.daemon import Plan
    from bridge.settings import config

    given = config.from_arguments(arguments.consoles)
    file: Path | None = arguments.config
    if file is None and not given:
        file = command.default_config()
        if not os.path.lexists(file):
            if not arguments.discover:
                raise StartError(_NOTHING_TO_RUN.format(config=file))
            file = None
    read = partial(_read, file, discover=arguments.discover)
    filed = read()
    consoles = config.with_ports(
        [*given, *filed.consoles],
        raw=arguments.raw,
        telnet=arguments.telnet,
        websocket=filed.service.websocket,
    )
    config.check_unique(consoles, filed.service)
    if file is not None and not file.is_file():
        read = partial(_spent, file)
    return Plan(consoles, filed, read if file is not None else None)


def _spent(file: Path) -> "Configuration":
    """A pipe is empty when it is read again, which is no wish to have no consoles."""
    raise ConfigError(f"{file}: no regular file, so that it can be read only once")


def _read(file: Path | None, *, discover: bool) -> "Configuration":
    """What the configuration file says, and what the command line adds to it."""
    from bridge.settings.config import Configuration

    said = command.load(file) if file is not None else Configuration()
    if not discover:
        return said
    return dataclasses.replace(said, service=dataclasses.replace(said.service, discover=True))


def _demo(arguments: argparse.Namespace) -> int:
    from bridge.service.daemon import Plan
    from bridge.service.demo import ConsoleServer
    from bridge.service.guest import Shell
    from bridge.settings import config

    server = ConsoleServer(Shell())
    consoles = config.with_ports(
        config.from_arguments([f"demo={server.url}"]), raw=arguments.raw, telnet=arguments.telnet
    )
    return _serve(Plan(consoles, server=server), arguments)


def _serve(plan: "Plan", arguments: argparse.Namespace) -> int:
    from bridge.service import daemon

    messages.set_up(arguments.log_level)
    where = (
        f" --runtime-dir {shlex.quote(str(arguments.runtime_dir))}" if arguments.runtime_dir else ""
    )
    directory = command.directory(arguments)
    show = _as_json if arguments.json else partial(_as_table, where)

    def announce(places: "list[Place]") -> str:
        if not arguments.runtime_dir and (why := passed_over()):
            _log.warning("%s; links are in %s", why, printable(str(directory), 1000))
        return show(places)

    daemon.run(plan, directory, announce)
    return 0


def _as_json(places: "list[Place]") -> str:
    return "".join(json.dumps(dataclasses.asdict(place)) + "\n" for place in places)


def _program() -> str:
    """What a shell that has our PATH finds ttybridge by."""
    if shutil.which("ttybridge"):
        return "ttybridge"
    if os.path.basename(sys.argv[0]) == "ttybridge":
        return shlex.quote(str(command.absolute(Path(sys.argv[0]))))
    return f"{shlex.quote(sys.executable)} -m bridge"


def _as_table(where: str, places: "list[Place]") -> str:
    program = _program()
    head = ("NAME", "PTY", "RAW", "TELNET", "UPSTREAM")
    rows = [head] + [(p.name, p.pty or "-", p.raw or "-", p.telnet or "-", p.url) for p in places]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for place in places:
        lines += ["", f"{place.name}:", f"  {program} attach {place.name}{where}"]
        if place.link:
            lines.append(f"  screen {shlex.quote(place.link)}")
        if place.raw:
            lines.append(f"  socat -,rawer,escape=0x1d TCP:{place.raw}")
        if place.telnet:
            lines.append("  telnet {} {}".format(*place.telnet.rsplit(":", 1)))
        if place.unix:
            lines.append(f"  socat -,rawer,escape=0x1d UNIX-CONNECT:{shlex.quote(place.unix)}")
    return "\n".join(lines) + "\n"
