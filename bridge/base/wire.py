"""The control socket's lines, as a client writes and reads them; and what is in them.

``contrib/control.md`` documents both for programs in other languages.  Pure: the commands
move the lines with blocking sockets, ``bridge.api`` does with trio.
"""

import base64
import json
from typing import Any, TypedDict

from bridge.base.errors import AskError, GoneError
from bridge.base.printable import printable


class ServiceStatus(TypedDict):
    """Of the whole service; times are in seconds since the epoch, as everywhere here."""

    version: str
    pid: int
    since: float
    now: float
    """The service's clock."""
    websocket: str | None


class AttachmentStatus(TypedDict):
    """One who is attached to a console."""

    id: int
    kind: str
    peer: str
    writable: bool
    since: float
    typed: float | None
    behind: int


class Typist(TypedDict):
    """Who typed last, be it still attached or not."""

    kind: str
    peer: str
    time: float


class InputStatus(TypedDict):
    """How input is clocked."""

    mode: str
    window: int
    in_flight: int
    sent: int
    echoed: int
    misses: int
    timed: int
    waiting: int


class ByteCounts(TypedDict):
    """What has passed so far."""

    from_guest: int
    to_guest: int
    skipped: int
    discarded: int
    refused: int


class LogStatus(TypedDict):
    """Of a console's log, in bytes."""

    written: int
    missing: int
    failures: int


class ConsoleStatus(TypedDict):
    """All that can be told of a console."""

    name: str
    state: str
    reason: str
    since: float
    url: str
    pty: str | None
    link: str | None
    raw: str | None
    telnet: str | None
    unix: str | None
    pty_readonly: str | None
    raw_readonly: str | None
    attachments: list[AttachmentStatus]
    typed: Typist | None
    input: InputStatus
    bytes: ByteCounts
    log: LogStatus | None
    frames: int
    connections: int
    seconds: dict[str, float]


class Status(TypedDict):
    """The answer to ``status``."""

    service: ServiceStatus
    consoles: list[ConsoleStatus]


class Reloaded(TypedDict):
    """The answer to ``reload``: consoles by name, keys of [service], and what could not be done."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    service: list[str]
    errors: list[str]


def request(do: str, fields: dict[str, object]) -> bytes:
    """The line that asks for ``do``."""
    return json.dumps({"do": do, **fields}).encode() + b"\n"


def keys(data: bytes, *, enter: bool) -> str:
    """What is to be typed, as a request has it."""
    return base64.b64encode(data + b"\r" * enter).decode()


def answer(line: bytes) -> dict[str, Any]:
    """What the line says, which may be cut short; raises AskError, GoneError."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise gone() from error
    if not said["ok"]:
        raise AskError(printable(said["error"], 1000), said["exit"])
    return said


def gone() -> GoneError:
    return GoneError("the service has gone away")


def ended(name: str) -> GoneError:
    """Why an attachment has ended, as far as its client can know."""
    return GoneError(f"{printable(name)}: the console has been removed, or the service has ended")
