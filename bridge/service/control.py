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
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from bridge.base.errors import BridgeError, StartError, UsageError
from bridge.base.handover import NOBODY, Bag, Ending, Keeper, Left, Record, Role
from bridge.base.printable import printable
from bridge.console.attach import Attachment
from bridge.console.channel import FdChannel
from bridge.console.manners import MAX_REPLAY, Kind, Manners
from bridge.endpoints.sockets import (
    MAX_ATTACHMENTS,
    Session,
    accept_forever,
    adopt_listener,
    close,
    listen_unix,
    peer_name,
    prepare,
    present,
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

# Objects and lists in each other; those of `add` with headers are four.
DEPTH_LIMIT = 16

T = TypeVar("T")
D = TypeVar("D")
Request = dict[str, Any]
Answer = dict[str, Any]


class Control:
    """Bound when made, which may raise StartError; answers in ``run``."""

    def __init__(self, service: Service, left: Left | None = None, keeper: Keeper = NOBODY) -> None:
        self._service = service
        self._keeper = keeper
        path = service.runtime.control
        try:
            there = left is not None and left[0]["fd"] in left[1]
            self._listener = adopt_listener(left) if left and there else listen_unix(path)
        except OSError as error:
            raise StartError(f"control socket {path}: {error.strerror or error}") from error
        self._listener.setblocking(False)
        keeper.keep(self._listener.fileno(), Role.LISTENER)
        self._sessions: dict[Session, str] = {}  # with the console's name
        self._verbs: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "status": self._status,
            "metrics": self._metrics,
            "send": self._send,
            "break": self._break,
            "rescue": self._rescue,
            "add": self._add,
            "remove": self._remove,
            "reload": self._reload,
            "exec": self._exec,
        }
        if left is not None:
            self._restore(*left)

    def close(self) -> None:
        if self._service.ending is Ending.LEAVE:
            self._service.runtime.remove_control()
            close(self._listener, self._keeper)

    def state(self, bag: Bag) -> Record:
        sessions: dict[str, list[Record]] = {}
        for session, name in self._sessions.items():
            sessions.setdefault(name, []).append(session_state(session, bag))
        return {"fd": bag.put(self._listener.fileno()), "sessions": sessions}

    def _restore(self, record: Record, bag: Bag) -> None:
        """Take over the clients that were attached by way of another process."""
        consoles = self._service.consoles
        for name, sessions in record["sessions"].items():
            if name not in consoles:  # the command line names it no more
                continue
            console = consoles[name].console
            for each in present(sessions, bag):
                client = adopt(bag.take(each["client"]))
                self._keeper.keep(client.fileno(), Role.CLIENT)
                attachment = Attachment.restore(console, FdChannel(client), each["attachment"], bag)
                self._sessions[Session(attachment, client)] = name

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for session in tuple(self._sessions):
                nursery.start_soon(self._run_session, session)
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
            await self._run_session(attached)

    async def _run_session(self, session: Session) -> None:
        try:
            await session.attachment.run()
        finally:
            if session.attachment.over:
                del self._sessions[session]
                close(session.client, self._keeper)

    async def _converse(self, client: trio.socket.SocketType) -> Session | None:
        """Answer requests until the end, or until one has become an attachment to a console."""
        while True:
            try:
                line = await _read_line(client)
                if line is None:
                    return None
                request = _parse(line)
                if request["do"] == "attach":
                    session = Session(self._attachment(request, client), client)
                    self._sessions[session] = request["name"]
                    self._keeper.keep(client.fileno(), Role.CLIENT)
                    return session
                answer = {"ok": True, **await self._verb(request)(request)}
            except BridgeError as error:
                answer = {"ok": False, "error": str(error), "exit": error.exit_code}
            await _write_line(client, answer)

    def _verb(self, request: Request) -> Callable[[Request], Awaitable[Answer]]:
        try:
            return self._verbs[request["do"]]
        except (KeyError, TypeError):
            known = ", ".join([*self._verbs, "attach"])
            raise UsageError(f"do: found {_found(request['do'])}; allowed: {known}") from None

    def _console(self, request: Request) -> BridgedConsole:
        name = _field(request, "name", str)
        bridged = self._service.consoles.get(name)
        if bridged is None or bridged.ended:  # its upstream may still be taking its leave
            raise StartError(f"no console '{printable(name)}'")
        return bridged

    def _attachment(self, request: Request, client: trio.socket.SocketType) -> Attachment:
        bridged = self._console(request)
        settings, console = bridged.settings, bridged.console
        replay = _option(request, "replay", int, settings.replay)
        if replay is not None and not 0 <= replay <= MAX_REPLAY:
            raise UsageError(f"replay: found {replay}; allowed: from 0 to {MAX_REPLAY} bytes")
        manners = Manners.of(
            Kind.ATTACH,
            replay=replay,
            notices=_option(request, "notices", bool, settings.notices),
            writable=not _option(request, "readonly", bool, False),
        )
        if len(console.readers) >= MAX_ATTACHMENTS:
            raise StartError(f"{console.name}: {MAX_ATTACHMENTS} are attached already")
        prepare(client)
        # The answer is the first that the attachment writes: were it awaited, the console
        # might end, or all be handed over, with the client neither here nor there.
        return Attachment(
            console,
            FdChannel(client),
            manners,
            peer=peer_name(client),
            greeting=_line({"ok": True}),
        )

    async def _status(self, request: Request) -> Answer:
        if _option(request, "name", str, None) is not None:
            chosen = [self._console(request)]
        else:
            chosen = list(self._service.consoles.values())
        await self._service.look(chosen)
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
        console.counts.typed = ("send", "", time.time())
        delivered = await console.deliver(data)
        if delivered < len(data):
            why = (
                f"{console.state.name} ({console.reason})" if console.reason else console.state.name
            )
            raise StartError(f"{console.name} is {why}: {delivered} of {len(data)} bytes sent")
        return {"sent": delivered}

    async def _break(self, request: Request) -> Answer:
        await self._console(request).send_break()
        return {}

    async def _rescue(self, request: Request) -> Answer:
        bridged = self._console(request)
        try:
            await bridged.rescue()
        except BridgeError as error:
            raise StartError(f"{bridged.settings.name}: not rescued: {error}") from error
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

    Looks before it takes: what follows an `attach` request is for the console.  Raises
    UsageError for a line that is too long, when it is over.
    """
    line = b""
    while True:
        seen = await client.recv(1 << 16, socket.MSG_PEEK)
        if not seen:
            return None
        head, newline, _ = seen.partition(b"\n")
        taken = await client.recv(len(head) + len(newline))
        if len(line) <= LINE_LIMIT:
            line += taken
        if newline and len(line) > LINE_LIMIT:
            raise UsageError(f"the request is too long; allowed: {LINE_LIMIT} bytes a line")
        if newline:
            return line[:-1]


def _line(answer: Answer) -> bytes:
    return json.dumps(answer).encode() + b"\n"


async def _write_line(client: trio.socket.SocketType, answer: Answer) -> None:
    data = memoryview(_line(answer))
    while data:
        data = data[await client.send(data) :]


def _parse(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("not a line of JSON") from None
    if not isinstance(request, dict) or "do" not in request:
        raise UsageError('a request is an object with "do"')
    if _is_deep(request):  # who looks at it or prints it may be further down the stack than we
        raise UsageError(f"values within values; allowed: {DEPTH_LIMIT} deep")
    return request


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [inner for outer in level for inner in _inner(outer)]
    return bool(level)


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _field(request: Request, name: str, kind: type[T]) -> T:
    value = request.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{name}: found {_found(value)}; allowed: {_JSON_NAMES[kind]}")
    return value


def _option(request: Request, name: str, kind: type[T], default: D) -> T | D:
    """A field that may be missing, or null."""
    return default if request.get(name) is None else _field(request, name, kind)


_JSON_NAMES = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
}


def _found(value: object) -> str:
    # What was nested deeply enough for json.loads may be too deep for json.dumps.
    match value:
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return printable(json.dumps(value), 60)
