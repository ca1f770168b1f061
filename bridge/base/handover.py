"""What one process leaves to the next so that nobody notices: descriptors, and what they mean.

Each object that lives on writes its own part of the record (``state``) and is made anew
from it (``restore``).  The record is JSON; it names descriptors and refers to byte
strings that lie beside it, for a thousand scrollbacks would not fit JSON well.
"""

import enum
from typing import Any

Record = dict[str, Any]


class Ending(enum.Enum):
    """Why a console's tasks are cancelled: set before the cancellation, which cannot carry it."""

    LEAVE = "leave"  # QEMU is left properly, everything is closed
    HAND_OVER = "hand over"  # nothing is closed; another process goes on


class RecordError(Exception):
    """The record cannot be used."""


class Bag:
    """Descriptors by name and byte strings by place, being packed or unpacked."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}
        self.upstreams: set[str] = set()
        """Names of those that are connections to QEMU, which must not just be closed."""
        self.blobs = bytearray()

    def put(self, fd: int, *, upstream: bool = False) -> str:
        """Take ``fd`` along; return its name."""
        name = f"f{len(self.fds)}"
        self.fds[name] = fd
        if upstream:
            self.upstreams.add(name)
        return name

    def take(self, name: str) -> int:
        """The descriptor of that name, which is the caller's from now on; raises RecordError."""
        try:
            return self.fds.pop(name)
        except KeyError:
            raise RecordError(f"descriptor '{name}' is missing") from None

    def put_bytes(self, data: bytes) -> list[int]:
        """Take ``data`` along; return where it is."""
        place = [len(self.blobs), len(data)]
        self.blobs += data
        return place

    def take_bytes(self, place: list[int]) -> bytes:
        start, length = place
        return bytes(self.blobs[start : start + length])


# A part of the record, and the bag that it refers to.
Left = tuple[Record, Bag]
