"""``ttybridge status`` (also ``list``): what the service does, for people and programs."""

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from bridge.base.errors import UsageError
from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.commands.client import Client

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers

WATCH_INTERVAL = 1.0

_HEAD = ("NAME", "STATE", "SINCE", "ATTACHED", "LAST TYPED", "IN", "OUT", "SKIPPED", "INPUT")


def add_to(commands: "Subparsers") -> None:
    for name, more in (("status", "what each console does"), ("list", "the same as status")):
        status = commands.add_parser(name, help=more)
        status.add_argument("name", nargs="?", metavar="NAME")
        form = status.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON object per console")
        form.add_argument(
            "--prometheus", action="store_true", help="figures of all consoles, for Prometheus"
        )
        status.add_argument("--watch", action="store_true", help="again every second")
        command.directory_option(status)
        status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    if arguments.prometheus and arguments.name is not None:
        raise UsageError("--prometheus is about all consoles; found a NAME, too")
    directory = command.directory(arguments)
    on_screen = arguments.watch and not arguments.json and sys.stdout and sys.stdout.isatty()
    while True:
        with Client(directory) as client:  # each time anew: the service may restart meanwhile
            text = _text(client, arguments)
        command.say(_over_the_last(text) if on_screen else text)
        if not arguments.watch:
            return 0
        time.sleep(WATCH_INTERVAL)


def _over_the_last(text: str) -> str:
    """Text for a terminal's whole screen that replaces what is there without a flicker."""
    return "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J"


def _text(client: Client, arguments: argparse.Namespace) -> str:
    if arguments.prometheus:
        text: str = client.ask("metrics")["text"]
        return text.rstrip("\n")
    answer = client.ask("status", name=arguments.name)
    return _as_json(answer) if arguments.json else _as_table(answer)


def _as_json(answer: dict[str, Any]) -> str:
    return "\n".join(json.dumps(console) for console in answer["consoles"])


def _as_table(answer: dict[str, Any]) -> str:
    now = answer["service"]["now"]
    rows = [_HEAD, *(_row(console, now) for console in answer["consoles"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for console in answer["consoles"]:
        lines += _details(console, now)
    return "\n".join(lines)


def _row(console: dict[str, Any], now: float) -> tuple[str, ...]:
    counts, pacing, last = console["bytes"], console["input"], console["typed"]
    return (
        console["name"],
        console["state"],
        _ago(now - console["since"]),
        ",".join(a["kind"] for a in console["attachments"]) or "-",
        f"{last['kind']} {_ago(now - last['time'])} ago" if last else "-",
        _size(counts["from_guest"]),
        _size(counts["to_guest"]),
        _size(counts["skipped"]),
        f"{pacing['mode']} {pacing['window']}",
    )


def _details(console: dict[str, Any], now: float) -> list[str]:
    lines = ["", f"{console['name']}: {printable(console['url'])}"]
    if console["reason"]:
        lines.append(f"  {printable(console['reason'], 400)}")
    for key in ("pty", "raw", "telnet", "unix", "pty_readonly", "raw_readonly"):
        if console[key]:
            where = f"{console['link']} -> {console[key]}" if key == "pty" else console[key]
            lines.append(f"  {key.replace('_', ' '):12} {printable(where, 4096)}")
    for a in console["attachments"]:
        may = "" if a["writable"] else ", reads only"
        behind = f", {_size(a['behind'])} behind" if a["behind"] else ""
        peer = f" {printable(a['peer'])}" if a["peer"] else ""
        lines.append(f"  {a['kind']}{peer}, for {_ago(now - a['since'])}{may}{behind}")
    return lines


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _size(count: int) -> str:
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count}"
