"""The command ``ttybridge``: arguments in, exit code out.

Only ``run`` and ``demo`` are the service; the other commands must be quick in scripts, so
what is heavy (trio alone takes a fifth of a second) is imported where it is used.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bridge import __version__
from bridge.base.errors import BridgeError, UsageError
from bridge.commands import ask as cmd_ask
from bridge.commands import attach as cmd_attach
from bridge.commands import check as cmd_check
from bridge.commands import common as command
from bridge.commands import complete as cmd_complete
from bridge.commands import discover as cmd_discover
from bridge.commands import doctor as cmd_doctor
from bridge.commands import install as cmd_install
from bridge.commands import log as cmd_log
from bridge.commands import path as cmd_path
from bridge.commands import run as cmd_run
from bridge.commands import status as cmd_status
from bridge.commands import wait as cmd_wait


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    _mend_streams()
    try:
        arguments = parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.command
        code = run(arguments)
        command.finish()
    except BridgeError as error:
        _complain(f"ttybridge: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # before the service was up, or again while it ended
        return 130
    except BrokenPipeError:
        # Nobody reads our output any more (`ttybridge ... | head`).
        command.say_no_more()
        return 1
    else:
        return code


def _complain(text: str) -> None:
    """Say it on stderr; where nothing can be said, the exit code still tells."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # What is left in the buffer would be tried at the end, and change that code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _mend_streams() -> None:
    """Have standard streams that cannot surprise; a closed stdout stays None."""
    # Else a socket of ours could become what something takes for stdin or stderr.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stderr is None:
        # print(file=None) would be to stdout.  Open to the end, as stderr is.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a locale without Unicode


class _Parser(argparse.ArgumentParser):
    """One line for a wrong command line, as for every other error."""

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 (as argparse)
        if file is sys.stdout:
            command.say(message.removesuffix("\n"))
        else:
            super()._print_message(message, file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        command.finish()  # of --help and --version
        super().exit(status, message)

    def parse_known_args(  # type: ignore[override]  # of any namespace
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse here what is not known: argparse leaves it to the top, whose help is another."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="ttybridge",
        description="Gives the serial consoles of virtual machines to local programs.",
        epilog="Example: ttybridge run vm1=ws://127.0.0.1:4555, then screen $(ttybridge path vm1)",
    )
    top.add_argument("--version", action="version", version=f"ttybridge {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    cmd_run.add_to(commands)
    cmd_path.add_to(commands)
    cmd_status.add_to(commands)
    cmd_attach.add_to(commands)
    cmd_wait.add_to(commands)
    cmd_ask.add_to(commands)
    cmd_check.add_to(commands)
    cmd_discover.add_to(commands)
    cmd_doctor.add_to(commands)
    cmd_log.add_to(commands)
    cmd_install.add_to(commands)
    for choice in commands._choices_actions:  # noqa: SLF001 (what each add_parser() was told)
        text = choice.help or ""
        commands.choices[choice.dest].description = f"{text[:1].upper()}{text[1:]}."
    cmd_complete.add_to(commands, top)
    return top
