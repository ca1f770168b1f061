"""The command ``ttybridge``: arguments in, exit code out.

Only ``run`` and ``demo`` are the service; the other commands must be quick in scripts, so
what is heavy (trio alone takes a fifth of a second) is imported where it is used.
"""

import argparse
import dataclasses
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bridge import __version__
from bridge.errors import BridgeError, StartError, UsageError
from bridge.printable import printable
from bridge.runtime import default_directory, find_link

if TYPE_CHECKING:
    from bridge.bridged import Place
    from bridge.config import ConsoleSettings
    from bridge.demo import ConsoleServer

_NOTHING_TO_RUN = """\
nothing to run: no CONSOLE given, and no {config}
  ttybridge demo                          try it without a virtual machine
  ttybridge run vm1=ws://127.0.0.1:4555   bridge one console
  {config}   list the consoles there, then: ttybridge run"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except BridgeError as error:
        print(f"ttybridge: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the service was up, or again while it ended
        return 130
    except BrokenPipeError:
        _abandon_stdout()
        return 1


def _abandon_stdout() -> None:
    """Nobody reads our output any more (`ttybridge ... | head`), or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """One line for a wrong command line, as for every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ttybridge",
        description="Gives the serial consoles of virtual machines to local programs.",
        epilog="Example: ttybridge run vm1=ws://127.0.0.1:4555, then screen $(ttybridge path vm1)",
    )
    parser.add_argument("--version", action="version", version=f"ttybridge {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="bridge consoles until stopped")
    run.add_argument(
        "consoles", nargs="*", metavar="CONSOLE", help="URL or NAME=URL (ws://, ws+unix:///path)"
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="read consoles from FILE")
    _service_options(run)
    run.set_defaults(command=_run)

    demo = commands.add_parser("demo", help="bridge a built-in console: needs no VM")
    _service_options(demo)
    demo.set_defaults(command=_demo)

    path = commands.add_parser("path", help="print the link to a console's PTY")
    path.add_argument("name", metavar="NAME")
    _directory_option(path)
    path.set_defaults(command=_path)

    check = commands.add_parser("check", help="read a configuration file and say what is wrong")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE")
    _directory_option(check)
    check.set_defaults(command=_check)
    return parser


def _service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--raw", type=_port, metavar="PORT", help="first console's raw port; 0: none"
    )
    parser.add_argument("--telnet", type=_port, metavar="PORT", help="the same for the telnet port")
    parser.add_argument("--json", action="store_true", help="print one JSON object per console")
    _directory_option(parser)


def _directory_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime-dir", type=Path, metavar="DIR", help="where links are (default: per user)"
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found '{text}'; allowed: a port from 1 to 65535, or 0")
    return int(text)


def default_config() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "ttybridge" / "config.toml"


def _directory(arguments: argparse.Namespace) -> Path:
    directory: Path = arguments.runtime_dir or default_directory()
    return directory.absolute()


def _run(arguments: argparse.Namespace) -> int:
    from bridge import config

    given = config.from_arguments(arguments.consoles)
    file: Path | None = arguments.config
    if file is None and not given:
        file = default_config()
        if not file.exists():
            raise StartError(_NOTHING_TO_RUN.format(config=file))
    filed = config.load(file) if file is not None else []
    reread = partial(config.load, file) if file is not None else None
    consoles = config.with_ports([*given, *filed], raw=arguments.raw, telnet=arguments.telnet)
    config.check_unique(consoles)
    return _serve(consoles, arguments, filed={c.name: c for c in filed}, reread=reread)


def _demo(arguments: argparse.Namespace) -> int:
    from bridge import config
    from bridge.demo import ConsoleServer
    from bridge.guest import Shell

    server = ConsoleServer(Shell())
    consoles = config.with_ports(
        config.from_arguments([f"demo={server.url}"]), raw=arguments.raw, telnet=arguments.telnet
    )
    return _serve(consoles, arguments, server)


def _serve(
    consoles: "list[ConsoleSettings]",
    arguments: argparse.Namespace,
    server: "ConsoleServer | None" = None,
    *,
    filed: "Mapping[str, ConsoleSettings] | None" = None,
    reread: "Callable[[], list[ConsoleSettings]] | None" = None,
) -> int:
    """Bridge ``consoles`` until stopped; a built-in ``server`` outlives them."""
    import trio

    from bridge.service import open_service

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    with open_service(consoles, _directory(arguments), filed=filed, reread=reread) as service:

        def ready() -> None:
            show = _print_json if arguments.json else _print_table
            try:
                show(service.places)
                if sys.stdout is not None:  # None: closed by whoever started us
                    sys.stdout.flush()
            except OSError as error:  # the consoles are served all the same
                logging.getLogger("ttybridge").warning("standard output: %s", error.strerror)
                _abandon_stdout()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                if server is not None:
                    nursery.start_soon(server.run)
                await service.run(ready)
                nursery.cancel_scope.cancel()

        trio.run(run)
    return 0


def _print_json(places: "list[Place]") -> None:
    for place in places:
        print(json.dumps(dataclasses.asdict(place)))


def _print_table(places: "list[Place]") -> None:
    head = ("NAME", "PTY", "RAW", "TELNET", "UPSTREAM")
    rows = [head] + [(p.name, p.pty or "-", p.raw or "-", p.telnet or "-", p.url) for p in places]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    for place in places:
        print(f"\n{place.name}:")
        if place.link:
            print(f"  screen {shlex.quote(place.link)}")
        if place.raw:
            print(f"  socat -,rawer,escape=0x1d TCP:{place.raw}")
        if place.telnet:
            print("  telnet {} {}".format(*place.telnet.rsplit(":", 1)))
        if place.unix:
            print(f"  socat -,rawer,escape=0x1d UNIX-CONNECT:{shlex.quote(place.unix)}")


def _path(arguments: argparse.Namespace) -> int:
    directory = _directory(arguments)
    link = find_link(directory, arguments.name)
    if link is None:
        raise StartError(
            f"no console '{printable(arguments.name)}' in {directory} (is ttybridge running?)"
        )
    print(link)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from bridge import config

    file = arguments.file or default_config()
    consoles = config.load(file)
    print(f"{file}: good, {len(consoles)} console{'s' if len(consoles) != 1 else ''}")
    return 0
