"""``ttybridge run`` and ``demo``: the service, in the foreground."""

import argparse
import dataclasses
import json
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bridge import command
from bridge.errors import StartError

if TYPE_CHECKING:
    from bridge.bridged import Place
    from bridge.command import Subparsers
    from bridge.config import ConsoleSettings
    from bridge.demo import ConsoleServer
    from bridge.handover import Left
    from bridge.service import Service
    from bridge.states import State

_NOTHING_TO_RUN = """\
nothing to run: no CONSOLE given, and no {config}
  ttybridge demo                          try it without a virtual machine
  ttybridge run vm1=ws://127.0.0.1:4555   bridge one console
  {config}   list the consoles there, then: ttybridge run"""


def add_to(commands: "Subparsers") -> None:
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


def _service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--raw", type=command.port, metavar="PORT", help="first console's raw port; 0: none"
    )
    parser.add_argument(
        "--telnet", type=command.port, metavar="PORT", help="the same for the telnet port"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per console")
    command.directory_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    from bridge import config

    given = config.from_arguments(arguments.consoles)
    file: Path | None = arguments.config
    if file is None and not given:
        file = command.default_config()
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

    from bridge import succession, systemd
    from bridge.control import Control
    from bridge.handover import Bag, Ending
    from bridge.service import open_service
    from bridge.supervision import Supervision

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    directory = command.directory(arguments)
    left = succession.inherit()
    supervision = Supervision(systemd.notifier())
    with (
        open_service(
            consoles,
            directory,
            filed=filed,
            reread=reread,
            changed=supervision.changed,
            left=_part(left, "service"),
        ) as service,
        closing(Control(service, _part(left, "control"))) as control,
    ):
        if left is not None:
            succession.close(left[1])  # what nobody took
        if server is not None:
            service.tied = "the built-in console lives in this process"

        def ready() -> None:
            if left is None:
                _announce(service.places, _print_json if arguments.json else _print_table)
            supervision.ready()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                if server is not None:
                    nursery.start_soon(server.run)
                nursery.start_soon(control.run)
                nursery.start_soon(supervision.run, lambda: _count_states(service))
                await service.run(ready)
                nursery.cancel_scope.cancel()

        trio.run(run)
        if service.ending is Ending.HAND_OVER:
            bag = Bag()
            succession.become({"service": service.state(bag), "control": control.state(bag)}, bag)
    return 0


def _count_states(service: "Service") -> "Counter[State]":
    return Counter(bridged.console.state for bridged in service.consoles.values())


def _part(left: "Left | None", name: str) -> "Left | None":
    return (left[0][name], left[1]) if left is not None else None


def _announce(places: "list[Place]", show: "Callable[[list[Place]], None]") -> None:
    try:
        show(places)
        if sys.stdout is not None:  # None: closed by whoever started us
            sys.stdout.flush()
    except OSError as error:  # the consoles are served all the same
        logging.getLogger("ttybridge").warning("standard output: %s", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
