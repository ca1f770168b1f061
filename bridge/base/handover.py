"""What one process leaves to the next so that nobody notices: descriptors, and what they mean.

Each object that lives on tells the ``Keeper`` of its descriptors, writes its own part of
the record (``state``) and is made anew from it (``restore``).  The record is JSON; it names
descriptors and refers to byte strings that lie beside it, for a thousand scrollbacks would
not fit JSON well.

A record is whole if it was written at the end, when nothing moved any more: the next
process goes on amid a byte stream.  Else it is a sketch, for the case that the process
dies: who is where, without the bytes that are on their way.
"""

import enum
from collections.abc import Mapping
from typing import Any, Protocol

Record = dict[str, Any]
Bytes = bytes | bytearray | memoryview


class Ending(enum.Enum):
    """Why a console's tasks are cancelled: set before the cancellation, which cannot carry it."""

    LEAVE = "leave"  # QEMU is left properly, everything is closed
    HAND_OVER = "hand over"  # nothing is closed; another process goes on


class RecordError(Exception):
    """The record cannot be used."""


class Role(enum.Enum):
    """What a descriptor is to the service."""

    UPSTREAM = "u"  # a connection to QEMU, which must not just be closed
    PTY = "p"
    LISTENER = "l"
    CLIENT = "c"


class Keeper(Protocol):
    """Sees to it that descriptors outlive the process, however it ends.  Nothing here waits,
    but for ``settle``.
    """

    def keep(self, fd: int, role: Role) -> None:
        """There is a descriptor that is to live on, a new one or one that was left to us."""

    def release(self, fd: int) -> None:
        """It is to live on no more; said before it is closed, for its number is then free."""

    def changed(self) -> None:
        """What ``state`` says of a descriptor is another thing now."""

    async def settle(self) -> None:
        """Return when what was released is closed by whoever kept it."""


class Nobody:
    """A keeper where everything ends with the process."""

    def keep(self, fd: int, role: Role) -> None:
        pass

    def release(self, fd: int) -> None:
        pass

    def changed(self) -> None:
        pass

    async def settle(self) -> None:
        pass


NOBODY = Nobody()


class Bag:
    """Descriptors by name and byte strings by place, being packed or unpacked."""

    def __init__(self, names: Mapping[int, str] | None = None, *, whole: bool = True) -> None:
        """``names`` are those that a keeper has given."""
        self.fds: dict[str, int] = {}
        self.upstreams: set[str] = set()
        """Names of those that are connections to QEMU, which must not just be closed."""
        self.kept: dict[str, int] = {}
        """What a keeper has, by its names for them; most of them are among ``fds``."""
        self.blobs: bytearray | memoryview = bytearray()
        self.whole = whole
        """Else it is a sketch: see the module."""
        self._names = names or {}

    def put(self, fd: int, *, upstream: bool = False) -> str:
        """Take ``fd`` along; return its name."""
        name = self._names.get(fd) or f"f{len(self.fds)}"
        self.fds[name] = fd
        if upstream:
            self.upstreams.add(name)
        return name

    def __contains__(self, name: str) -> bool:
        """Is there a descriptor of that name?  A keeper may not have had room for all."""
        return name in self.fds

    def take(self, name: str) -> int:
        """The descriptor of that name, which is the caller's from now on; raises RecordError."""
        try:
            return self.fds.pop(name)
        except KeyError:
            raise RecordError(f"descriptor '{name}' is missing") from None

    def put_bytes(self, data: bytes) -> list[int]:
        """Take ``data`` along, if it is not a sketch; return where it is."""
        if not self.whole:
            data = b""
        assert isinstance(self.blobs, bytearray)  # a record that was read is not added to
        place = [len(self.blobs), len(data)]
        self.blobs += data
        return place

    def take_bytes(self, place: list[int]) -> bytes:
        start, length = place
        return bytes(self.blobs[start : start + length])


# A part of the record, and the bag that it refers to.
Left = tuple[Record, Bag]
