"""QMP, QEMU's control protocol, without I/O: requests out, answers matched, events apart.

``Protocol.receive`` takes bytes as they come, ``Protocol.request`` gives the bytes to send.  A
Command is a request and the reading of its answer in one, so that the blocking client of
the commands and the trio client of the service have one verb, ``execute``.
Specification: docs/interop/qmp-spec.
"""

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bridge.base.errors import BridgeError
from bridge.base.printable import printable

T = TypeVar("T")
Json = Any  # of any form, as it comes from outside

# How long QEMU may take.  It greets within milliseconds, if nobody else has the socket, and
# answers within some more; but a busy monitor, like a stopped QEMU, only stays silent.
GREETING_LIMIT = 1.0
ANSWER_LIMIT = 3.0
TALK_LIMIT = 6.0  # of all that a command asks; the service must end what it has begun

BUSY = "no greeting: another client has this QMP socket, or QEMU is stopped"
SILENT = f"no answer in {ANSWER_LIMIT:g} s"
SLOW = f"not all answers in {TALK_LIMIT:g} s"
GONE = "QEMU closed the QMP connection"

# One answer.  That of a big machine has some 50 KiB; the bound is against a peer that is no
# QMP server and never ends its line.
MAX_ANSWER = 8 << 20


class QmpError(BridgeError):
    """The other end is no QMP server, is gone, is busy, or says no."""


class QmpRefusedError(QmpError):
    """QEMU has understood the command and says why it will not do it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the machine, such as SHUTDOWN."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """``numbers`` compare; ``text`` has the packager's words, too."""

    numbers: tuple[int, int, int]
    text: str


@dataclass(frozen=True, slots=True)
class CharInfo:
    """A row of query-chardev: a chardev of any kind, as it is now."""

    label: str
    filename: str
    open: bool
    """The front end is ready: always for a UART, for a virtio port when the guest opens it."""

    @property
    def socket(self) -> "SocketInfo | None":
        """What ``filename`` says of a socket; None for a chardev of another kind."""
        match = _FILENAME.fullmatch(self.filename)
        if match is None:
            return None
        kind, where = match["kind"], match["where"]
        path = host = ""
        port = None
        if kind == "unix":
            path, abstract, _ = where.partition(",abstract=on")
            path = "@" + path if abstract else path
        else:
            host, _, number = where.rpartition(":")
            host, port = host.strip("[]"), int(number) if _PORT.fullmatch(number) else None
        return SocketInfo(
            kind, path, host, port, bool(match["server"]), not match["off"], match["peer"]
        )


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """``kind`` is websocket (with TLS or not), telnet (websocket or not), tcp or unix (websocket
    or not): QEMU says no more.  A path that begins with @ is abstract."""

    kind: str
    path: str
    host: str
    port: int | None
    server: bool
    connected: bool
    peer: str | None


# "disconnected:websocket:127.0.0.1:4555,server=on", "unix:/x,server=on",
# "tcp:127.0.0.1:1,server=on <-> 127.0.0.1:2" (qemu_chr_compute_filename() and its callers).
_FILENAME = re.compile(
    r"(?P<off>disconnected:)?(?P<kind>websocket|telnet|tn3270|tcp|unix):(?P<where>.*?)"
    r"(?P<server>,server=on)?(?: <-> (?P<peer>.*))?",
    re.DOTALL,
)


