"""The websocket endpoint without I/O: who is let in by HTTP, and RFC 6455 as a Codec.

A web page in the user's own browser can open a websocket to any local port, so ownership
alone says nothing here.  What tells a page from a program is the Origin that every
browser sends and no page can leave out (RFC 6455, 10.2; RFC 6454, 7).  And a page whose
own name was made to lead to 127.0.0.1 (DNS rebinding) is known by the Host it asks for.

``websockets``' ServerProtocol judges the handshake and every frame.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Self, TypedDict
from urllib.parse import parse_qs, unquote

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from bridge.base.codec import Signal
from bridge.base.printable import printable

MAX_HEAD = 16 * 1024
HEAD_END = b"\r\n\r\n"

# Of one frame: a whole burst as a rule, and a length that fits into the short header, which
# our own de-framing takes off by a slice.
MAX_PAYLOAD = 32 * 1024

HOSTS = ("127.0.0.1", "localhost")

# What the token looks like in the list of subprotocols: no browser lets a page set a header.
TOKEN_PREFIX = "token."  # noqa: S105 (no secret)

_FIN = 0x80
_MASKED = 0x80
_DATA = {Opcode.CONT, Opcode.TEXT, Opcode.BINARY}
_CONTROL = {Opcode.CLOSE, Opcode.PING, Opcode.PONG}
_MAX_CONTROL = 125  # RFC 6455, 5.5

# Its own would print a line per connection, and, at DEBUG, the token and all that is typed.
_QUIET = logging.getLogger("ttybridge.websockets")
_QUIET.disabled = True

_GREETING = """\
ttybridge: serial consoles by websocket, each at its name: /NAME
"""


class NotUpgradedError(Exception):
    """The request has an answer, which is all that it gets.

    ``warning`` is for the log where somebody tried what is not allowed; no secret is in it.
    """

    def __init__(self, response: Response, warning: str = "") -> None:
        super().__init__(response.reason_phrase)
        self.warning = warning
        self.status = response.status_code
        # What is said here is said to this client alone, and is text whatever is in it.
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        self.answer: bytes = response.serialize()
        """All of the HTTP response; the connection ends with it."""

    @classmethod
    def of(cls, status: int, text: str, warning: str = "") -> Self:
        return cls(_server().reject(status, f"{text}\n"), warning)


@dataclass(frozen=True, slots=True)
class Door:
    """What a request must know."""

    port: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for."""

    name: str
    """A console's; empty for the only one there is."""
    readonly: bool = False


class Handshake:
    """One request, from its ``head`` (up to the empty line and with it): ``wish``, ``accept``.

    Each, and the making, raises NotUpgradedError or nothing, whatever the bytes are.
    """

    def __init__(self, head: bytes) -> None:
        self._protocol = _server()
        self._protocol.receive_data(head)
        request = next(iter(self._protocol.events_received()), None)
        if not isinstance(request, Request):
            raise NotUpgradedError.of(400, "not an HTTP request")
        self._request = request

    def wish(self, door: Door) -> Wish:
        """What this request, if it may ask, asks for."""
        for rule in _RULES:
            rule(self._request, door)
        readonly = _query(self._request).get("readonly", ["0"])[-1] != "0"
        return Wish(unquote(_path(self._request)[1:]), readonly)

    def accept(self) -> "ServerCodec":
        """Become a websocket."""
        response = self._protocol.accept(self._request)
        if response.status_code != 101:
            raise NotUpgradedError(response)
        self._protocol.send_response(response)
        return ServerCodec(self._protocol)


def _right_target(request: Request, _door: Door) -> None:
    if not request.path.startswith("/"):
        raise NotUpgradedError.of(400, "the target must be a path")


def _right_host(request: Request, door: Door) -> None:
    hosts = request.headers.get_all("Host")
    if len(hosts) != 1:  # RFC 9112, 3.2
        raise NotUpgradedError.of(400, "one Host is wanted")
    allowed = {f"{name}:{door.port}" for name in HOSTS} | (set(HOSTS) if door.port == 80 else set())
    if hosts[0].lower() not in allowed:
        raise NotUpgradedError.of(
            403,
            f"no such host here; allowed: {', '.join(sorted(allowed))}",
            f"refused a request for the host '{printable(hosts[0])}'",
        )


