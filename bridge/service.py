"""The whole: every console with its upstream and endpoints, in one nursery.

``open_service`` binds everything or raises StartError; what it gives is then run.  So the
addresses that are announced are real, and a port in use is found before anything starts.
"""

import errno
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from bridge.config import ConsoleSettings
from bridge.console import Console, State
from bridge.endpoints import LOOPBACK, MAX_ATTACHMENTS, RawEndpoint
from bridge.errors import StartError
from bridge.listeners import Listeners
from bridge.presence import Presence
from bridge.printable import printable
from bridge.pty import PtyEndpoint
from bridge.runtime import RuntimeDirectory
from bridge.upstream import Upstream

log = logging.getLogger("ttybridge")

# Upstream, PTY, raw and Unix listeners of each console, with a few clients each.
_DESCRIPTORS_PER_CONSOLE = 8

# A terminal that is closed says HUP; unheeded, it would kill us and lock the consoles.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


class BridgedConsole:
    """One console with all its ways in and out, bound."""

    def __init__(
        self,
        settings: ConsoleSettings,
        runtime: RuntimeDirectory,
        presence: Presence,
        listeners: Listeners,
        stack: ExitStack,
    ) -> None:
        self._settings = settings
        self._warn = partial(_warn, settings.name)
        self._console = Console(
            settings.name,
            scrollback=settings.scrollback,
            clocking=settings.input,
            on_state=_StateLog(),
        )
        self._upstream = Upstream(self._console, settings.url, listeners, self._warn)
        self._raw = self._bind_raw(stack)
        self._unix = self._bind_unix(runtime, stack)
        self._pty = self._make_pty(runtime, presence, stack)
        self._link = str(runtime.path / settings.name)

    def _bind_raw(self, stack: ExitStack) -> RawEndpoint | None:
        port = self._settings.raw
        if port is None:
            return None
        try:
            raw = RawEndpoint.tcp(port, self._warn)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use by another program" if taken else f"cannot be used: {error.strerror}"
            raise StartError(f"{self._settings.name}: port {LOOPBACK}:{port} {why}") from error
        stack.callback(raw.close)
        return raw

    def _bind_unix(self, runtime: RuntimeDirectory, stack: ExitStack) -> RawEndpoint | None:
        if not self._settings.unix:
            return None
        try:
            unix = RawEndpoint.unix(runtime.unix_path(self._settings.name), self._warn)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"{self._settings.name}: no Unix socket: {reason}") from error
        stack.callback(unix.close)
        return unix

    def _make_pty(
        self, runtime: RuntimeDirectory, presence: Presence, stack: ExitStack
    ) -> PtyEndpoint | None:
        if not self._settings.pty:
            return None
        try:
            pty = PtyEndpoint(presence, runtime.link(self._settings.name), self._warn)
        except OSError as error:
            raise StartError(f"{self._settings.name}: no PTY: {error.strerror}") from error
        stack.callback(pty.close)
        return pty

    @property
    def place(self) -> Place:
        return Place(
            name=self._settings.name,
            state=self._console.state.name,
            url=str(self._settings.url),
            pty=self._pty.path if self._pty else None,
            link=self._link if self._pty else None,
            raw=self._raw.address if self._raw else None,
            telnet=None,
            unix=self._unix.address if self._unix else None,
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._console.run)
            for endpoint in (self._raw, self._unix, self._pty):
                if endpoint is not None:
                    nursery.start_soon(endpoint.run, self._console)
            nursery.start_soon(self._upstream.run)


class Service:
    """All consoles, bound; ``run`` serves until a stop signal or cancellation."""

    def __init__(
        self, consoles: list[BridgedConsole], presence: Presence, listeners: Listeners
    ) -> None:
        self._consoles = consoles
        self._presence = presence
        self._listeners = listeners

    @property
    def places(self) -> list[Place]:
        return [console.place for console in self._consoles]

    async def run(self, ready: Callable[[], None]) -> None:
        """``ready`` is called when a stop signal would already end the service properly."""
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                serving = trio.CancelScope()
                nursery.start_soon(_cancel_at_each, signals, serving)
                with serving:
                    await self._serve(ready)
                nursery.cancel_scope.cancel()

    async def _serve(self, ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._presence.run)
            nursery.start_soon(self._listeners.run)
            for console in self._consoles:
                nursery.start_soon(console.run)
            ready()


async def _cancel_at_each(signals: AsyncIterator[int], serving: trio.CancelScope) -> None:
    """Stop at the first signal, and swallow the rest: the leaving must not be cut short.

    A terminal that closes may say HUP twice, and an impatient user ^C.
    """
    async for _ in signals:
        serving.cancel()


@contextmanager
def open_service(settings: Iterable[ConsoleSettings], directory: Path) -> Iterator[Service]:
    """Bind everything; raises StartError.  On leaving, everything is closed and unpublished."""
    settings = list(settings)
    _raise_descriptor_limit(len(settings))
    with ExitStack() as stack:
        runtime = stack.enter_context(RuntimeDirectory(directory))
        presence = stack.enter_context(_presence())
        listeners = Listeners()
        consoles = [
            BridgedConsole(console, runtime, presence, listeners, stack) for console in settings
        ]
        yield Service(consoles, presence, listeners)


def _presence() -> Presence:
    try:
        return Presence()
    except OSError as error:
        raise StartError(
            f"inotify: {error.strerror} (sysctl fs.inotify.max_user_instances)"
        ) from error


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


def _warn(name: str, message: str) -> None:
    log.warning("%s: %s", name, printable(message, 400))


def _raise_descriptor_limit(consoles: int) -> None:
    """Use all descriptors that we may, and say so at the start if they will not do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = consoles * _DESCRIPTORS_PER_CONSOLE + MAX_ATTACHMENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "the limit of %d open files (ulimit -Hn) may not do for %d consoles; %d would",
            hard,
            consoles,
            wanted,
        )
