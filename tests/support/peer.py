"""A websocket client that is not ours: trio-websocket, and bare sockets, against a console."""

import socket
from base64 import b64encode
from typing import Self

HEAD = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
)


class Peer:
    """A client by hand on a blocking socket: says the request, reads frames; a context."""

    def __init__(self, port: int, *, path: str = "/", protocol: str | None = "binary") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        more = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        key = b64encode(bytes(16)).decode()
        self.socket.sendall(HEAD.format(path=path, key=key, more=more).encode())
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def answer(self) -> list[str]:
        """The response's head, line by line, in lower case."""
        lines = []
        while line := self._stream.readline().strip():
            lines.append(line.decode().lower())
        return lines

    def send(self, payload: bytes) -> None:
        """One frame, masked with zeros."""
        assert len(payload) < 126
        self.socket.sendall(bytes([0x82, 0x80 | len(payload)]) + bytes(4) + payload)

    def frame(self) -> bytes:
        """The next frame, header and all."""
        header = self._stream.read(2)
        assert len(header) < 2 or header[1] < 126
        return header + (self._stream.read(header[1]) if len(header) == 2 else b"")

    def leave(self) -> None:
        """As one must: end of stream, then read to the other's."""
        self.socket.shutdown(socket.SHUT_WR)
        while self._stream.read(1 << 16):
            pass
        self.__exit__(None)
