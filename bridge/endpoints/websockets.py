"""The websocket endpoint: all consoles of the service at one port, each at its name.

A connection is asked whose it is before a byte of it is read, says its request within a
time and a size, and then is an attachment like any other, with a ServerCodec in between.

RFC 6455, 7.1.1: after the close frames the server is the first to end the connection.
"""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from bridge.base.errors import StartError
from bridge.base.handover import NOBODY, Bag, Keeper, Left, Record, Role
from bridge.base.printable import printable
from bridge.console.attach import Attachment
from bridge.console.channel import FdChannel
from bridge.console.console import Console
from bridge.console.manners import Kind
from bridge.endpoints import token
from bridge.endpoints.sockets import (
    LOOPBACK,
    MAX_ATTACHMENTS,
    accept_forever,
    adopt_listener,
    close,
    listen_tcp,
    peer_name,
    prepare,
    present,
    refusal,
)
from bridge.endpoints.wsserver import (
    HEAD_END,
    IDLE,
    MAX_HEAD,
    Door,
    Handshake,
    NotUpgradedError,
    ServerCodec,
)
from bridge.settings.config import ConsoleSettings, ServiceSettings
from bridge.settings.config import service as read_settings
from bridge.upstream.transport import adopt

log = logging.getLogger("ttybridge")

# For a request to come and its answer to leave; and how many may take their time at once.
REQUEST_LIMIT = 5.0
MAX_REQUESTS = 64

# For the close frame to leave and the client to go, once one of us has closed.
CLOSE_LIMIT = 5.0


class Served(Protocol):
    """A console of the service, as far as it matters here."""

    console: Console
    settings: ConsoleSettings


# Finds a console by its name; by an empty one the only console there is.
Lookup = Callable[[str], Served | None]


class WebSockets:
    """The endpoint, there or not: it may come, move and go while the service runs.

    ``open`` or ``restore`` it once, then ``run``; ``change`` it meanwhile.
    """

    def __init__(self, directory: Path, lookup: Lookup, keeper: Keeper = NOBODY) -> None:
        self.settings = ServiceSettings()
        self._keeper = keeper
        self._directory = directory
        self._lookup = lookup
        self._endpoint: WebSocketEndpoint | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def url(self) -> str | None:
        """Of a console, whose name stands for NAME; None where there is no endpoint."""
        return self._endpoint.url if self._endpoint is not None else None

    def open(self, settings: ServiceSettings) -> None:
        """Bind what ``settings`` want and, in ``run``, start it; raises StartError."""
        endpoint = None
        if settings.websocket is not None:
            endpoint = self._make(_listen(settings.websocket), settings)
            log.info("websocket: %s", endpoint.url)
        self.settings, self._endpoint = settings, endpoint
        if endpoint is not None and self._nursery is not None:
            self._nursery.start_soon(endpoint.run)

    async def change(self, settings: ServiceSettings) -> list[str]:
        """Become as ``settings`` want it; return the keys that differ.

        Raises StartError, and all is as before: a new port is bound before the old one is
        let go.
        """
        before, old = self.settings, self._endpoint
        if settings.websocket != before.websocket:
            self.open(settings)
            if old is not None:
                await old.end()
        elif old is not None:
            old.token = self._token(settings)
        self.settings = settings
        return settings.differences(before)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._endpoint is not None:
                nursery.start_soon(self._endpoint.run)
            await trio.sleep_forever()

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()

    def state(self, bag: Bag) -> Record:
        endpoint = self._endpoint.state(bag) if self._endpoint is not None else None
        return {"settings": dict(self.settings.source), "endpoint": endpoint}

    def restore(self, record: Record, bag: Bag) -> None:
        """Go on with what another process has left."""
        self.settings = read_settings(record["settings"])
        if (left := record["endpoint"]) is None:
            return
        if left["fd"] in bag:
            listener = adopt_listener((left, bag))
        else:
            listener = _listen(self.settings.websocket or 0)
        self._endpoint = self._make(listener, self.settings)
        self._endpoint.restore((left, bag))

    def _make(self, listener: socket.socket, settings: ServiceSettings) -> "WebSocketEndpoint":
        return WebSocketEndpoint(listener, self._token(settings), self._lookup, self._keeper)

    def _token(self, settings: ServiceSettings) -> str:
        if settings.websocket_token is not None:
            return token.chosen(settings.websocket_token)
        return token.kept(self._directory / token.FILE)


