"""A person at a terminal: a program in tmux, typed at and looked at."""

import itertools
import re
from pathlib import Path
from typing import Self

from tests.support.user import User
from tests.support.waiting import LIMIT, eventually

ROWS, COLUMNS = 30, 100
_numbers = itertools.count()


class Terminal:
    """Runs ``command`` (for a shell) in a terminal of its own; a context."""

    def __init__(self, user: User, directory: Path, command: str) -> None:
        self._user = user
        # Not one name for all: a server that is being killed may still answer to it.
        self._socket = directory / f"tmux{next(_numbers)}"
        # The pane stays when its program ends, so that last words can be read.
        self._tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS)),
            *(f"{command}; echo; echo ended with $?; exec cat",),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            print("the terminal shows:", self.text, sep="\n")
        self._tmux("kill-server")

    def keys(self, *keys: str) -> None:
        """Press keys by their tmux names, as ``C-a`` or ``Enter``."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type the very characters."""
        self._tmux("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """Paste ``text``, whose line ends become Enter."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer")

    @property
    def text(self) -> str:
        """What the screen shows."""
        return self._tmux("capture-pane", "-p", "-J")

    def wait_for(self, pattern: str, limit: float = LIMIT) -> None:
        eventually(
            lambda: re.search(pattern, self.text), limit=limit, what=f"{pattern!r} on the screen"
        )

    def wait_ended(self) -> None:
        """Wait until the program has ended, however it says goodbye."""
        self.wait_for(r"ended with \d+")

    def _tmux(self, *arguments: str) -> str:
        done = self._user.run(["tmux", "-S", self._socket, *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout
