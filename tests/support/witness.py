"""One who reads a counting guest's output, and sees what is missing."""

import os
import re
import threading
from typing import Self


class Witness:
    """Reads a counter of eight hexadecimal digits a line, and misses nothing; a context."""

    def __init__(self, fd: int, first: bytes = b"") -> None:
        self._fd = fd
        self._rest = first
        self._expected: int | None = None
        self.lines = 0
        self.wrong: list[str] = []
        self.ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)

    def has_read(self, lines: int) -> bool:
        """So many lines, or all there are."""
        return self.ended or self.lines >= lines

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._check(line)

    def _check(self, line: bytes) -> None:
        self.lines += 1
        if re.fullmatch(rb"[0-9A-F]{8}", line) is None:  # the first may have lost its start
            if self.lines > 1:
                self.wrong.append(f"no number: {line!r}")
            return
        number = int(line, 16)
        if self._expected is not None and number != self._expected:
            self.wrong.append(f"{number:08X} after {self._expected - 1:08X}")
        self._expected = number + 1