_PORT = re.compile("[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """What to ask, and how to read the answer (``read`` may raise any LookupError or
    ValueError, TypeError for an answer of another shape)."""

    name: str
    arguments: dict[str, Any]
    read: Callable[[Any], T]


Talk = Generator[Command[Any], Any, T]
"""Several commands of which each depends on the answers so far; a refusal is thrown in."""


class Protocol:
    """One connection.  All that comes in may raise QmpError and nothing else."""

    def __init__(self) -> None:
        self.version: Version | None = None
        """From the greeting; None until it has come."""
        self.events: list[Event] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._last_id = 0
        self._lines: list[bytes] = []  # of a message that is spread over lines
        self._rest: list[bytes] = []  # of a line that has not ended
        self._size = 0

    def request(self, command: Command[Any]) -> tuple[int, bytes]:
        """The bytes that ask for ``command``, and the number to look for its answer with."""
        self._last_id += 1
        message: dict[str, Any] = {"execute": command.name, "id": self._last_id}
        if command.arguments:
            message["arguments"] = command.arguments
        return self._last_id, json.dumps(message).encode() + b"\r\n"

    def receive(self, data: bytes) -> None:
        """Take bytes from QEMU, cut anywhere."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            raise QmpError("no QMP server: a message without end")
        self._rest.append(data)
        if b"\n" not in data:  # not joined at each read: a long line would cost its square
            return
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest = [rest]
        for line in lines:
            self._line(line.rstrip(b"\r"))

    def answered(self, number: int) -> bool:
        return number in self._answers

    def answer(self, number: int, command: Command[T]) -> T:
        """The answer that has come; raises QmpRefusedError if it was no."""
        message = self._answers.pop(number)
        if "error" in message:
            error = message["error"]
            description = error.get("desc") if isinstance(error, dict) else None
            raise QmpRefusedError(f"{command.name}: {printable(str(description))}")
        try:
            return command.read(message["return"])
        except (LookupError, TypeError, ValueError, AttributeError):
            found = printable(json.dumps(message["return"]))
            raise QmpError(f"{command.name}: an answer of unknown form: {found}") from None

    def _line(self, line: bytes) -> None:
        # -qmp-pretty spreads a message over lines, of which all but the braces around it
        # are indented.
        if self._lines or line == b"{":
            self._lines.append(line)
            if line != b"}":
                return
            line, self._lines = b"".join(self._lines), []
        self._size = 0
        if line:
            self._message(line)

    def _message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        match message:
            case {"QMP": {"version": dict(version)}}:
                self.version = _greeting(version)
            case {"event": str(name)}:
                self.events.append(Event(name, message.get("data") or {}))
            case {"return": _, "id": int(number)} | {"error": _, "id": int(number)}:
                self._answers[number] = message
            case {"return": _} | {"error": _}:
                pass  # to nothing that we have asked
            case _:
                raise QmpError(f"no QMP server: it says '{printable(line, 60)}'")


def _nothing(answer: Json) -> None:
    if answer != {}:
        raise ValueError


def _text(answer: Json) -> str:
    """Text of QEMU's; raises ValueError for what has no bytes (JSON's lone surrogates)."""
    text = str(answer)
    text.encode()
    return text


def _chardevs(answer: Json) -> tuple[CharInfo, ...]:
    return tuple(
        CharInfo(_text(row["label"]), _text(row["filename"]), bool(row["frontend-open"]))
        for row in answer
    )


def _name(answer: Json) -> str | None:
    return _text(answer["name"]) if "name" in answer else None


def _version(answer: Json) -> Version:
    numbers, package = answer["qemu"], answer.get("package")
    a, b, c = int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"])
    return Version((a, b, c), f"{a}.{b}.{c}" + (f" ({_text(package)})" if package else ""))


def _greeting(version: dict[str, Any]) -> Version:
    try:
        return _version(version)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise QmpError("no QMP server: a greeting of unknown form") from None


def _children(answer: Json) -> list[tuple[str, str]]:
    """Name and type of each child in the answer to qom-list; its other properties have none."""
    rows = ((_text(row["name"]), re.fullmatch(r"child<(.*)>", row["type"])) for row in answer)
    return [(name, match[1]) for name, match in rows if match]


CAPABILITIES = Command("qmp_capabilities", {}, _nothing)
CHARDEVS = Command("query-chardev", {}, _chardevs)
NAME: Command[str | None] = Command("query-name", {}, _name)
VERSION = Command("query-version", {}, _version)
STATUS: Command[str] = Command("query-status", {}, lambda answer: _text(answer["status"]))


def children(path: str) -> Command[list[tuple[str, str]]]:
    """What is at a place of QEMU's tree of objects."""
    return Command("qom-list", {"path": path}, _children)


def chardev_of(path: str) -> Command[str]:
    """The chardev of the device at a path; refused if it can't have one."""
    return Command("qom-get", {"path": path, "property": "chardev"}, _text)


def send_break(chardev: str) -> Command[None]:
    return Command("chardev-send-break", {"id": chardev}, _nothing)


@dataclass(frozen=True, slots=True)
class Listening:
    """What a socket chardev is told besides its address."""

    websocket: bool = True
    telnet: bool = False
    logfile: str | None = None


def change_tcp(chardev: str, host: str, port: int, how: Listening = Listening()) -> Command[None]:
    """Let a chardev listen anew, which ends whatever locks it; port 0 is any that is free.

    To another port: the old one is "already in use", by QEMU itself.
    """
    address = {"type": "inet", "data": {"host": host, "port": str(port)}}
    return _change(chardev, address, how)


def change_unix(chardev: str, path: str, how: Listening = Listening()) -> Command[None]:
    """As change_tcp, to another path."""
    return _change(chardev, {"type": "unix", "data": {"path": path}}, how)


def _change(chardev: str, address: dict[str, Any], how: Listening) -> Command[None]:
    data: dict[str, Any] = {"addr": address, "server": True, "wait": False}
    data |= {"websocket": how.websocket, "telnet": how.telnet}
    if how.logfile is not None:
        data |= {"logfile": how.logfile, "logappend": True}
    backend = {"type": "socket", "data": data}
    return Command("chardev-change", {"id": chardev, "backend": backend}, lambda _: None)
