"""The handler of messages: what can be written at once is, the rest is when there is room."""

import logging
import threading

import trio

from bridge.service.outlet import PAUSE, Outlet

# What waits at most; messages beyond are lost, and counted.
LIMIT = 64 * 1024


class Saying(logging.Handler):
    """Writes to a descriptor; any thread may log."""

    def __init__(self, fd: int, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding
        self._outlet = Outlet(fd)
        self._guard = threading.RLock()
        self._lost = 0
        self._stirred = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def emit(self, record: logging.LogRecord) -> None:
        data = self._encoded(self.format(record))
        with self._guard:
            self._flush()
            if self._lost:
                data = self._loss() + data
            if len(self._outlet.rest) + len(data) > LIMIT:
                self._lost += 1
            else:
                self._lost = 0
                self._outlet.rest += data
                self._flush()
            if self._outlet.rest and self._token is not None:
                self._token.run_sync_soon(self._stir, idempotent=True)

    async def run(self) -> None:
        """Write what could not be written at once, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            while True:
                self._stirred = trio.Event()
                if not self._outlet.rest:
                    await self._stirred.wait()
                await self._outlet.wait_room()
                with self._guard:
                    progress = self._flush()
                if not progress:
                    await trio.sleep(PAUSE)
        finally:
            self._token = None

    def _stir(self) -> None:
        self._stirred.set()

    def _flush(self) -> bool:
        """Write what can be written; tell whether anything was."""
        try:
            progress = self._outlet.flush()
            if self._lost and not self._outlet.rest:
                self._outlet.rest, self._lost = self._loss(), 0
                self._outlet.flush()
        except OSError:  # of a full disk, of a pipe that nobody reads: there is nobody to tell
            self._outlet.rest = b""
            return True
        return progress

    def _loss(self) -> bytes:
        return self._encoded(f"({self._lost} messages lost)")

    def _encoded(self, text: str) -> bytes:
        return f"{text}\n".encode(self._encoding, "backslashreplace")


async def run() -> None:
    """Have messages said that could not be at once, until cancelled."""
    async with trio.open_nursery() as nursery:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, Saying):
                nursery.start_soon(handler.run)
