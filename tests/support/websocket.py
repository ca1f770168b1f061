"""The websocket endpoint from outside: a service that has one, and its clients' words."""

import re
import signal
from base64 import b64encode
from pathlib import Path
from typing import Self

from websockets.frames import Close, CloseCode, Frame, Opcode

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.user import User

TOKEN = "0123456789abcdef-~._"
UPGRADE = {
    "Host": "127.0.0.1:4600",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": b64encode(bytes(16)).decode(),
}


def head(target: str = "/vm1", headers: dict[str, str] | None = None, more: str = "") -> bytes:
    lines = "".join(f"{k}: {v}\r\n" for k, v in (UPGRADE if headers is None else headers).items())
    return f"GET {target} HTTP/1.1\r\n{lines}{more}\r\n".encode()


def masked(data: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


def close(code: CloseCode, reason: str = "") -> bytes:
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)


def read_frame(client: Client) -> tuple[int, bytes]:
    """Opcode and payload of a final frame."""
    first, length = client.read_exactly(2)
    assert first & 0x80
    if length == 126:
        length = int.from_bytes(client.read_exactly(2), "big")
    return first & 0x0F, client.read_exactly(length)


def read_payload(client: Client, size: int) -> bytes:
    """What the frames of exactly ``size`` bytes hold."""
    payload = b""
    while len(payload) < size:
        payload += read_frame(client)[1]
    return payload


LINE = r"^websocket: ws://127\.0\.0\.1:(\d+)/NAME$"


class Service:
    """``ttybridge run`` with consoles ``vm1``, ``vm2``, ... and a websocket port; a context."""

    def __init__(self, user: User, directory: Path, *urls: str, service: str = "") -> None:
        self._file = directory / "config.toml"
        self._urls = urls
        self.configure(service or 'websocket = "auto"')
        self.bridge = Bridge(user, directory / "run", "--config", str(self._file))
        self.bridge.wait_message(LINE)
        for number, _ in enumerate(urls, 1):
            self.bridge.wait_message(f"^vm{number}: ONLINE$")
        self.token = directory / "run" / ".token"

    def configure(self, service: str, *, consoles: int | None = None) -> None:
        text = f"[service]\n{service}\n"
        for number, url in enumerate(self._urls[:consoles], 1):
            text += f'[consoles.vm{number}]\nurl = "{url}"\ninput = "direct"\n'
        self._file.write_text(text)
        self._file.chmod(0o644)

    def reload(self) -> str:
        """Have the file read again; return what is said of it."""
        before = len(self.bridge.messages)
        self.bridge.process.send_signal(signal.SIGHUP)
        said = self.bridge.wait_message("^(not )?reloaded: ", after=before)
        return self.bridge.messages[said - 1]

    @property
    def port(self) -> int:
        """The one that was announced last."""
        ports = [m[1] for line in self.bridge.messages if (m := re.match(LINE, line))]
        return int(ports[-1])

    def url(self, name: str = "vm1") -> str:
        return f"ws://127.0.0.1:{self.port}/{name}"

    def client(self, target: str = "/vm1", headers: dict[str, str] | None = None) -> Client:
        """A bare socket that has said its request."""
        host = {"Host": f"127.0.0.1:{self.port}"}
        client = Client(("127.0.0.1", self.port))
        client.type(head(target, (UPGRADE if headers is None else headers) | host))
        return client

    def answer(self, target: str = "/vm1", headers: dict[str, str] | None = None) -> bytes:
        """All that a request is told, or, if it becomes a websocket, the head of it."""
        with self.client(target, headers) as client:
            head = client.read_until(b"\r\n\r\n")
            return head if head.startswith(b"HTTP/1.1 101 ") else head + client.read_to_end()

    def status(self, target: str = "/vm1", headers: dict[str, str] | None = None) -> int:
        return int(self.answer(target, headers).split()[1])

    def opened(self, target: str = "/vm1") -> Client:
        """One that is attached."""
        client = self.client(target)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.bridge.__exit__(kind, *rest)
