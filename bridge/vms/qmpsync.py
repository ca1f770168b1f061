"""A QMP session with blocking sockets, for the commands: no trio here."""

import socket
import time
from collections.abc import Callable
from typing import Self, TypeVar, cast

from bridge.base.printable import printable
from bridge.settings.monitor import Address
from bridge.settings.url import TcpAddress
from bridge.vms.qmp import (
    ANSWER_LIMIT,
    BUSY,
    CAPABILITIES,
    GONE,
    GREETING_LIMIT,
    SILENT,
    SLOW,
    TALK_LIMIT,
    Command,
    Protocol,
    QmpError,
    QmpRefusedError,
    Talk,
)

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class QmpSession:
    """A context; QEMU serves one at a time, so it should be short."""

    def __init__(self, address: Address) -> None:
        """Connect and greet; raises QmpError, after GREETING_LIMIT at the latest."""
        self._protocol = Protocol()
        deadline = time.monotonic() + GREETING_LIMIT
        try:
            self._socket = _connect(address)
        except OSError as error:
            reason = error.strerror or error
            raise QmpError(f"QMP at {printable(str(address))}: {reason}") from error
        except UnicodeError as error:  # no host is called so
            raise QmpError(f"QMP at {printable(str(address))}: no such host") from error
        try:
            while self._protocol.version is None:
                self._receive(deadline, BUSY)
            self.execute(CAPABILITIES)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, command: Command[T]) -> T:
        """Ask and wait for the answer; raises QmpError."""
        deadline = time.monotonic() + ANSWER_LIMIT
        number, request = self._protocol.request(command)
        self._within(deadline, self._socket.sendall, request, late=SILENT)
        while not self._protocol.answered(number):
            self._receive(deadline, f"{command.name}: {SILENT}")
        return self._protocol.answer(number, command)

    def converse(self, talk: Talk[T]) -> T:
        """Ask what ``talk`` wants to know; raises QmpError."""
        deadline = time.monotonic() + TALK_LIMIT
        try:
            command = next(talk)
            while True:
                if time.monotonic() > deadline:
                    raise QmpError(SLOW)
                try:
                    answer = self.execute(command)
                except QmpRefusedError as error:
                    command = talk.throw(error)
                else:
                    command = talk.send(answer)
        except StopIteration as end:
            return cast("T", end.value)

    def _receive(self, deadline: float, late: str) -> None:
        data = self._within(deadline, self._socket.recv, 1 << 16, late=late)
        if not data:
            raise QmpError(GONE)
        self._protocol.receive(data)

    def _within(self, deadline: float, call: Callable[[A], R], argument: A, late: str) -> R:
        """Call a socket's method with what is left of the time."""
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            return call(argument)
        except TimeoutError as error:
            raise QmpError(late) from error
        except OSError as error:
            raise QmpError(f"QMP connection lost: {error.strerror}") from error


def _connect(address: Address) -> socket.socket:
    if isinstance(address, TcpAddress):
        return socket.create_connection((address.host, address.port), GREETING_LIMIT)
    unix = socket.socket(socket.AF_UNIX)
    try:
        unix.settimeout(GREETING_LIMIT)  # a full queue: the kernel waits for a place
        unix.connect(address.path)
    except OSError:
        unix.close()
        raise
    return unix
