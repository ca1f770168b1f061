"""Telnet within what is spoken to the server: its only word that we want is BREAK.

QEMU's telnet (chardev ``telnet=on``, in a websocket or not) is a greeting and no more: it
takes our IACs as RFC 854 has them, but sends the guest's 0xff as a single one, and cares
for no answer.  So from a server that greets as QEMU does all bytes are the guest's.  With
any other one telnet.Telnet negotiates.
"""

from collections.abc import Mapping
from typing import Any, Self

from bridge.base.telnet import Code, Telnet
from bridge.upstream.protocol import End, Retry, Speech

IAC = bytes([Code.IAC])

# WILL ECHO, WILL SGA, WILL BINARY, DO BINARY (chardev/char-socket.c:tcp_chr_telnet_init).
QEMU_GREETING = bytes.fromhex("fffb01 fffb03 fffb00 fffd00")

NO_TELNET = 'what answers does not speak telnet; has the chardev telnet=on? (upstream = "telnet")'


class TelnetSpeech:
    """A ``protocol.Speech`` within another one."""

    def __init__(self, below: Speech) -> None:
        self._below = below
        self._first = b""  # of the server's bytes, until they tell what it is
        self._literal: bool | None = None  # all that comes are the guest's bytes
        self._engine = Telnet.client()
        self.open = False
        self.frames = 0
        self.end: End | None = None

    @property
    def greets(self) -> bool:
        return self._below.greets

    @property
    def missing(self) -> str:
        return NO_TELNET if self._below.open else ""

    def state(self) -> Mapping[str, object]:
        return {
            "below": self._below.state(),
            "open": self.open,
            "first": self._first.hex(),
            "literal": self._literal,
            "engine": self._engine.state(),
        }

    @classmethod
    def restore(cls, below: Speech, state: Mapping[str, Any]) -> Self:
        """The one whose ``state`` this was; ``below`` is restored already."""
        self = cls(below)
        self.open = state["open"]
        self._first, self._literal = bytes.fromhex(state["first"]), state["literal"]
        self._engine = Telnet.restore(state["engine"])
        return self

    def hello(self) -> bytes:
        return self._below.hello()

    def send(self, payload: bytes) -> bytes:
        wire = payload.replace(IAC, IAC + IAC) if self._literal else self._engine.encode(payload)
        return self._below.send(wire)

    def interrupt(self) -> bytes:
        return self._below.send(bytes([Code.IAC, Code.BRK]))

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        payload, reply = self._below.receive(data)
        self.frames, self.end = self._below.frames, self._below.end
        if self._literal is None:
            payload = self._judge(payload)
        if self._literal or not payload or self.end is not None:
            return payload, reply
        events, answer = self._engine.decode(payload)
        text = b"".join(event for event in events if isinstance(event, bytes))
        return text, reply + (self._below.send(answer) if answer else b"")

    def _judge(self, payload: bytes) -> bytes:
        """Learn from the server's first bytes which telnet it speaks; return what is left."""
        self._first += payload
        size = len(QEMU_GREETING)
        if not self._first or QEMU_GREETING.startswith(self._first[:size]):
            if len(self._first) < size:
                return b""  # to be continued
            self._literal, payload = True, self._first[size:]
        elif self.greets and not self._first.startswith(IAC):
            self.end = End(NO_TELNET, Retry.NO)
            return b""
        else:
            self._literal, payload = False, self._first
        self._first = b""
        self.open = True
        return payload

    def receive_loss(self, end: End) -> None:
        self._below.receive_loss(end)
        self.end = self._below.end

    def receive_eof(self) -> None:
        self._below.receive_eof()
        self.end = self.end or self._below.end
