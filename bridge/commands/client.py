"""The control socket from the other side: for the commands, with blocking sockets.

Imports nothing heavy; ``contrib/control.md`` says what is spoken.
"""

import errno
import json
import shlex
import socket
from pathlib import Path
from typing import Any, Self

from bridge.base.errors import BridgeError, StartError
from bridge.base.printable import printable
from bridge.kernel.homes import default_directories, passed_over
from bridge.kernel.runtime import CONTROL, holder, short_path

# What connect(2) says where nobody listens.
_NOBODY = {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}


class AskError(BridgeError):
    """The service has refused, and said why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message, 1000))
        self.exit_code = exit_code


class GoneError(BridgeError):
    """There was a service, and there is none any more; or the console has been removed."""


class Client:
    """A connection to the service of a runtime directory; a context.  Raises StartError."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            with short_path(str(directory / CONTROL)) as path:
                self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise unreachable(directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """Make one request; return the answer, or raise AskError with what the service says."""
        try:
            self.socket.sendall(request(do, fields))
            line = self._line()
        except OSError as error:
            raise GoneError("the service has gone away") from error
        return answer(line)

    def attach(self, name: str, **options: object) -> socket.socket:
        """Have the connection become the console's bytes; ``options`` are the request's."""
        self.ask("attach", name=name, **options)
        return self.socket

    def _line(self) -> bytes:
        """What there is up to a line's end.  Looks before it takes: the console's bytes may follow."""
        line = b""
        while not line.endswith(b"\n") and (seen := self.socket.recv(1 << 16, socket.MSG_PEEK)):
            line += self.socket.recv(seen.find(b"\n") + 1 or len(seen))
        return line


def unreachable(directory: Path, error: OSError) -> StartError:
    """Why the control socket in ``directory`` could not be connected to."""
    if error.errno in _NOBODY:
        return nobody(directory)
    where = printable(str(directory / CONTROL))
    return StartError(f"control socket {where}: {error.strerror or error}")


def nobody(directory: Path) -> StartError:
    """There is no service of ``directory``; another shell may have found another default."""
    text = f"no ttybridge runs with {printable(str(directory))}"
    defaults = default_directories()
    if directory in defaults and (why := passed_over()):
        text += f"; {why}"
    other = next((d for d in defaults if d != directory and holder(d) is not None), None)
    if other is not None:
        said = printable(shlex.quote(str(other)), 1000)
        return StartError(f"{text}; one runs with another directory: add --runtime-dir {said}")
    return StartError(
        f"{text}; start one with 'ttybridge run' or 'systemctl --user start ttybridge'"
    )


def request(do: str, fields: dict[str, object]) -> bytes:
    """The line that asks for ``do``."""
    return json.dumps({"do": do, **fields}).encode() + b"\n"


def answer(line: bytes) -> dict[str, Any]:
    """What the line says, which may be cut short; raises AskError, GoneError."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise GoneError("the service has gone away") from error
    if not said["ok"]:
        raise AskError(said["error"], said["exit"])
    return said
