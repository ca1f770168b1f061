"""The control socket from the other side: for the commands, with blocking sockets.

Imports nothing heavy; ``contrib/control.md`` says what is spoken.
"""

import errno
import shlex
import socket
import struct
from pathlib import Path
from typing import Any, Self

from bridge.base.errors import AskError, GoneError, StartError
from bridge.base.printable import printable
from bridge.base.wire import answer, gone, request
from bridge.kernel.homes import default_directories, passed_over
from bridge.kernel.runtime import CONTROL, holder, short_path

__all__ = ["AskError", "Client", "GoneError"]

# What connect(2) says where nobody listens.
_NOBODY = {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}

# How long the service may be silent before it is asked whether it is still there; to answer
# that it may take twice as long, for it may be going on in a new process just then.
_PATIENCE = 5.0


class Client:
    """A connection to the service of a runtime directory; a context.  Raises StartError.

    Some answers take their time: a long text is typed, a guest is left.  A service that
    answers nothing at all hangs, and is not waited for.
    """

    def __init__(self, directory: Path, *, patience: float = _PATIENCE) -> None:
        self._directory = directory
        self._patience = patience
        self._looking = False
        self.socket = socket.socket(socket.AF_UNIX)
        # Not settimeout: connect(2) to a full backlog would fail at once.
        limit = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        try:
            with short_path(str(directory / CONTROL)) as path:
                self.socket.connect(path)
        except BlockingIOError:
            self.socket.close()
            raise self._hung() from None
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
        except BlockingIOError:
            raise self._hung() from None
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
        while not line.endswith(b"\n") and (seen := self._look()):
            line += self.socket.recv(seen.find(b"\n") + 1 or len(seen))
        return line

    def _look(self) -> bytes:
        while True:
            try:
                return self.socket.recv(1 << 16, socket.MSG_PEEK)
            except BlockingIOError:
                if self._looking:
                    raise
                self._check_alive()

    def _check_alive(self) -> None:
        """Have the service answer something that takes no time; raises StartError."""
        with Client(self._directory, patience=2 * self._patience) as other:
            other._looking = True
            try:
                other.ask("")
            except AskError:  # it does, though only to say that it knows no such verb
                return

    def _hung(self) -> StartError:
        pid = holder(self._directory)
        who = f" (pid {pid})" if pid is not None else ""
        return StartError(
            f"the ttybridge of {printable(str(self._directory))}{who} does not answer"
        )


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