def _right_origin(request: Request, door: Door) -> None:
    origins = request.headers.get_all("Origin")
    if origins and not _has_token(request, door.token):
        raise NotUpgradedError.of(
            403,
            "a web page, or whoever else sends an Origin, needs the token:"
            f" /NAME?token=TOKEN or the subprotocols binary, {TOKEN_PREFIX}TOKEN",
            f"refused a web page of the origin '{printable(origins[0])}': no token, or a wrong one",
        )


def _wants_console(request: Request, _door: Door) -> None:
    if _path(request) == "/" and "Upgrade" not in request.headers:
        raise NotUpgradedError.of(200, _GREETING.strip())


# In this order: nobody else is told anything.
_RULES: tuple[Callable[[Request, Door], None], ...] = (
    _right_target,
    _right_host,
    _right_origin,
    _wants_console,
)


def _has_token(request: Request, token: str) -> bool:
    offered = [
        protocol.strip().removeprefix(TOKEN_PREFIX)
        for value in request.headers.get_all("Sec-WebSocket-Protocol")
        for protocol in value.split(",")
        if protocol.strip().startswith(TOKEN_PREFIX)
    ]
    offered += _query(request).get("token", [])
    # Bytes that are no UTF-8 are surrogates, by some versions of websockets.
    words = (word.encode(errors="surrogatepass") for word in offered)
    return any(compare_digest(word, token.encode()) for word in words)


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


def _query(request: Request) -> Mapping[str, list[str]]:
    return parse_qs(request.path.partition("?")[2], keep_blank_values=True)


def _server() -> ServerProtocol:
    # No extensions; no limit to a message, for none is ever held whole.
    return ServerProtocol(select_subprotocol=_binary, max_size=None, logger=_QUIET)


