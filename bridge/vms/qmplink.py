"""A QMP session on trio, for the service."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar, cast

import trio

from bridge.base.printable import printable
from bridge.settings.monitor import Address
from bridge.upstream.dial import DialError, dial
from bridge.vms.qmp import (
    ANSWER_LIMIT,
    BUSY,
    CAPABILITIES,
    GONE,
    GREETING_LIMIT,
    SILENT,
    Command,
    Event,
    Protocol,
    QmpError,
    QmpRefusedError,
    Talk,
    Version,
)

T = TypeVar("T")


class QmpLink:
    """One session; ``execute`` is for one task at a time."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket
        self._protocol = Protocol()

    @property
    def version(self) -> Version | None:
        """QEMU's, as it greeted."""
        return self._protocol.version

    @property
    def events(self) -> list[Event]:
        """What has come beside the answers; the reader may clear it."""
        return self._protocol.events

    async def greet(self) -> None:
        """Wait for QEMU's greeting; a silent one is most likely talking to another client."""
        with _limit(GREETING_LIMIT, BUSY):
            while self._protocol.version is None:
                await self._receive()
        await self.execute(CAPABILITIES)

    async def execute(self, command: Command[T]) -> T:
        """Ask and wait for the answer; raises QmpError."""
        number, request = self._protocol.request(command)
        with _limit(ANSWER_LIMIT, f"{command.name}: {SILENT}"):
            try:
                await trio.SocketStream(self._socket).send_all(request)
            except trio.BrokenResourceError as error:
                raise QmpError(GONE) from error
            while not self._protocol.answered(number):
                await self._receive()
        return self._protocol.answer(number, command)

    async def converse(self, talk: Talk[T]) -> T:
        """Ask what ``talk`` wants to know; raises QmpError."""
        try:
            command = next(talk)
            while True:
                try:
                    answer = await self.execute(command)
                except QmpRefusedError as error:
                    command = talk.throw(error)
                else:
                    command = talk.send(answer)
        except StopIteration as end:
            return cast("T", end.value)

    async def _receive(self) -> None:
        try:
            data = await self._socket.recv(1 << 16)
        except OSError as error:
            raise QmpError(f"QMP connection lost: {error.strerror}") from error
        if not data:
            raise QmpError(GONE)
        self._protocol.receive(data)


@asynccontextmanager
async def open_qmp(address: Address) -> AsyncIterator[QmpLink]:
    """Connect and greet; raises QmpError.  QEMU serves one at a time: be short."""
    try:
        with _limit(GREETING_LIMIT, BUSY):
            socket = await dial(address)
    except DialError as error:
        raise QmpError(f"QMP at {printable(str(address))}: {error}") from error
    with socket:
        link = QmpLink(socket)
        await link.greet()
        yield link


@contextmanager
def _limit(seconds: float, late: str) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise QmpError(late)
