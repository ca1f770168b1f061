"""The control socket from the other side: for the commands, with blocking sockets.

Imports nothing heavy; ``contrib/control.md`` says what is spoken.
"""

import socket
from pathlib import Path
from typing import Any, Self

from bridge.base.errors import AskError, GoneError
from bridge.base.wire import answer, gone, request, unreachable
from bridge.kernel.runtime import CONTROL, short_path

__all__ = ["AskError", "Client", "GoneError"]


class Client:
    """A connection to the service of a runtime directory; a context.  Raises StartError."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        control = str(directory / CONTROL)
        try:
            with short_path(control) as path:
                self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise unreachable(control, error) from error

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
            raise gone() from error
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
