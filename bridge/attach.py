"""One local session on a console: the only code that moves bytes between the two.

An attachment is a file descriptor, a position in the scrollback and an input queue.
Output is pushed straight from ``Console.feed`` with non-blocking writes that return
their count; only when the descriptor is full does a task wait for it.  (An awaited
``send_all`` loses its count when it is cancelled.)  Input is read when the queue has
room, and queued before the next await.
"""

import os
import select
from collections.abc import Callable
from typing import Protocol

import trio

from bridge.console import Console, InputQueue

CHUNK = 64 * 1024


class RejectedError(Exception):
    """The client must be sent away; nothing of its read was forwarded."""


class Channel(Protocol):
    """A descriptor and how to read and write it; neither ever blocks."""

    fd: int

    def read(self, limit: int) -> bytes | None:
        """Up to ``limit`` bytes; b"" at the end of input; None when there is none *now*.

        May raise BlockingIOError, RejectedError, and OSError when the client is gone.
        """

    def write(self, data: bytes) -> int:
        """Write what fits, return how much; BlockingIOError if nothing does."""

    def gone(self) -> bool:
        """After the end of input: has the client left altogether?"""


class Attachment:
    """See the module.  Begins at the console's present; ``run`` lasts until its end."""

    def __init__(self, console: Console, channel: Channel, *, held: bool = False) -> None:
        self.position = console.scrollback.end
        self._console = console
        self._channel = channel
        self._queue = InputQueue()
        self._blocked = held
        self._wait_to_write = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve until the client is gone.

        Raises RejectedError if the first read gave a reason to.
        """
        self._console.attach(self)
        rejected = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_when_writable)
                    try:
                        await self._read_input()
                        await self._wait_gone()
                    except RejectedError as reason:
                        rejected = reason  # past the nursery, which would wrap it in a group
                    nursery.cancel_scope.cancel()
        finally:
            self._console.detach(self)
        if rejected is not None:
            raise rejected

    def release(self) -> None:
        """Let output flow, for an attachment that was made ``held`` or is on ``hold``."""
        self._blocked = False
        self.push()

    def hold(self) -> None:
        """Write nothing until released."""
        self._blocked = True

    def skip_to_present(self) -> None:
        """Leave out what is in the scrollback now: it was for somebody else."""
        self.position = self._console.scrollback.end

    def push(self) -> None:
        if self._blocked:
            return
        try:
            self._push()
        except BlockingIOError:
            self._blocked = True
            self._wait_to_write.set()
        except OSError:
            # EPIPE, ECONNRESET, EIO: nobody reads any more.  What was typed before is still
            # to be taken; its end is the end of the attachment.
            self._blocked = True

    def _push(self) -> None:
        scrollback = self._console.scrollback
        while self.position < scrollback.end:
            if self.position < scrollback.start:
                self._console.catch_up(self)
            data = scrollback.read(self.position, CHUNK)
            written = self._channel.write(data)
            self.position += written
            self._console.progressed()
            if written < len(data):
                raise BlockingIOError

    async def _write_when_writable(self) -> None:
        while True:
            await self._wait_to_write.wait()
            self._wait_to_write = trio.Event()
            await trio.lowlevel.wait_writable(self._channel.fd)
            self.release()

    async def _read_input(self) -> None:
        """Read until the end of input.  An OSError then means the client is gone."""
        while True:
            await self._console.wait_room(self._queue)
            await trio.lowlevel.wait_readable(self._channel.fd)
            try:
                data = self._channel.read(self._queue.room)
            except BlockingIOError:
                continue
            except OSError:
                self._scope.cancel()
                return
            if data == b"":
                return
            if data is not None:
                self._console.offer(self._queue, data)

    async def _wait_gone(self) -> None:
        """Output goes on after the end of input (``printf ... | nc -N``), until the client closes.

        What tells is POLLHUP or POLLERR, which no poll can be asked not to report; so an
        epoll that asks for nothing else becomes readable exactly then.
        """
        if self._channel.gone():
            return
        try:
            epoll = select.epoll(1)
        except OSError:  # out of descriptors: this client has said all it had to say
            return
        with epoll:
            epoll.register(self._channel.fd, 0)
            await trio.lowlevel.wait_readable(epoll.fileno())


class FdChannel:
    """A stream socket, as it is; ``inspect`` sees the first read before anybody else."""

    def __init__(
        self,
        fd: int,
        *,
        inspect: Callable[[bytes], None] | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.fd = fd
        self.gone = gone
        self._inspect = inspect

    def read(self, limit: int) -> bytes | None:
        data = os.read(self.fd, limit)
        if self._inspect is not None and data:
            inspect, self._inspect = self._inspect, None
            inspect(data)
        return data

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)
