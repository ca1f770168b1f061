"""The control socket: what a running service can be asked and told.

One JSON object a line, both ways, over a Unix socket of mode 0600 in the runtime
directory; ``contrib/control.md`` documents it for clients in any language.  After
``attach`` is granted the connection is no longer lines but the console's bytes.
"""

import base64
import binascii
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from bridge.base.errors import BridgeError, StartError, UsageError
from bridge.base.handover import Bag, Left, Record
from bridge.base.printable import printable
from bridge.console.attach import Attachment, FdChannel
from bridge.console.manners import Kind, Manners
from bridge.endpoints.sockets import (
    Session,
    accept_forever,
    adopt_listener,
    listen_unix,
    peer_name,
    prepare,
    refusal,
    session_state,
)
from bridge.service.bridged import BridgedConsole
from bridge.service.service import Service
from bridge.service.status import console_status, service_metrics, service_status
from bridge.upstream.transport import adopt

log = logging.getLogger("ttybridge")

# A request is a line of this many bytes at most; `send` of a whole file is the longest.
LINE_LIMIT = 1 << 20

T = TypeVar("T")
Request = dict[str, Any]
Answer = dict[str, Any]


class Control:
    """Bound when made, which may raise StartError; answers in ``run``."""

    def __init__(self, service: Service, left: Left | None = None) -> None:
        self._service = service
        path = service.runtime.control
        try:
            self._listener = adopt_listener(left) if left is not None else listen_unix(path)
        except OSError as error:
            raise StartError(f"control socket {path}: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self._sessions: dict[str, list[Session]] = {}  # by the console's name
        self._verbs: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "status": self._status,
            "metrics": self._metrics,
            "send": self._send,
            "break": self._break,
            "add": self._add,
            "remove": self._remove,
            "reload": self._reload,
            "exec": self._exec,
        }
        if left is not None:
            self._restore(*left)

    def close(self) -> None:
        self._service.runtime.remove_control()
        self._listener.close()

    def state(self, bag: Bag) -> Record:
        return {
            "listener": bag.put(self._listener.fileno()),
            "sessions": {
                name: [session_state(session, bag) for session in sessions]
                for name, sessions in self._sessions.items()
                if sessions  # else the console itself may be gone
            },
        }

    def _restore(self, record: Record, bag: Bag) -> None:
        """Take over the clients that were attached by way of another process."""
        for name, sessions in record["sessions"].items():
            console = self._service.consoles[name].console
            for each in sessions:
                client = adopt(bag.take(each["client"]))
                attachment = Attachment.restore(console, FdChannel(client), each["attachment"], bag)
                self._sessions.setdefault(name, []).append(Session(attachment, client))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for name, sessions in tuple(self._sessions.items()):
                for session in tuple(sessions):
                    nursery.start_soon(self._run_session, name, session)
            async with trio.open_nursery() as accepting:
                accepting.start_soon(accept_forever, self._listener, self._serve, nursery)
                await self._service.stopping.wait()
                # Whoever comes now is for the process that goes on, and waits for it.
                accepting.cancel_scope.cancel()
            await trio.sleep_forever()

    async def _serve(self, client: trio.socket.SocketType) -> None:
        attached = None
        try:
            if why := refusal(client):
                log.warning("control socket: %s", why)
                return
            with suppress(OSError):  # gone: there is nobody to tell
                attached = await self._converse(client)
        finally:
            if attached is None:
                client.close()
        if attached is not None:
            name, session = attached
            self._sessions.setdefault(name, []).append(session)
            await self._run_session(name, session)

    async def _run_session(self, name: str, session: Session) -> None:
        try:
            await session.attachment.run()
        finally:
            if session.attachment.over:
                self._sessions[name].remove(session)
                session.client.close()

    async def _converse(self, client: trio.socket.SocketType) -> tuple[str, Session] | None:
        """Answer requests until the end, or until one has become an attachment to a console."""
        while (line := await _read_line(client)) is not None:
            try:
                request = _parse(line)
                if request["do"] == "attach":
                    bridged = self._console(request)
                    attachment = self._attachment(bridged, request, client)
                    await _write_line(client, {"ok": True})
                    if bridged.ended:  # meanwhile, and who came with it has been sent away
                        return None
                    return request["name"], Session(attachment, client)
                answer = {"ok": True, **await self._verb(request)(request)}
            except BridgeError as error:
                answer = {"ok": False, "error": str(error), "exit": error.exit_code}
            await _write_line(client, answer)
        return None

    def _verb(self, request: Request) -> Callable[[Request], Awaitable[Answer]]:
        try:
            return self._verbs[request["do"]]
        except (KeyError, TypeError):
            known = ", ".join([*self._verbs, "attach"])
            raise UsageError(f"do: found {_found(request['do'])}; allowed: {known}") from None

    def _console(self, request: Request) -> BridgedConsole:
        name = _field(request, "name", str)
        bridged = self._service.consoles.get(name)
        # One that is ending still holds its name and QEMU's connection, but nobody.
        if bridged is None or bridged.ended:
            raise StartError(f"no console '{printable(name)}'")
        return bridged

    def _attachment(
        self, bridged: BridgedConsole, request: Request, client: trio.socket.SocketType
    ) -> Attachment:
        settings = bridged.settings
        replay, notices = request.get("replay"), request.get("notices")
        manners = Manners.of(
            Kind.ATTACH,
            replay=settings.replay if replay is None else _size(request, "replay"),
            notices=settings.notices if notices is None else _field(request, "notices", bool),
            writable=not request.get("readonly", False),
        )
        prepare(client)
        channel = FdChannel(client)
        return Attachment(bridged.console, channel, manners, peer=peer_name(client))

    async def _status(self, request: Request) -> Answer:
        if request.get("name") is not None:
            chosen = [self._console(request)]
        else:
            chosen = list(self._service.consoles.values())
        return {
            "service": service_status(self._service),
            "consoles": [console_status(bridged) for bridged in chosen],
        }

    async def _metrics(self, _request: Request) -> Answer:
        return {"text": service_metrics(self._service)}

    async def _send(self, request: Request) -> Answer:
        console = self._console(request).console
        try:
            data = base64.b64decode(_field(request, "data", str), validate=True)
        except (binascii.Error, ValueError):
            raise UsageError("data: not base64") from None
        delivered = await console.deliver(data)
        if delivered < len(data):
            raise StartError(
                f"{console.name} is {console.state.name}: {delivered} of {len(data)} bytes sent"
            )
        return {"sent": delivered}

    async def _break(self, request: Request) -> Answer:
        self._console(request).console.send_break()
        return {}

    async def _add(self, request: Request) -> Answer:
        settings = self._service.make(
            _field(request, "name", str), _field(request, "settings", dict)
        )
        self._service.add(settings)
        return {"console": console_status(self._service.consoles[settings.name])}

    async def _remove(self, request: Request) -> Answer:
        await self._service.remove(self._console(request).settings.name)
        return {}

    async def _reload(self, _request: Request) -> Answer:
        done = await self._service.reload()
        return {
            "added": done.added,
            "removed": done.removed,
            "changed": done.changed,
            "service": done.service,
            "errors": done.errors,
        }

    async def _exec(self, _request: Request) -> Answer:
        await self._service.hand_over()
        return {}


