"""Attaching, as a fast program would: a blocking descriptor, to be read and written."""

import os
import select
import signal
import socket
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from fake import END, PATTERN, PERIOD

READ = 256 * 1024
LIMIT = 60.0
_EXPECTED = PATTERN * (READ // PERIOD + 2)


class Attached:
    """An open way to a console."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fd, data) :]

    def read(self, limit: float | None = None) -> bytes:
        """What is there, once there is something; TimeoutError after ``limit`` seconds."""
        if limit is not None and not select.select([self.fd], [], [], limit)[0]:
            raise TimeoutError
        return os.read(self.fd, READ)

    def drain(self, quiet: float = 0.2) -> bytes:
        """Read until nothing has come for ``quiet`` seconds."""
        seen = b""
        try:
            while data := self.read(quiet):
                seen += data
        except TimeoutError:
            pass
        return seen

    def greet(self) -> None:
        """Type until the guest of fake.py echoes; what is typed before it is there is lost."""
        deadline = time.monotonic() + 30
        while True:
            self.write(b"\r")
            try:
                self.read(0.1)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
                continue
            self.drain()
            return

    def flood(self, size: int, count: int) -> "Flood":
        """Let the guest of fake.py print, and read it all; TimeoutError after LIMIT seconds."""
        command = b"flood %d %d\r" % (size, count)
        self.write(command)
        seen = b""
        with alarm(LIMIT):
            while command not in seen:
                seen += self.read()
            flood = Flood(seen.partition(command)[2] or self.read())
            while not flood.ended:
                flood.receive(self.read())
        flood.missing = count - flood.received
        return flood


class Flood:
    """What arrives of a flood, compared with the pattern at C speed; and since when."""

    def __init__(self, first: bytes) -> None:
        self.begin = time.perf_counter()
        self.received = 0
        self.gaps = 0
        self.missing = 0
        self.ended = False
        self._phase = 0  # the byte that should be next
        self.receive(first)

    def receive(self, data: bytes) -> None:
        if data.endswith(END):
            self.ended, self.seconds = True, time.perf_counter() - self.begin
            data = data[:-1]
        self.received += len(data)
        while data != (expected := _EXPECTED[self._phase : self._phase + len(data)]):
            # Some are missing; what follows them begins another run.
            good = next(i for i, byte in enumerate(data) if byte != expected[i])
            self.gaps += 1
            data, self._phase = data[good:], data[good]
        self._phase = (self._phase + len(data)) % PERIOD


class Way(Protocol):
    def open(self) -> int: ...


@dataclass(frozen=True)
class Port:
    """A port of this machine; ``telnet``: the options are settled first."""

    number: int
    telnet: bool = False

    def open(self) -> int:
        """Connect, however long the program takes to listen."""
        deadline = time.monotonic() + 10
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", self.number))
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.telnet:
                _settle(client)
            return client.detach()


@dataclass(frozen=True)
class Pty:
    path: str

    def open(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        return fd


@contextmanager
def attached(way: Way) -> Iterator[Attached]:
    fd = way.open()
    try:
        yield Attached(fd)
    finally:
        os.close(fd)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """TimeoutError within the context after so long; no select per read, which costs."""

    def ring(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_IAC, _DO, _DONT, _WILL, _WONT, _BINARY = 255, 253, 254, 251, 252, 0


def _settle(client: socket.socket) -> None:
    """Agree to binary both ways, to what the server does, and to nothing else (RFC 854, 856)."""
    client.sendall(bytes([_IAC, _DO, _BINARY, _IAC, _WILL, _BINARY]))
    answers = {_WILL: _DO, _DO: _WONT}
    said, deadline = b"", time.monotonic() + 0.5
    while select.select([client], [], [], max(0, deadline - time.monotonic()))[0]:
        said += client.recv(4096)
    for i in range(len(said) - 2):
        if said[i] == _IAC and said[i + 1] in answers and said[i + 2] != _BINARY:
            client.sendall(bytes([_IAC, answers[said[i + 1]], said[i + 2]]))
