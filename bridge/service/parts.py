"""The ways in and out of one console: what its settings ask for, and how each is made.

Each way (the upstream, each endpoint) is a part, bound when it is made and then run in a
cancel scope of its own, so that a reload can replace one and leave the others, and whoever
is attached to them, alone.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from bridge.base.errors import StartError
from bridge.base.handover import Bag, Keeper, Left, Record
from bridge.base.printable import printable
from bridge.base.telnet import Telnet
from bridge.console.console import Console
from bridge.console.manners import Kind, Manners
from bridge.console.pacing import Clocking, Pacer
from bridge.endpoints.pty import PtyEndpoint
from bridge.endpoints.sockets import (
    LOOPBACK,
    Codecs,
    SocketEndpoint,
    adopt_listener,
    listen_tcp,
    listen_unix,
)
from bridge.kernel.listeners import Listeners
from bridge.kernel.presence import Presence
from bridge.kernel.runtime import RuntimeDirectory
from bridge.logs.writer import Logs
from bridge.service.surroundings import Surroundings
from bridge.settings.config import ConsoleSettings
from bridge.settings.url import Inner
from bridge.upstream.reach import Reach
from bridge.upstream.upstream import Upstream

log = logging.getLogger("ttybridge")


@dataclass(frozen=True, slots=True)
class Common:
    """What all consoles of a service share."""

    runtime: RuntimeDirectory
    presence: Presence
    listeners: Listeners
    logs: Logs
    keeper: Keeper
    changed: Callable[[], None]
    """To be called when a console has come, gone, or changed its state."""
    surroundings: Surroundings = field(default_factory=Surroundings)


class Way(Protocol):
    """A way in or out of a console."""

    async def run(self) -> None:
        """Serve until cancelled."""

    def state(self, bag: Bag) -> Record | None:
        """What the next process needs to go on; None if it is to begin anew."""

    def restore(self, record: Record, bag: Bag) -> None:
        """Go on from ``state``; before ``run``."""


class Endpoint(Way, Protocol):
    """A way in."""

    manners: Manners
    """Of those who attach from now on."""

    @property
    def address(self) -> str:
        """Where it is reached."""

    def close(self) -> None:
        """Unbind it."""


@dataclass(slots=True, eq=False)
class Part:
    """``spec`` is all that it was made from: another one asks for another part."""

    spec: object
    way: Way
    endpoint: Endpoint | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            with self.scope:
                await self.way.run()
        finally:
            self.ended.set()

    async def retire(self) -> None:
        """End it and unbind it."""
        self.scope.cancel()
        await self.ended.wait()
        self.close()

    def close(self) -> None:
        if self.endpoint is not None:
            self.endpoint.close()


@dataclass(frozen=True, slots=True)
class Plan:
    """A part that the settings ask for."""

    name: str
    spec: object
    make: Callable[[], Part]
    manners: Manners | None = None


class Workshop:
    """Makes the parts of one console.

    ``left`` is what another process has left of them; whoever makes parts anew forgets it.
    """

    def __init__(self, console: Console, common: Common, left: Left | None) -> None:
        self.left = left
        self._console = console
        self._common = common
        self._warn = partial(warn, console.name)

    def left_of(self, name: str) -> Left | None:
        """What another process has left of the part called ``name``, its descriptor with it."""
        if self.left is None:
            return None
        record, bag = self.left[0]["parts"].get(name), self.left[1]
        if record is None or ("fd" in record and record["fd"] not in bag):
            return None
        return record, bag

    def plans(self, s: ConsoleSettings) -> Iterator[Plan]:
        reach = Reach(s.url, s.access, telnet=s.upstream is Inner.TELNET)
        yield Plan("upstream", (reach, s.clocking), partial(self._make_upstream, reach, s.clocking))
        for name, kind, port in (
            ("raw", Kind.RAW, s.raw),
            ("telnet", Kind.TELNET, s.telnet),
            ("raw_readonly", Kind.RAW, s.raw_readonly),
        ):
            if port is not None:
                manners = s.manners(kind, writable=name != "raw_readonly")
                yield Plan(name, port, partial(self._make_tcp, name, port, manners), manners)
        if s.unix:
            manners = s.manners(Kind.UNIX)
            yield Plan("unix", True, partial(self._make_unix, manners), manners)
        for name, wanted in (("pty", s.pty), ("pty_readonly", s.pty_readonly)):
            if wanted:
                writable = name == "pty"
                link = s.name if writable else f"{s.name}.ro"
                manners = s.manners(Kind.PTY, writable=writable)
                yield Plan(name, True, partial(self._make_pty, name, link, manners), manners)

    def _make_upstream(self, reach: Reach, clocking: Clocking) -> Part:
        self._console.pacer = Pacer(*clocking)
        upstream = Upstream(
            self._console, reach, self._common.listeners, self._warn, self._common.keeper
        )
        if left := self.left_of("upstream"):
            upstream.restore(*left)
        elif self.left is not None and self.left[0]["console"] is not None:
            self._console.resume(None)
        return Part((reach, clocking), upstream)

    def _make_tcp(self, name: str, port: int, manners: Manners) -> Part:
        left = self.left_of(name)
        try:
            listener = adopt_listener(left) if left is not None else listen_tcp(port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            # Not error.strerror, to which create_server() has added the address.
            reason = os.strerror(error.errno or 0)
            why = "is in use by another program" if taken else f"cannot be used: {reason}"
            raise StartError(f"{self._console.name}: port {LOOPBACK}:{port} {why}") from error
        codecs = self._telnet() if manners.kind is Kind.TELNET else None
        address = "{}:{}".format(*listener.getsockname())
        return self._part(port, self._socket(listener, address, manners, codecs), left)

    def _make_unix(self, manners: Manners) -> Part:
        try:
            left = self.left_of("unix")
            path = self._common.runtime.unix_path(self._console.name)
            listener = adopt_listener(left) if left is not None else listen_unix(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"{self._console.name}: no Unix socket: {reason}") from error
        return self._part(True, self._socket(listener, path, manners), left)

    def _telnet(self) -> Codecs:
        changed = self._common.keeper.changed
        return Codecs(partial(Telnet.server, changed), partial(Telnet.restore, changed=changed))

    def _socket(
        self, listener: socket.socket, address: str, manners: Manners, codecs: Codecs | None = None
    ) -> SocketEndpoint:
        return SocketEndpoint(
            self._console, listener, address, manners, self._warn, codecs, self._common.keeper
        )

    def _make_pty(self, name: str, link: str, manners: Manners) -> Part:
        common, left = self._common, self.left_of(name)
        master = left[1].take(left[0]["fd"]) if left is not None else None
        try:
            pty = PtyEndpoint(
                self._console,
                common.presence,
                common.runtime.link(link),
                manners,
                self._warn,
                master,
                common.keeper,
            )
        except OSError as error:
            raise StartError(f"{self._console.name}: no PTY: {error.strerror}") from error
        return self._part(True, pty, left)

    def _part(self, spec: object, endpoint: Endpoint, left: Left | None) -> Part:
        if left is not None:
            endpoint.restore(*left)
        return Part(spec, endpoint, endpoint)


def warn(name: str, message: str) -> None:
    """Say what concerns the console ``name``; ``message`` may hold anything."""
    log.warning("%s: %s", name, printable(message, 400))
