"""Where what is said leaves the process, without ever waiting for whoever should read it.

A terminal that is stopped with ^S, or a pipe to a pager, takes nothing for as long as its
user reads: a write would stop all consoles.
"""

import os
import select

import trio

# A terminal that says it has room may not have it for a line's end, and then says so again.
PAUSE = 0.1


class Outlet:
    """A descriptor that others share, so that it is not ours to make non-blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = _own(fd)
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLOUT)
        self.rest = b""
        """What is still to be written."""

    def flush(self) -> bool:
        """Write what can be written at once; tell whether anything was.  Raises OSError."""
        before = len(self.rest)
        while self.rest and self._poller.poll(0):
            try:
                # PIPE_BUF: a pipe that can be written to takes so much without blocking.
                written = os.write(self._fd, self.rest[: select.PIPE_BUF])
            except BlockingIOError:
                break
            self.rest = self.rest[written:]
        return len(self.rest) < before

    async def drain(self) -> None:
        """Write all, however long that takes.  Raises OSError."""
        while self.rest:
            await self.wait_room()
            if not self.flush():
                await trio.sleep(PAUSE)

    async def wait_room(self) -> None:
        """Wait until something may be written."""
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except PermissionError:  # EPERM, of epoll(7): a file, which is always ready
            await trio.lowlevel.checkpoint()


def _own(fd: int) -> int:
    """The terminal at ``fd`` once more, not to block: it polls as writable with hardly any room."""
    if not os.isatty(fd):
        return fd
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # another user's, as after su
        return fd
