"""A descriptor and how to read and write it without blocking: what an attachment stands on."""

import os
from collections.abc import Callable
from typing import Protocol

import trio


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


class FdChannel:
    """A stream socket, as it is; ``inspect`` sees the first read before anybody else."""

    def __init__(
        self,
        client: trio.socket.SocketType,
        *,
        inspect: Callable[[bytes], None] | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.client = client
        self.fd = client.fileno()
        self.gone = gone
        self.inspect = inspect

    def read(self, limit: int) -> bytes | None:
        data = os.read(self.fd, limit)
        if self.inspect is not None and data:
            inspect, self.inspect = self.inspect, None
            inspect(data)
        return data

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)
