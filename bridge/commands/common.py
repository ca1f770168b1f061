"""What the subcommands have in common: their options, and where things are."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bridge.base.errors import ConfigError, StartError, UsageError
from bridge.base.printable import printable
from bridge.kernel.homes import config_home, default_directory

if TYPE_CHECKING:
    from typing import Any

    from bridge.settings.config import Configuration

    Subparsers = argparse._SubParsersAction[Any]  # noqa: SLF001 (has no other name)


def directory_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime-dir", type=some_path, metavar="DIR", help="where links are (default: per user)"
    )


def some_path(text: str) -> Path:
    """A path, for argparse."""
    if not text:  # a variable that is not set; Path("") would be where we stand
        raise argparse.ArgumentTypeError("found nothing; allowed: a directory")
    return Path(text)


def directory(arguments: argparse.Namespace) -> Path:
    """The runtime directory that ``arguments`` mean."""
    return absolute(arguments.runtime_dir or default_directory())


def absolute(path: Path) -> Path:
    """The path from the root; raises StartError."""
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise StartError("the directory that we stand in has been removed") from error


def say(text: str) -> None:
    """Print ``text`` at once; raises StartError where that cannot be, BrokenPipeError too."""
    with speaking() as output:
        print(text, file=output, flush=True)


def say_path(path: Path) -> None:
    """Print a path as the bytes that it is, whatever the locale."""
    with speaking() as output:
        output.flush()
        output.buffer.write(os.fsencode(path) + b"\n")
        output.buffer.flush()


@contextmanager
def speaking() -> Iterator[TextIO]:
    """Standard output; what it does not take is a StartError, but for BrokenPipeError."""
    if sys.stdout is None:  # closed by whoever started us
        raise StartError("standard output is closed")
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        say_no_more()
        raise StartError(f"standard output: {error.strerror}") from error


def finish() -> None:
    """Have everything printed; raises as ``speaking`` does."""
    if sys.stdout is not None:
        with speaking() as output:
            output.flush()


def say_no_more() -> None:
    """Nobody reads our output any more: what is left of it must not be tried at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def pattern(text: str, what: str, flags: int = 0) -> re.Pattern[str]:
    """The regular expression ``text``, which the user gave as ``what``; raises UsageError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Python may mean by it one day
            return re.compile(text, flags)
    except (re.error, OverflowError, ValueError) as error:
        raise UsageError(f"{what} '{printable(text)}': {error}") from None
    except RecursionError:
        raise UsageError(f"{what} '{printable(text)}': nested too deep") from None


def port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found '{text}'; allowed: a port from 1 to 65535, or 0")
    return int(text)


def load(file: Path) -> "Configuration":
    """What a configuration file says; and the files that it names do."""
    from bridge.settings import config
    from bridge.upstream import credentials

    configuration = config.load(file)
    try:
        credentials.check(configuration.consoles)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return configuration


def default_config() -> Path:
    return config_home() / "ttybridge" / "config.toml"
