"""One console with all its ways in and out.

Each way (the upstream, each endpoint) is a part: bound when it is made, then run in a
cancel scope of its own.  So a reload replaces the parts whose settings have changed and
leaves the others, and whoever is attached to them, alone.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from bridge.base.errors import StartError
from bridge.base.handover import Bag, Ending, Left, Record
from bridge.base.printable import printable
from bridge.console.attach import Attachment
from bridge.console.console import Console
from bridge.console.manners import Kind, Manners
from bridge.console.pacing import Clocking, Pacer
from bridge.console.states import State
from bridge.endpoints.pty import PtyEndpoint
from bridge.endpoints.sockets import (
    LOOPBACK,
    Codecs,
    SocketEndpoint,
    adopt_listener,
    listen_tcp,
    listen_unix,
)
from bridge.endpoints.telnet import Telnet
from bridge.kernel.listeners import Listeners
from bridge.kernel.presence import Presence
from bridge.kernel.runtime import RuntimeDirectory
from bridge.logs.consolelog import ConsoleLog
from bridge.logs.writer import Logs
from bridge.settings.config import ConsoleSettings
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
    changed: Callable[[], None]
    """To be called when a console has come, gone, or changed its state."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a console can be reached; None for what is off."""

    name: str
    state: str
    url: str
    pty: str | None
    link: str | None
    raw: str | None
    telnet: str | None
    unix: str | None


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
class _Part:
    """``spec`` is all that it was made from: another one asks for another part."""

    spec: object
    way: Way
    endpoint: Endpoint | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    def close(self) -> None:
        if self.endpoint is not None:
            self.endpoint.close()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A part that the settings ask for."""

    name: str
    spec: object
    make: Callable[[], _Part]
    manners: Manners | None = None


class BridgedConsole:
    """See the module.  Bound when made, which may raise StartError; ``run``, then ``close``.

    ``left`` is what another process has left of this console: its ``state`` and the bag.
    """

    def __init__(self, settings: ConsoleSettings, common: Common, left: Left | None = None) -> None:
        self.settings = settings
        self._common = common
        self._left = left
        self._warn = partial(warn, settings.name)
        self.console = Console(
            settings.name,
            str(settings.url),
            scrollback=settings.scrollback,
            pacer=Pacer(*settings.clocking),
            on_state=self._on_state,
            on_break=self._break,
        )
        self._state_log = _StateLog()
        self.ended = False
        """Nobody can attach any more."""
        self._parts: dict[str, _Part] = {}
        self.log: ConsoleLog | None = None
        self._nursery: trio.Nursery | None = None
        if left is not None:
            self.console.restore(left[0]["console"], left[1])
        try:
            self._bind()
        except BaseException:
            self.close()
            raise

    def _on_state(self, console: Console) -> None:
        self._state_log(console)
        self._common.changed()

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def state(self, bag: Bag) -> Record:
        """What the next process needs to go on; after the tasks have ended by HAND_OVER."""
        return {
            "console": self.console.state_record(bag),
            "parts": {
                "log": self.log.state(bag) if self.log is not None else None,
                **{name: part.way.state(bag) for name, part in self._parts.items()},
            },
        }

    def _left_of(self, name: str) -> Left | None:
        """What another process has left of the part called ``name``."""
        if self._left is None or self._left[0]["parts"].get(name) is None:
            return None
        return self._left[0]["parts"][name], self._left[1]

    async def run(self) -> None:
        """Serve until cancelled; QEMU is left properly, unless all is handed over."""
        self._start_log(self._left_of("log"))
        self._left = None  # used up: what a reload makes anew is new
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._run_hub)
                for part in self._parts.values():
                    nursery.start_soon(_run, part)
        finally:
            if self.log is not None:  # after the upstream, for its last words
                self._common.logs.remove(self.log)

    async def _run_hub(self) -> None:
        try:
            await self.console.run()
        finally:
            if self.console.ending is Ending.LEAVE:
                self.ended = True
                # Some came by an endpoint of the whole service, which lives on.
                for reader in self.console.readers:
                    if isinstance(reader, Attachment):
                        reader.end()

    async def let_go(self, settings: ConsoleSettings) -> None:
        """First half of a change: end the parts that ``settings`` want otherwise or not at all."""
        wanted = {plan.name: plan for plan in self._plans(settings)}
        if _log_settings(settings) != _log_settings(self.settings):
            self._end_log()
        for name, part in tuple(self._parts.items()):
            plan = wanted.get(name)
            if plan is None or plan.spec != part.spec:
                await self._retire(name)
            elif part.endpoint is not None and plan.manners is not None:
                part.endpoint.manners = plan.manners

    def take_up(self, settings: ConsoleSettings) -> None:
        """Second half: bind and run what ``settings`` want and is not there; raises StartError.

        After an error what could not be bound is missing.  The scrollback keeps its size.
        """
        assert self._nursery is not None
        self.settings = settings
        self.console.url = str(settings.url)
        self._start_log()
        kept = set(self._parts)
        if "upstream" not in kept:
            self.console.enter(State.CONNECTING)
        try:
            self._bind()
        finally:
            for name in self._parts.keys() - kept:
                self._nursery.start_soon(_run, self._parts[name])

    def _start_log(self, left: Left | None = None) -> None:
        s = self.settings
        if s.log and self.log is None:
            self.log = self._common.logs.add(
                self.console, size=s.log_size, keep=s.log_keep, left=left
            )

    def _end_log(self) -> None:
        if self.log is not None:
            self._common.logs.remove(self.log)
            self.log = None

    async def _retire(self, name: str) -> None:
        part = self._parts.pop(name)
        part.scope.cancel()
        await part.ended.wait()
        part.close()

    @property
    def incomplete(self) -> bool:
        """Something that the settings want could not be bound."""
        return any(plan.name not in self._parts for plan in self._plans(self.settings))

    def _bind(self) -> None:
        """Make the parts that the settings want and that are not there."""
        for plan in self._plans(self.settings):
            if plan.name not in self._parts:
                self._parts[plan.name] = plan.make()

    def _plans(self, s: ConsoleSettings) -> Iterator[_Plan]:
        reach = Reach(s.url, s.access)
        yield _Plan(
            "upstream", (reach, s.clocking), partial(self._make_upstream, reach, s.clocking)
        )
        for name, kind, port in (
            ("raw", Kind.RAW, s.raw),
            ("telnet", Kind.TELNET, s.telnet),
            ("raw_readonly", Kind.RAW, s.raw_readonly),
        ):
            if port is not None:
                manners = s.manners(kind, writable=name != "raw_readonly")
                yield _Plan(name, port, partial(self._make_tcp, name, port, manners), manners)
        if s.unix:
            manners = s.manners(Kind.UNIX)
            yield _Plan("unix", True, partial(self._make_unix, manners), manners)
        for name, wanted in (("pty", s.pty), ("pty_readonly", s.pty_readonly)):
            if wanted:
                writable = name == "pty"
                link = s.name if writable else f"{s.name}.ro"
                manners = s.manners(Kind.PTY, writable=writable)
                yield _Plan(name, True, partial(self._make_pty, name, link, manners), manners)

    def _make_upstream(self, reach: Reach, clocking: Clocking) -> _Part:
        self.console.pacer = Pacer(*clocking)
        upstream = Upstream(self.console, reach, self._common.listeners, self._warn)
        if left := self._left_of("upstream"):
            upstream.restore(*left)
        elif self._left is not None:
            self.console.resume(None)
        return _Part((reach, clocking), upstream)

    def _make_tcp(self, name: str, port: int, manners: Manners) -> _Part:
        left = self._left_of(name)
        try:
            listener = adopt_listener(left) if left is not None else listen_tcp(port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            # Not error.strerror, to which create_server() has added the address.
            reason = os.strerror(error.errno or 0)
            why = "is in use by another program" if taken else f"cannot be used: {reason}"
            raise StartError(f"{self.settings.name}: port {LOOPBACK}:{port} {why}") from error
        codecs = Codecs(Telnet.server, Telnet.restore) if manners.kind is Kind.TELNET else None
        address = "{}:{}".format(*listener.getsockname())
        return self._part(
            name, port, SocketEndpoint(self.console, listener, address, manners, self._warn, codecs)
        )

    def _make_unix(self, manners: Manners) -> _Part:
        try:
            left = self._left_of("unix")
            path = self._common.runtime.unix_path(self.settings.name)
            listener = adopt_listener(left) if left is not None else listen_unix(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"{self.settings.name}: no Unix socket: {reason}") from error
        return self._part(
            "unix", True, SocketEndpoint(self.console, listener, path, manners, self._warn)
        )

    def _make_pty(self, name: str, link: str, manners: Manners) -> _Part:
        common, left = self._common, self._left_of(name)
        master = left[1].take(left[0]["master"]) if left is not None else None
        try:
            pty = PtyEndpoint(
                self.console,
                common.presence,
                common.runtime.link(link),
                manners,
                self._warn,
                master,
            )
        except OSError as error:
            raise StartError(f"{self.settings.name}: no PTY: {error.strerror}") from error
        return self._part(name, True, pty)

    def _part(self, name: str, spec: object, endpoint: Endpoint) -> _Part:
        if left := self._left_of(name):
            endpoint.restore(*left)
        return _Part(spec, endpoint, endpoint)

    def address(self, name: str) -> str | None:
        """Where the endpoint called ``name`` is; None if there is none."""
        part = self._parts.get(name)
        return part.endpoint.address if part is not None and part.endpoint is not None else None

    @property
    def place(self) -> Place:
        pty = self.address("pty")
        return Place(
            name=self.settings.name,
            state=self.console.state.name,
            url=str(self.settings.url),
            pty=pty,
            link=str(self._common.runtime.path / self.settings.name) if pty else None,
            raw=self.address("raw"),
            telnet=self.address("telnet"),
            unix=self.address("unix"),
        )

    def _break(self) -> None:
        self._warn("a BREAK was asked for, and there is no way to send one")


def _log_settings(settings: ConsoleSettings) -> tuple[bool, int, int]:
    return settings.log, settings.log_size, settings.log_keep


async def _run(part: _Part) -> None:
    try:
        with part.scope:
            await part.way.run()
    finally:
        part.ended.set()


class _StateLog:
    """One line per change of state; not for a new reason to wait, which may come per attempt."""

    def __init__(self) -> None:
        self._last: State | None = None

    def __call__(self, console: Console) -> None:
        if console.state is self._last and console.state is State.WAITING:
            return
        self._last = console.state
        reason = f": {printable(console.reason, 400)}" if console.reason else ""
        log.info("%s: %s%s", console.name, console.state.name, reason)


def warn(name: str, message: str) -> None:
    """Say what concerns the console ``name``; ``message`` may hold anything."""
    log.warning("%s: %s", name, printable(message, 400))
