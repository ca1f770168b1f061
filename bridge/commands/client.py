"""The control socket from the other side: for the commands, with blocking sockets.

Imports nothing heavy; ``contrib/control.md`` says what is spoken.
"""

import json
import socket
from pathlib import Path
from typing import Any, Self

from bridge.base.errors import BridgeError, StartError
from bridge.base.printable import printable
from bridge.kernel.runtime import CONTROL, short_path


class AskError(BridgeError):
    """The service has refused, and said why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message, 1000))
        self.exit_code = exit_code


class Client:
    """A connection to the service of a runtime directory; a context.  Raises StartError."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            with short_path(str(directory / CONTROL)) as path:
                self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise StartError(
                f"no ttybridge runs with {directory}; start one with 'ttybridge run'"
                " or 'systemctl --user start ttybridge'"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """Make one request; return the answer, or raise AskError with what the service says."""
        try:
            self.socket.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            answer = json.loads(self._line())
        except (OSError, ValueError) as error:
            raise StartError("the service has gone away") from error
        if not answer["ok"]:
            raise AskError(answer["error"], answer["exit"])
        return dict(answer)

    def attach(self, name: str, **options: object) -> socket.socket:
        """Have the connection become the console's bytes; ``options`` are the request's."""
        self.ask("attach", name=name, **options)
        return self.socket

    def _line(self) -> bytes:
        """A whole line.  Looks before it takes: the console's bytes may follow."""
        line = b""
        while not line.endswith(b"\n"):
            seen = self.socket.recv(1 << 16, socket.MSG_PEEK)
            if not seen:
                raise ValueError
            line += self.socket.recv(seen.find(b"\n") + 1 or len(seen))
        return line
