"""What a running ttybridge can be asked by a program: the commands' verbs, for trio.

    from bridge import api

    service = api.Service()
    async with await service.open("vm1") as console:
        with trio.fail_after(60):
            await console.wait_for("login: ")
        await console.send("root", enter=True)
        found = await console.wait_for(re.compile(r"[$#] $"))
        print(found.before)

``Service`` keeps no connection: each verb makes its own, so that any may be cancelled, any
number may be under way at once, and a service that is restarted between two of them is the
same.  An open console stays open when the service goes on in a new process.  There are no
time limits here; trio's cancel scopes are those.

What goes wrong because of somebody else is a ``BridgeError`` (``bridge.base.errors``), which
is one line for a person: ``StartError`` where no service is, ``AskError`` where it refuses,
``GoneError`` where it, or the console, goes away meanwhile.
"""

import os
import re
from pathlib import Path
from typing import Any, cast

import trio

from bridge.base.errors import AskError, BridgeError, GoneError, StartError, UsageError
from bridge.base.search import WINDOW, Found, Search
from bridge.base.wire import (
    ConsoleStatus,
    Reloaded,
    Status,
    answer,
    ended,
    gone,
    keys,
    request,
)
from bridge.commands.client import unreachable
from bridge.console.manners import MAX_REPLAY
from bridge.kernel.homes import default_directory
from bridge.kernel.runtime import CONTROL, short_path

# How often that is looked at which there is no event to wait for.
_LOOK_AGAIN = 0.05

__all__ = [
    "AskError",
    "BridgeError",
    "Console",
    "ConsoleStatus",
    "Found",
    "GoneError",
    "Reloaded",
    "Service",
    "StartError",
    "Status",
    "UsageError",
]


class Service:
    """The service of a runtime directory: the user's own where none is given.

    Every verb raises StartError, AskError, GoneError.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(directory or default_directory()).absolute()

    async def status(self, name: str | None = None) -> Status:
        """What the service and its consoles do, or one of them; contrib/control.md has it all."""
        return cast("Status", await self._ask("status", name=name))

    async def consoles(self) -> list[str]:
        """Their names."""
        return [console["name"] for console in (await self.status())["consoles"]]

    async def console(self, name: str) -> ConsoleStatus:
        """What one console does."""
        return (await self.status(name))["consoles"][0]

    async def metrics(self) -> str:
        """Figures of all consoles, for Prometheus."""
        return str((await self._ask("metrics"))["text"])

    async def wait_online(self, name: str) -> None:
        """Wait until the console's guest can be typed at, as after ``add``."""
        while (await self.console(name))["state"] != "ONLINE":
            await trio.sleep(_LOOK_AGAIN)  # the service tells, but to those who ask

    async def send(self, name: str, text: str | bytes, *, enter: bool = False) -> None:
        """Type ``text`` exactly as given, and Enter after it if so wished.

        Returns when the guest has been sent all of it; raises AskError if it was not, as for
        a VM that is off.
        """
        data = text.encode() if isinstance(text, str) else text
        await self._ask("send", name=name, data=keys(data, enter=enter))

    async def send_break(self, name: str) -> None:
        await self._ask("break", name=name)

    async def add(self, name: str, url: str, **settings: object) -> ConsoleStatus:
        """Bridge one more console; ``settings`` are the keys of the configuration file."""
        added = await self._ask("add", name=name, settings={"url": url, **settings})
        return cast("ConsoleStatus", added["console"])

    async def remove(self, name: str) -> None:
        """Bridge it no longer; returns when the guest has been left and all is closed."""
        await self._ask("remove", name=name)

    async def reload(self) -> Reloaded:
        """Have the configuration file read again; what could not be done is in ``errors``."""
        return cast("Reloaded", await self._ask("reload"))

    async def open(
        self, name: str, *, replay: int = 0, notices: bool = False, readonly: bool = False
    ) -> "Console":
        """Attach to a console: ``async with await service.open("vm1") as console``.

        ``replay`` is how many bytes of its past output come first, 262144 at most; with
        ``notices`` lines of ttybridge's own are among the output; with ``readonly`` nothing
        that is sent reaches the guest.
        """
        fields = {"replay": replay, "notices": notices, "readonly": readonly}
        stream = await self._connect()
        try:
            _, begun = await _converse(stream, request("attach", {"name": name, **fields}))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Console(self, name, stream, begun, readonly=readonly)

    async def wait(self, name: str, what: str | re.Pattern[str], *, replay: bool = False) -> Found:
        """Wait until a console prints ``what``, or has before; see ``Console.wait_for``."""
        past = MAX_REPLAY if replay else 0
        async with await self.open(name, replay=past, readonly=True) as console:
            return await console.wait_for(what)

    async def _ask(self, do: str, **fields: object) -> dict[str, Any]:
        async with await self._connect() as stream:
            said, _ = await _converse(stream, request(do, fields))
            return said

    async def _connect(self) -> trio.SocketStream:
        try:
            with short_path(str(self.directory / CONTROL)) as path:
                while not _connected(stream := await trio.open_unix_socket(path)):
                    await trio.aclose_forcefully(stream)
                    await trio.sleep(_LOOK_AGAIN)
                return stream
        except OSError as error:
            raise unreachable(self.directory, error) from error