class WebSocketEndpoint:
    """A listening socket for all consoles; serves in ``run``, until ``end``."""

    def __init__(
        self, listener: socket.socket, secret: str, lookup: Lookup, keeper: Keeper = NOBODY
    ) -> None:
        listener.setblocking(False)
        keeper.keep(listener.fileno(), Role.LISTENER)
        self._keeper = keeper
        self._listener = listener
        self.token = secret
        self._port: int = listener.getsockname()[1]
        self._lookup = lookup
        self._requests = 0
        self._sessions: list[_Session] = []
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def url(self) -> str:
        """Of a console, whose name stands for NAME."""
        return f"ws://{LOOPBACK}:{self._port}/NAME"

    def close(self) -> None:
        close(self._listener, self._keeper)

    def state(self, bag: Bag) -> Record:
        open_ = [session for session in self._sessions if not session.codec.over]
        return {
            "fd": bag.put(self._listener.fileno()),
            "sessions": [session.state(bag) for session in open_],
        }

    def restore(self, left: Left) -> None:
        """Take over the clients of another process's endpoint; ``run`` serves them on."""
        record, bag = left
        for each in present(record["sessions"], bag):
            if (served := self._lookup(each["name"])) is not None:
                session = _Session.restore(served.console, each, bag)
                self._keeper.keep(session.channel.fd, Role.CLIENT)
                self._sessions.append(session)

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for session in tuple(self._sessions):
                        nursery.start_soon(self._run_session, session)
                    await accept_forever(self._listener, self._serve, nursery)
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Stop listening, and say goodbye to all clients."""
        self._scope.cancel()
        await self._ended.wait()
        self.close()

    async def _serve(self, client: trio.socket.SocketType) -> None:
        session = None
        try:
            if why := refusal(client):
                self._warn(why)
            elif self._requests >= MAX_REQUESTS:
                self._warn(f"closed a connection: {MAX_REQUESTS} have not made their request yet")
            else:
                prepare(client)
                session = await self._hear(client)
        finally:
            if session is None:
                client.close()
        if session is not None:
            self._sessions.append(session)
            self._keeper.keep(client.fileno(), Role.CLIENT)
            await self._run_session(session)

    async def _run_session(self, session: "_Session") -> None:
        try:
            await session.run()
        finally:
            if session.attachment.over:
                self._sessions.remove(session)
                session.close(self._keeper)

    async def _hear(self, client: trio.socket.SocketType) -> "_Session | None":
        """Hear one request out; answer it, if it is not to be a websocket."""
        self._requests += 1
        try:
            with trio.move_on_after(REQUEST_LIMIT) as limit:
                try:
                    return self._admit(client, await _read_head(client))
                except NotUpgradedError as refused:
                    if refused.warning:
                        self._warn(refused.warning)
                    await _say(client, refused.answer)
            if limit.cancelled_caught:
                self._warn(f"closed a connection that was not done in {REQUEST_LIMIT:g} s")
        except OSError:
            pass  # the client is gone, and has asked for nothing
        finally:
            self._requests -= 1
        return None

    def _admit(self, client: trio.socket.SocketType, head: bytes) -> "_Session":
        """What this request is to be given; raises NotUpgradedError."""
        handshake = Handshake(head)
        wish = handshake.wish(Door(self._port, self.token))
        served = self._lookup(wish.name)
        if served is None:
            raise NotUpgradedError.of(404, "no such console here; each is at its name: /NAME")
        console = served.console
        if len(console.readers) >= MAX_ATTACHMENTS:
            full = f"{MAX_ATTACHMENTS} are attached already"
            raise NotUpgradedError.of(503, full, f"refused a client of {console.name}: {full}")
        channel = _Channel(client, handshake.accept())
        manners = served.settings.manners(Kind.WEBSOCKET, writable=not wish.readonly)
        peer = peer_name(client)
        attachment = Attachment(console, channel, manners, codec=channel.codec, peer=peer)
        return _Session(console.name, attachment, channel)

    def _warn(self, message: str) -> None:
        log.warning("websocket %s:%d: %s", LOOPBACK, self._port, printable(message, 400))


def _listen(port: int) -> socket.socket:
    try:
        return listen_tcp(port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is in use by another program" if taken else f"cannot be used: {error.strerror}"
        raise StartError(f"websocket: port {LOOPBACK}:{port} {why}") from error


class _Channel(FdChannel):
    """A client that is left, and leaves, by the closing handshake."""

    def __init__(self, client: trio.socket.SocketType, codec: ServerCodec) -> None:
        super().__init__(client, gone=self._gone)
        self.codec = codec
        self.whole = True
        """What was written last is a frame's end."""
        self.scope = trio.CancelScope()
        """Of the session; without a time limit until one of us has closed."""

    def write(self, data: bytes) -> int:
        written = super().write(data)
        self.whole = written == len(data)
        if self.whole and self.codec.over:
            self.client.shutdown(socket.SHUT_WR)
        return written

    def _gone(self) -> bool:
        """After a close frame ours has still to leave; a bare end of stream is the end of all.

        For so leave those who have a serial line in mind, ttybridge among them, and then
        wait for our end.
        """
        limit = trio.current_time() + CLOSE_LIMIT
        self.scope.deadline = min(self.scope.deadline, limit)  # asked again and again
        return not self.codec.over


