"""Where messages leave the process, without ever waiting for whoever should read them.

A terminal that is stopped with ^S, or a pipe to a pager, takes nothing for as long as its
user reads: a write would stop all consoles.  The descriptor is shared with others, so it
is not ours to make non-blocking.
"""

import logging
import os
import select
import threading

import trio

# What waits at most; messages beyond are lost, and counted.
LIMIT = 64 * 1024


class Outlet(logging.Handler):
    """Writes what can be written at once, and later the rest; any thread may log."""

    def __init__(self, fd: int, encoding: str) -> None:
        super().__init__()
        self._fd = fd
        self._encoding = encoding
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)
        self._guard = threading.RLock()  # one who writes may be told to log
        self._rest = b""
        self._lost = 0
        self._stirred = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        with self._guard:
            self._write()
            if self._lost:
                text = f"({self._lost} messages lost)\n{text}"
            data = f"{text}\n".encode(self._encoding, "backslashreplace")
            if len(self._rest) + len(data) > LIMIT:
                self._lost += 1
                return
            self._lost = 0
            self._rest += data
            self._write()
            if self._rest and self._token is not None:
                self._token.run_sync_soon(self._stir, idempotent=True)

    async def run(self) -> None:
        """Write what could not be written at once, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._stirred = trio.Event()
                if not self._rest:
                    await self._stirred.wait()
                await trio.lowlevel.wait_writable(self._fd)
                with self._guard:
                    self._write()
        finally:
            self._token = None

    def _stir(self) -> None:
        self._stirred.set()

    def _write(self) -> None:
        try:
            while self._rest and self._poller.poll(0):
                # PIPE_BUF: what can be written to takes so much without blocking.
                written = os.write(self._fd, self._rest[: select.PIPE_BUF])
                self._rest = self._rest[written:]
        except BlockingIOError:
            pass
        except OSError:  # nobody is there to be told
            self._rest = b""


async def run() -> None:
    """Have all that is there write what could not be written at once, until cancelled."""
    async with trio.open_nursery() as nursery:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, Outlet):
                nursery.start_soon(handler.run)
