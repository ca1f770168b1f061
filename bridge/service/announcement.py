"""What the service says on standard output when all is bound: however late that is read."""

import logging
import os
import select
import sys

import trio

log = logging.getLogger("ttybridge")

_OUTPUT = 1


class Announcement:
    """Written as fast as it is read; the loop never waits for whoever should read it.

    The descriptor is shared with others, so it is not ours to make non-blocking.
    """

    def __init__(self, rest: bytes = b"") -> None:
        self.rest = rest
        """What has not been written yet."""

    def say(self, text: str) -> None:
        """What ``run`` is to write; nothing where standard output was closed by who started us."""
        if sys.stdout is not None:
            self.rest = text.encode(sys.stdout.encoding, "backslashreplace")

    async def run(self) -> None:
        """Write it; what goes wrong is said, and the consoles are served all the same."""
        try:
            while self.rest:
                await _wait_writable()
                # PIPE_BUF: a pipe that can be written to takes so much without blocking.
                written = os.write(_OUTPUT, self.rest[: select.PIPE_BUF])
                self.rest = self.rest[written:]
        except OSError as error:
            log.warning("standard output: %s", error.strerror)
            self.rest = b""


async def _wait_writable() -> None:
    try:
        await trio.lowlevel.wait_writable(_OUTPUT)
    except PermissionError:  # EPERM, of epoll(7): a file, which is always ready
        await trio.lowlevel.checkpoint()
