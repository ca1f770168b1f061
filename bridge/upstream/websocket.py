"""RFC 6455 as QEMU speaks it, without I/O.

``websockets`` does the handshake, control frames, fragments and masking.  Its ClientProtocol
would also do the data, but at a few microseconds a frame: QEMU's UART sends every byte as
a frame of its own, up to 95 000 a second.  So whole, final, unmasked binary frames
are peeled off the buffer here, a run of equally long ones by a handful of slices, and
ClientProtocol sees only what is left, whole frames at a time: the undecoded tail of the
stream is always one bytes object of ours.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

from bridge.base.printable import printable
from bridge.settings.url import TcpAddress, UpstreamUrl
from bridge.upstream.protocol import End, Retry
from bridge.upstream.stranger import WANTS_TLS, judge

# QEMU sends at most 8192 bytes a frame; other servers may send more, but not without end.
MAX_FRAME = 1 << 20
MAX_HEAD = 16 * 1024

_PLAIN = 0x82  # FIN, no reserved bit, opcode 2 (RFC 6455, 5.2)
_OPCODES = frozenset(Opcode)
_FIRST_LOOK = 16

# It would log each frame at DEBUG: what is typed, passwords too, and headers' secrets.
_SILENT = logging.getLogger("ttybridge.websockets")
_SILENT.setLevel(logging.CRITICAL + 1)

_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
)


class Wire:
    """A ``protocol.Speech``: one connection's protocol state."""

    greets = True
    missing = ""

    def __init__(self, url: UpstreamUrl, headers: Iterable[tuple[str, str]] = ()) -> None:
        # A Unix socket's Host may be anything (RFC 9112, 3.2 wants one).
        host, port = "localhost", 80
        if isinstance(url.address, TcpAddress):
            host, port = url.address.host, url.address.port
        path, _, query = url.resource.partition("?")
        # QEMU takes a client that asks for `binary` or for nothing; its first versions
        # insisted on the former.  No extensions: QEMU has none.
        self._protocol = ClientProtocol(
            WebSocketURI(url.tls, host, port, path, query),
            subprotocols=[Subprotocol("binary")],
            max_size=(None, MAX_FRAME),
            logger=_SILENT,
        )
        self._url = url
        self._headers = headers
        self._tail = bytearray()
        self._wanted = 1  # bytes the tail must reach before another look at it can help
        self._fragmented = False  # between the first and the last frame of a message
        self.open = False
        """The handshake is done."""
        self.frames = 0
        self.end: End | None = None

    def state(self) -> Mapping[str, object]:
        return {
            "key": self._protocol.key,
            "open": self.open,
            "fragmented": self._fragmented,
            "tail": self._tail.hex(),
        }

    @classmethod
    def restore(cls, url: UpstreamUrl, state: Mapping[str, Any]) -> Self:
        """The one whose ``state`` this was.

        ClientProtocol cannot be made in the midst of a connection, so it is led there: by
        the same request, and by what the server must have sent.
        """
        self = cls(url)
        self._protocol.key = state["key"]
        self.hello()  # was sent
        if state["open"]:
            self._tail += _ANSWER % accept_key(state["key"]).encode()
            self._receive_head()
        if state["fragmented"]:
            self._receive_odd(b"\x02\x00", [])  # a first frame, empty and not final
        self._tail[:] = bytes.fromhex(state["tail"])
        return self

    def hello(self) -> bytes:
        """The handshake request."""
        request = self._protocol.connect()
        for name, value in self._headers:
            request.headers[name] = value
        self._protocol.send_request(request)
        return self._outgoing()

    def send(self, payload: bytes) -> bytes:
        """One masked, final, binary frame."""
        return Frame(Opcode.BINARY, payload).serialize(mask=True)

    def interrupt(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Take ``data`` from the network; return (payload, bytes to send back)."""
        if not self.open:
            self._tail += data
            self._receive_head()
            data = b""
        if not self.open or self.end or len(self._tail) + len(data) < self._wanted:
            self._tail += data
            return b"", b""
        buffer = bytes(self._tail) + data if self._tail else data
        payload: list[bytes] = []
        reply = b""
        at = 0
        while not self.end:
            if not self._fragmented:
                at, count = peel(buffer, at, payload)
                self.frames += count
            self._wanted = frame_size(buffer, at)
            if self._wanted > len(buffer) - at:
                break
            self.frames += 1
            reply += self._receive_odd(buffer[at : at + self._wanted], payload)
            at += self._wanted
        self._tail[:] = buffer[at:]
        return b"".join(payload), reply

    def receive_eof(self) -> None:
        """The network's stream is over; ``end`` says what that means."""
        if self.end:
            return
        if self.open:
            self.end = End("the connection was closed (the VM is gone)")
        elif self._tail:
            # QEMU's 400 comes without the blank line that ends a head.
            self.end = judge(bytes(self._tail), self._url)
        else:
            self.end = End("the connection was closed without an answer")

    def receive_loss(self, end: End) -> None:
        """The connection is lost, which is such an ``end``."""
        # QEMU resets one that speaks no TLS to it.
        early = not self.open and not self._tail and not self._url.tls
        self.end = replace(end, reason=f"{end.reason}; {WANTS_TLS}") if early else end

    def _receive_head(self) -> None:
        """Complete the handshake if the response's head is whole, or end."""
        if not b"HTTP/1.".startswith(self._tail[:7]):
            self.end = judge(bytes(self._tail), self._url)
            return
        head, separator, rest = bytes(self._tail).partition(b"\r\n\r\n")
        if not separator:
            if len(head) > MAX_HEAD:
                self.end = End(f"the answer's head is longer than {MAX_HEAD} bytes", Retry.NO)
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self.end = judge(bytes(self._tail), self._url)
            return
        self._protocol.receive_data(head + separator)
        self._protocol.events_received()
        if self._protocol.handshake_exc is not None:
            # A 101 whose headers are wrong.
            self.end = End(
                f"not a websocket: {printable(str(self._protocol.handshake_exc))}", Retry.NO
            )
            return
        self.open = True
        self._tail[:] = rest
        self._wanted = 1

    def _receive_odd(self, frame: bytes, payload: list[bytes]) -> bytes:
        """Let ClientProtocol judge a frame that is not plain data; return the reply."""
        self._protocol.receive_data(frame)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            match event.opcode:
                case Opcode.BINARY | Opcode.TEXT | Opcode.CONT:
                    payload.append(bytes(event.data))
                    self._fragmented = not event.fin
                case Opcode.CLOSE:
                    close = Close.parse(event.data)
                    self.end = End(f"closed by the server: {printable(str(close))}")
                case _:  # a PING has been answered; a PONG we never asked for
                    pass
        if self._protocol.parser_exc is not None:
            violation = type(self._protocol.parser_exc).__name__
            text = printable(str(self._protocol.parser_exc))
            self.end = End(f"the server sent what is not accepted: {violation}: {text}")
        return self._outgoing()

    def _outgoing(self) -> bytes:
        return b"".join(self._protocol.data_to_send())


def peel(buffer: bytes, at: int, payload: list[bytes]) -> tuple[int, int]:
    """Append the payload of the plain frames from ``at`` on; return (where they end, how many).

    A frame is plain if it is whole, final, binary and unmasked.  Costs a few slices per
    run of equally long small frames, one slice for each larger frame.
    """
    end, frames = len(buffer), 0
    while at + 2 <= end and buffer[at] == _PLAIN:
        length = buffer[at + 1]
        if length < 126 and at + 2 + length <= end:
            size = 2 + length
            count = _run(buffer, at, size)
            payload.append(_strip(buffer, at, size, count))
            at += count * size
            frames += count
        elif length == 126 and at + 4 <= end:
            head = buffer[at : at + 4]
            size = 4 + (head[2] << 8 | head[3])
            if at + size > end:
                break
            while at + size <= end and buffer.startswith(head, at):
                payload.append(buffer[at + 4 : at + size])
                at += size
                frames += 1
        else:
            break  # masked, beyond 64 KiB, or not all here
    return at, frames


def _run(buffer: bytes, at: int, size: int) -> int:
    """Count the whole frames from ``at`` that have the same two bytes of header.

    Looks at 16 first and at four times as many after each success, so that a mixture of
    lengths does not cost a look at the whole buffer for each frame.
    """
    available = (len(buffer) - at) // size
    flags, length = buffer[at : at + 1], buffer[at + 1 : at + 2]
    count, look = 0, _FIRST_LOOK
    while count < available:
        start = at + count * size
        n = min(look, available - count)
        stop = start + n * size
        firsts, seconds = buffer[start:stop:size], buffer[start + 1 : stop : size]
        if firsts != flags * n or seconds != length * n:
            # Where the run ends; to strip costs sixty times what it costs to compare.
            return count + n - max(len(firsts.lstrip(flags)), len(seconds.lstrip(length)))
        count += n
        look *= 4
    return count


def _strip(buffer: bytes, at: int, size: int, count: int) -> bytes:
    """The payload of ``count`` frames of ``size`` bytes with two bytes of header each."""
    stop = at + count * size
    length = size - 2
    if length == 1:
        return buffer[at + 2 : stop : size]
    if count < length:
        return b"".join(buffer[i + 2 : i + size] for i in range(at, stop, size))
    # More frames than columns: move column by column, each one slice to slice.
    stripped = bytearray(count * length)
    for column in range(length):
        stripped[column::length] = buffer[at + 2 + column : stop : size]
    return bytes(stripped)


def frame_size(buffer: bytes, at: int) -> int:
    """Bytes from ``at`` that the frame has, or that are needed to know (RFC 6455, 5.2).

    For a frame that ClientProtocol refuses from its header (masked, of no known opcode,
    beyond MAX_FRAME) only as much as shows that; the rest may never come.
    """
    available = len(buffer) - at
    if available < 2:
        return 2
    masked, length = buffer[at + 1] & 0x80, buffer[at + 1] & 0x7F
    if masked or buffer[at] & 0x0F not in _OPCODES:
        return 2
    header = 2 + (0, 2, 8)[max(0, length - 125)]
    if available < header:
        return header
    if length == 126:
        length = int.from_bytes(buffer[at + 2 : at + 4], "big")
    elif length == 127:
        length = int.from_bytes(buffer[at + 2 : at + 10], "big")
    return header + length if length <= MAX_FRAME else header
