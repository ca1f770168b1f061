"""A program on a raw port: types, and reads until it has seen enough."""

import socket
from typing import Self

from tests.support.waiting import eventually


class Client:
    """A TCP or Unix connection; a context."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def type(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> bytes:
        return self.socket.recv(1 << 16)

    def read_until(self, wanted: bytes) -> bytes:
        """Return what came up to ``wanted`` and with it; keep the rest for the next call."""
        while wanted not in self.seen:
            try:
                data = self.receive()
            except TimeoutError:
                raise AssertionError(f"no {wanted!r}, after {self.seen[-200:]!r}") from None
            assert data, f"closed, before {wanted!r}, after {self.seen[-200:]!r}"
            self.seen += data
        end = self.seen.index(wanted) + len(wanted)
        found, self.seen = self.seen[:end], self.seen[end:]
        return found

    def sync(self) -> None:
        """Wait until all output so far has been seen, up to the demo's prompt."""
        Client._syncs += 1
        mark = f"sync-{Client._syncs}"
        self.type(f"echo {mark}\r".encode())
        self.read_until(f"\n{mark}\r\ndemo$ ".encode())

    _syncs = 0

    def ask(self, command: str) -> bytes:
        """What the Linux guest says to ``command``, its next prompt included."""
        self.type(command.encode() + b"\r")
        self.read_until(command.encode() + b"\r\n")
        return self.read_until(b"guest# ")

    def reach_echo(self) -> None:
        """Type until the guest, once booted, returns it; leave nothing behind."""
        self.socket.settimeout(0.3)

        def echoed() -> bool:
            self.type(b"?")
            try:
                return bool(self.receive())
            except TimeoutError:
                return False

        eventually(echoed)
        try:
            while self.receive():
                pass
        except TimeoutError:
            pass
        self.socket.settimeout(30)
        self.seen = b""

    def read_exactly(self, count: int) -> bytes:
        while len(self.seen) < count:
            data = self.socket.recv(1 << 16)
            assert data, f"closed after {len(self.seen)} of {count} bytes"
            self.seen += data
        found, self.seen = self.seen[:count], self.seen[count:]
        return found

    def read_to_end(self) -> bytes:
        """All that comes until the other side closes or resets."""
        found, self.seen = self.seen, b""
        try:
            while data := self.socket.recv(1 << 16):
                found += data
        except ConnectionResetError:
            pass
        return found