@dataclass(frozen=True, slots=True, eq=False)
class _Session:
    """A client that was let in."""

    name: str
    """The console's."""
    attachment: Attachment
    channel: _Channel

    @property
    def codec(self) -> ServerCodec:
        return self.channel.codec

    async def run(self) -> None:
        with self.channel.scope:
            await self.attachment.run()

    def close(self, keeper: Keeper) -> None:
        """End the connection, with a close frame if there was none and it can go at once."""
        if self.channel.whole and (farewell := self.codec.farewell()):
            with contextlib.suppress(OSError):  # full, or gone: then without
                os.write(self.channel.fd, farewell)
        close(self.channel.client, keeper)

    def state(self, bag: Bag) -> Record:
        return {
            "name": self.name,
            "client": bag.put(self.channel.fd),
            "whole": self.channel.whole,
            "codec": self.codec.state() if bag.whole else IDLE,
            "attachment": self.attachment.state(bag),
        }

    @classmethod
    def restore(cls, console: Console, record: Record, bag: Bag) -> "_Session":
        channel = _Channel(adopt(bag.take(record["client"])), ServerCodec.restore(record["codec"]))
        channel.whole = record["whole"]
        attachment = Attachment.restore(console, channel, record["attachment"], bag, channel.codec)
        return cls(console.name, attachment, channel)


async def _read_head(client: trio.socket.SocketType) -> bytes:
    """A request's head, and not a byte more: what follows is the attachment's to read."""
    head = b""
    while len(head) < MAX_HEAD:
        seen = await client.recv(MAX_HEAD - len(head), socket.MSG_PEEK)
        begun = max(0, len(head) - len(HEAD_END) + 1)
        end = (head[begun:] + seen).find(HEAD_END)
        wanted = len(seen) if end < 0 else begun + end + len(HEAD_END) - len(head)
        head += await client.recv(wanted)
        if end >= 0:
            return head
        if not seen:
            raise NotUpgradedError.of(400, "the request has no end")
    raise NotUpgradedError.of(431, f"a request's head may have {MAX_HEAD} bytes")


async def _say(client: trio.socket.SocketType, answer: bytes) -> None:
    """Send, end, and wait for the other end: to close with input unread might take it back."""
    while answer:
        answer = answer[await client.send(answer) :]
    client.shutdown(socket.SHUT_WR)
    while await client.recv(4096):
        pass
