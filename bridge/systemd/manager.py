"""Questions to the user's own systemd about ourselves: what is to become of us?

A stop and a restart are the same SIGTERM, and only the manager knows which it is: at a stop
a console's connection is to be left, for a restart it may be handed over.  systemd's private
socket is spoken to, which is there without a session bus.  Not ``systemctl``: the service
has no child processes, and that one would have to be waited for while we end.

Who gets no answer (no systemd, not its child, an odd reply) gets None, and must do what is
right in every case: leave.
"""

import enum
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from bridge.systemd import dbus
from bridge.systemd.dbus import Kind, Value

# An answer takes a millisecond or two.  While we end, systemd's patience with us is longer
# (TimeoutStopSec=); at a start it may be busy with a whole login.
LIMIT = 3.0
START_LIMIT = 10.0

_NAME = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"
_PROPERTIES = "org.freedesktop.DBus.Properties"

T = TypeVar("T")


class Job(enum.Enum):
    """What the manager is doing with our unit."""

    STOP = "stop"
    RESTART = "restart"


async def pending_job() -> Job | None:
    """Why we are being ended; None if nobody says: somebody's kill, for instance."""
    return await _ask(_pending_job, LIMIT)


async def store_limit() -> int | None:
    """How many descriptors the manager would keep for us (FileDescriptorStoreMax=)."""
    return await _ask(_store_limit, START_LIMIT)


async def _pending_job(manager: "_Manager") -> Job | None:
    match await manager.get(await manager.own_unit(), "Unit", "Job"):
        case (int(number), str(path)) if number:
            kind = await manager.get(path, "Job", "JobType")
            return next((job for job in Job if job.value == kind), None)
    return None


async def _store_limit(manager: "_Manager") -> int | None:
    limit = await manager.get(await manager.own_unit(), "Service", "FileDescriptorStoreMax")
    return limit if isinstance(limit, int) else None


async def _ask(question: Callable[["_Manager"], Awaitable[T | None]], limit: float) -> T | None:
    with trio.move_on_after(limit):
        try:
            async with await trio.open_unix_socket(_private_socket()) as stream:
                manager = _Manager(stream)
                await manager.log_in()
                return await question(manager)
        except (OSError, trio.BrokenResourceError, dbus.MalformedError, _RefusedError):
            pass
    return None


def _private_socket() -> str:
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/systemd/private"


class _RefusedError(Exception):
    """The manager does not know us, or does not talk to us."""


class _Manager:
    """The other end of the private socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""
        self._serial = 0

    async def log_in(self) -> None:
        await self._stream.send_all(dbus.auth_external(os.getuid()))
        while b"\r\n" not in self._data:
            await self._receive()
        answer, _, self._data = self._data.partition(b"\r\n")
        if not answer.startswith(b"OK"):
            raise _RefusedError

    async def own_unit(self) -> str:
        """The path of our unit's object."""
        match await self._call(_OBJECT, f"{_NAME}.Manager", "GetUnitByPID", os.getpid()):
            case (str(path),):
                return path
        raise _RefusedError

    async def get(self, path: str, interface: str, name: str) -> Value:
        """A property of an object."""
        match await self._call(path, _PROPERTIES, "Get", f"{_NAME}.{interface}", name):
            case (value,):
                return value
        raise _RefusedError

    async def _call(
        self, path: str, interface: str, member: str, *arguments: str | int
    ) -> tuple[Value, ...]:
        self._serial += 1
        await self._stream.send_all(
            dbus.method_call(self._serial, path, interface, member, *arguments)
        )
        while True:
            message = await self._next()
            if message.reply_to == self._serial:  # and not a signal
                if message.kind != Kind.RETURN:
                    raise _RefusedError
                return message.body

    async def _next(self) -> dbus.Message:
        while (found := dbus.parse(self._data)) is None:
            await self._receive()
        message, size = found
        self._data = self._data[size:]
        return message

    async def _receive(self) -> None:
        received = await self._stream.receive_some(1 << 16)
        if not received:
            raise _RefusedError  # it hangs up on who may not ask
        self._data += received