def _connected(stream: trio.SocketStream) -> bool:
    """False if more wait there than may: trio takes EAGAIN for a connection under way."""
    try:
        stream.socket.getpeername()
    except OSError:
        return False
    return True


class Console(trio.abc.HalfCloseableStream):
    """A console as a stream of the guest's bytes, both ways; and as text to wait for.

    One task at a time may receive or wait, another may send.  Who does not read misses
    output, not at once (README, ``scrollback``): nobody waits for him.
    """

    def __init__(
        self,
        service: Service,
        name: str,
        stream: trio.SocketStream,
        begun: bytes,
        *,
        readonly: bool,
    ) -> None:
        self.name = name
        self._service = service
        self._stream = stream
        self._readonly = readonly
        self._search = Search()
        self._search.feed(begun)

    @property
    def text(self) -> str:
        """What has come and was not taken yet, without escape sequences: for a test's report."""
        return self._search.text

    async def wait_for(self, what: str | re.Pattern[str]) -> Found:
        """Wait for a text, or for what a regular expression finds (``re.compile``).

        Looks at what has come since the last thing that was waited for or received, as a
        person would see it: without escape sequences and the like, lines ended by LF (for
        ``^`` and ``$`` at lines: ``re.MULTILINE``).  Output comes in pieces: ``\\d+`` may find
        the first of two digits, if nothing has to follow.  Takes what it finds and all before
        it.  Raises GoneError at the end of the console; when cancelled, nothing is lost.
        """
        pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
        found = self._search.find(pattern)
        while found is None:
            data = await self._receive(WINDOW)
            if not data:
                raise ended(self.name)
            self._search.feed(data)
            found = self._search.find(pattern, again=True)
        return found

    async def send(self, text: str | bytes, *, enter: bool = False) -> None:
        """Type ``text`` and, if so wished, Enter; as ``Service.send``, with its errors.

        Not for use beside ``send_all``, which goes another way.
        """
        if self._readonly:
            raise UsageError(f"{self.name}: opened with readonly: nothing can be sent")
        await self._service.send(self.name, text, enter=enter)

    # The stream.

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Output as it is; nothing at the end of the console, or of the service."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if ahead := self._search.take(max_bytes):
            await trio.lowlevel.checkpoint()
            return ahead
        return await self._receive(max_bytes)

    async def _receive(self, max_bytes: int | None) -> bytes:
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:  # a reset: it ended with input of ours unread
            return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Type ``data``.  Returns when the service has it, which may be before the guest has."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """No input will follow; output goes on."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _converse(stream: trio.SocketStream, line: bytes) -> tuple[dict[str, Any], bytes]:
    """Ask one thing; return the answer, and what came behind it."""
    said = b""
    try:
        await stream.send_all(line)
        while b"\n" not in said and (data := await stream.receive_some()):
            said += data
    except trio.BrokenResourceError as error:
        raise gone() from error
    first, _, rest = said.partition(b"\n")
    return answer(first), rest