def _binary(_protocol: ServerProtocol, offered: object) -> Subprotocol | None:
    """`binary` to who offers it, among whatever; the others do without."""
    assert isinstance(offered, list)
    return Subprotocol("binary") if "binary" in offered else None


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is still to come of a data frame."""

    first: int
    """The first byte of its header."""
    left: int
    mask: bytes

    def cut(self, payload: bytes) -> tuple[bytes, "_Rest | None"]:
        """What has come of it, as a frame of its own; and what is left then."""
        left = self.left - len(payload)
        first = self.first if not left else self.first & ~_FIN
        frame = _header(first, len(payload)) + self.mask + payload
        if not left:
            return frame, None
        turn = len(payload) % 4
        return frame, _Rest(self.first & _FIN, left, self.mask[turn:] + self.mask[:turn])


class CodecState(TypedDict):
    """A ``ServerCodec`` as JSON can hold it."""

    tail: str
    rest: tuple[int, int, str] | None
    fragmented: bool


IDLE: CodecState = {"tail": "", "rest": None, "fragmented": False}
"""The state between two messages."""


class ServerCodec:
    """An open websocket's server side.

    A client may put any number of bytes into one frame.  Like an intermediary (RFC 6455,
    5.4) this hands ServerProtocol each frame's part that has come as a fragment, so that
    what is typed is never held back, nor kept: between two calls there are at most a
    header or a control frame.

    Text is passed on as binary is, unchecked: it is what xterm.js sends, and whether the
    guest expects UTF-8 is the guest's affair.
    """

    def __init__(self, protocol: ServerProtocol) -> None:
        self._protocol = protocol
        self._tail = b""
        self._rest: _Rest | None = None
        self._fragmented = False  # between the first and the last frame of a message

    @property
    def over(self) -> bool:
        """A close frame has been sent, ours or the answer to theirs: no other may follow."""
        return self._protocol.state is not OPEN

    def greeting(self) -> bytes:
        """The answer to the handshake."""
        return self._outgoing()

    def encode(self, data: bytes) -> bytes:
        """``data`` as one binary frame, or as few as will do."""
        if self.over:
            return b""
        for at in range(0, len(data), MAX_PAYLOAD):
            self._protocol.send_binary(data[at : at + MAX_PAYLOAD])
        return self._outgoing()

    def decode(self, data: bytes) -> tuple[list[bytes | Signal], bytes]:
        """Take ``data`` from the network; return (payload, then END if that was all; answer)."""
        buffer, at = self._tail + data, 0
        payload: list[bytes] = []
        while not self.over:
            frame, end = self._next_frame(buffer, at)
            if end == at:
                break
            at = end
            if frame:
                self._receive(frame, payload)
        self._tail = b"" if self.over else buffer[at:]
        events: list[bytes | Signal] = [b"".join(payload)] if any(payload) else []
        if self.over:
            events.append(Signal.END)
        return events, self._outgoing()

    def farewell(self) -> bytes:
        """A close frame, if there was none: the console, or the service, ends."""
        if not self.over:
            self._protocol.send_close(CloseCode.GOING_AWAY)
        return self._outgoing()

    def state(self) -> CodecState:
        """All there is to know of one that is not over, for ``restore`` in another process."""
        rest = self._rest
        return {
            "tail": self._tail.hex(),
            "rest": (rest.first, rest.left, rest.mask.hex()) if rest is not None else None,
            "fragmented": self._fragmented,
        }

    @classmethod
    def restore(cls, state: CodecState) -> Self:
        """The codec whose ``state`` this was; it has no greeting any more."""
        self = cls(ServerProtocol(state=OPEN, max_size=None, logger=_QUIET))
        self._tail = bytes.fromhex(state["tail"])
        if state["rest"] is not None:
            first, left, mask = state["rest"]
            self._rest = _Rest(first, left, bytes.fromhex(mask))
        if state["fragmented"]:
            # As it has seen the beginning of the message: without the FIN, and empty.
            self._receive(_header(Opcode.BINARY, 0) + bytes(4), [])
        return self

    def _next_frame(self, buffer: bytes, at: int) -> tuple[bytes, int]:
        """A frame for ServerProtocol from ``at`` on, if there is one, and where it ends.

        The end is ``at`` if nothing can be done before more bytes come.
        """
        if self._rest is None:
            size, length = _measure(buffer, at)
            if size > len(buffer) - at:
                return b"", at
            if _opcode(buffer, at) not in _DATA or not buffer[at + 1] & _MASKED:
                return self._take_odd(buffer, at, size + length)
            self._rest = _Rest(buffer[at], length, buffer[at + size - 4 : at + size])
            at += size
        end = min(at + self._rest.left, len(buffer))
        if end == at and self._rest.left:
            return b"", at
        frame, self._rest = self._rest.cut(buffer[at:end])
        return frame, end

    def _take_odd(self, buffer: bytes, at: int, size: int) -> tuple[bytes, int]:
        """A control frame, or as much of a wrong one as shows that it is wrong."""
        if _opcode(buffer, at) in _CONTROL and size > 6 + _MAX_CONTROL:
            # ServerProtocol would wait for all of it before it says so.
            self._protocol.fail(CloseCode.PROTOCOL_ERROR, "control frame too long")
            return b"", len(buffer)
        end = at + size
        return (buffer[at:end], end) if end <= len(buffer) else (b"", at)

    def _receive(self, frame: bytes, payload: list[bytes]) -> None:
        self._protocol.receive_data(frame)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in _DATA:
                payload.append(bytes(event.data))
                self._fragmented = not event.fin

    def _outgoing(self) -> bytes:
        return b"".join(self._protocol.data_to_send())


def _opcode(buffer: bytes, at: int) -> int:
    return buffer[at] & 0x0F


def _measure(buffer: bytes, at: int) -> tuple[int, int]:
    """Bytes of header, as far as is known, and of payload (RFC 6455, 5.2).

    Two and none for a frame that is refused for its first two bytes.
    """
    if len(buffer) - at < 2:
        return 2, 0
    length = buffer[at + 1] & 0x7F
    if not buffer[at + 1] & _MASKED or _opcode(buffer, at) not in _DATA | _CONTROL:
        return 2, 0
    width = {126: 2, 127: 8}.get(length, 0)
    if width:
        length = int.from_bytes(buffer[at + 2 : at + 2 + width], "big")
    return 2 + width + 4, length


def _header(first: int, length: int) -> bytes:
    """A masked frame's header, without the mask."""
    if length <= 125:
        return bytes([first, _MASKED | length])
    if length <= 0xFFFF:
        return bytes([first, _MASKED | 126]) + length.to_bytes(2, "big")
    return bytes([first, _MASKED | 127]) + length.to_bytes(8, "big")
