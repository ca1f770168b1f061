"""``ttybridge log``: a console's log, fit for a terminal.  Reads the files, needs no service."""

import argparse
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bridge.base.errors import StartError, UsageError
from bridge.base.printable import printable
from bridge.commands import common as command

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers
    from bridge.logs.reader import LogReader


def add_to(commands: "Subparsers") -> None:
    log = commands.add_parser("log", help="show what a console has printed (with log = true)")
    log.add_argument("name", metavar="NAME")
    log.add_argument("--follow", "-f", action="store_true", help="go on as it grows")
    log.add_argument("--since", metavar="WHEN", help="90s, 10min, 2h, 1d, or a date and time")
    log.add_argument("--grep", metavar="REGEX", help="only lines whose text matches (Python's)")
    log.add_argument("--raw", action="store_true", help="keep escape sequences: for less -R")
    command.directory_option(log)
    log.set_defaults(command=_log)


def _log(arguments: argparse.Namespace) -> int:
    from bridge.logs.reader import LogReader
    from bridge.logs.segments import log_directory
    from bridge.logs.view import View

    pattern, since = _pattern(arguments.grep), _since(arguments.since)
    directory = log_directory()
    with command.speaking() as output:
        shown_at = output.fileno()
    with _translated():
        reader = LogReader(directory, arguments.name)
    with reader:
        if not reader.exists:
            raise StartError(
                f"no log of '{printable(arguments.name)}' in {directory}: set log = true for it"
                f" in {command.default_config()}, then: ttybridge reload"
            )
        view = View(pattern, raw=arguments.raw)
        for data in _pieces(reader, since, shown_at if arguments.follow else None):
            _show(view.feed(data))
        _show(view.end())
    return 0


def _show(data: bytes) -> None:
    with command.speaking() as output:
        output.buffer.write(data)
        output.buffer.flush()


def _pieces(reader: "LogReader", since: datetime | None, follow: int | None) -> Iterator[bytes]:
    """``follow`` is where it is shown: the reading goes on until nobody looks on there."""
    with _translated():
        yield from reader.read(since)
        if follow is not None:
            yield from reader.follow(follow)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, EOFError, zlib.error) as error:  # the latter two: compressed and damaged
        raise StartError(f"the log cannot be read: {printable(str(error))}") from error


def _pattern(text: str | None) -> re.Pattern[str] | None:
    return command.pattern(text, "--grep") if text is not None else None


def _since(text: str | None) -> datetime | None:
    from bridge.logs.view import parse_since

    try:
        return parse_since(text, datetime.now(UTC).astimezone()) if text is not None else None
    except ValueError as error:
        raise UsageError(f"--since: found '{printable(text or '')}'; {error}") from None
