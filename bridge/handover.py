"""What one process leaves to the next so that nobody notices: descriptors, and what they mean.

A record is JSON; it names descriptors and refers to byte strings that lie behind it, for a
thousand scrollbacks would not fit JSON well.  Each object that lives on writes its own
part (``state``) and is made anew from it (``restore``).  A record of another format is
refused as a whole: better a plain start than half an understanding.
"""

import enum
import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn, Self

FORMAT = 1

# Where the next process finds the descriptor of the record, after exec(2).
VARIABLE = "TTYBRIDGE_HANDOVER"

# How long QEMU may take to let go of a connection that nobody takes over.
LEAVE_LIMIT = 0.7

Record = dict[str, Any]

log = logging.getLogger("ttybridge")


class Ending(enum.Enum):
    """Why a console's tasks are cancelled: set before the cancellation, which cannot carry it."""

    LEAVE = "leave"  # QEMU is left properly, everything is closed
    HAND_OVER = "hand over"  # nothing is closed; another process goes on


class RecordError(Exception):
    """The record cannot be used."""


class Bag:
    """Descriptors by name and byte strings by place, being packed or unpacked."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._upstreams: set[str] = set()
        self._blobs = bytearray()

    def put(self, fd: int, *, upstream: bool = False) -> str:
        """Take ``fd`` along, a connection to QEMU perhaps; return its name."""
        name = f"f{len(self._fds)}"
        self._fds[name] = fd
        if upstream:
            self._upstreams.add(name)
        return name

    def take(self, name: str) -> int:
        """The descriptor of that name, which is the caller's from now on; raises RecordError."""
        try:
            fd = self._fds.pop(name)
        except KeyError:
            raise RecordError(f"descriptor '{name}' is missing") from None
        os.set_inheritable(fd, False)
        return fd

    def put_bytes(self, data: bytes) -> list[int]:
        """Take ``data`` along; return where it is."""
        place = [len(self._blobs), len(data)]
        self._blobs += data
        return place

    def take_bytes(self, place: list[int]) -> bytes:
        start, length = place
        return bytes(self._blobs[start : start + length])

    def pack(self, record: Record) -> int:
        """Write it all to a file in memory; return its descriptor."""
        head = {
            "format": FORMAT,
            # These two are the same in every format: to refuse one, what is in it must be left.
            "fds": self._fds,
            "upstreams": sorted(self._upstreams),
            "record": record,
        }
        text = json.dumps(head).encode()
        file = os.memfd_create("ttybridge-handover")
        with open(file, "wb", closefd=False) as stream:
            stream.write(len(text).to_bytes(8, "big") + text + self._blobs)
        return file

    @classmethod
    def unpack(cls, file: int) -> tuple[Record, Self]:
        """Read what ``pack`` wrote, and close ``file``.

        Raises RecordError, with the descriptors in the file left and closed.
        """
        with open(file, "rb") as stream:
            stream.seek(0)
            data = stream.read()
        self = cls()
        try:
            length = int.from_bytes(data[:8], "big")
            head = json.loads(data[8 : 8 + length])
            self._fds, self._upstreams = dict(head["fds"]), set(head["upstreams"])
            self._blobs = bytearray(data[8 + length :])
            if head["format"] != FORMAT:
                raise RecordError(f"its format is {head['format']}, ours {FORMAT}")
            return dict(head["record"]), self
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError("it cannot be read") from error
        except RecordError:
            self.leave()
            raise

    def leave(self) -> None:
        """Close what nobody took; QEMU is left as it must be (transport.py says why)."""
        connections = [
            socket.socket(fileno=self._fds.pop(n)) for n in self._upstreams & self._fds.keys()
        ]
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        _leave_all(connections)

    def become(self, record: Record) -> NoReturn:
        """Replace this process by a new one of the same command line, which gets it all."""
        file = self.pack(record)
        for fd in [*self._fds.values(), file]:
            os.set_inheritable(fd, True)
        environment = os.environ | {VARIABLE: str(file)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 (no shell is wanted)


def inherit() -> tuple[Record, Bag] | None:
    """What the process before has left, if it was the same service; None for a plain start."""
    file = os.environ.pop(VARIABLE, None)
    if file is None:
        return None
    try:
        return Bag.unpack(int(file))
    except (RecordError, OSError, ValueError) as error:
        log.warning("what the service before has left is not used: %s", error)
        return None


def _leave_all(connections: Iterable[socket.socket]) -> None:
    """End our side of each, and read until QEMU has ended its own."""
    deadline = time.monotonic() + LEAVE_LIMIT
    left = set()
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_WR)
            left.add(connection)
        except OSError:  # gone
            connection.close()
    while left and (wait := deadline - time.monotonic()) > 0:
        for connection in select.select(left, [], [], wait)[0]:
            try:
                gone = not connection.recv(1 << 16)
            except OSError:
                gone = True
            if gone:
                left.discard(connection)
                connection.close()
    for connection in left:
        connection.close()