async def _read_line(client: trio.socket.SocketType) -> bytes | None:
    """A whole line without its end; None at the end of the stream.

    Looks before it takes: what follows an `attach` request is for the console.
    """
    line = b""
    while len(line) < LINE_LIMIT:
        seen = await client.recv(1 << 16, socket.MSG_PEEK)
        if not seen:
            return None
        head, newline, _ = seen.partition(b"\n")
        line += await client.recv(len(head) + len(newline))
        if newline:
            return line[:-1]
    await client.send(b'{"ok": false, "error": "the request is too long", "exit": 2}\n')
    return None


async def _write_line(client: trio.socket.SocketType, answer: Answer) -> None:
    data = memoryview(json.dumps(answer).encode() + b"\n")
    while data:
        data = data[await client.send(data) :]


def _parse(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("not a line of JSON") from None
    if not isinstance(request, dict) or "do" not in request:
        raise UsageError('a request is an object with "do"')
    return request


def _field(request: Request, name: str, kind: type[T]) -> T:
    value = request.get(name)
    if not isinstance(value, kind):
        raise UsageError(f"{name}: found {_found(value)}; allowed: a JSON {_JSON_NAMES[kind]}")
    return value


def _size(request: Request, name: str) -> int:
    size = _field(request, name, int)
    if size < 0:
        raise UsageError(f"{name}: found {_found(size)}; allowed: bytes, 0 or more")
    return size


_JSON_NAMES = {str: "string", int: "number", bool: "true or false", dict: "object"}


def _found(value: object) -> str:
    # What was nested deeply enough for json.loads may be too deep for json.dumps.
    match value:
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return printable(json.dumps(value), 60)
