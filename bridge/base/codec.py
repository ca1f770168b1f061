"""What may stand between the guest's bytes and a client's: the face of telnet and websocket."""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol


class Signal(enum.Enum):
    """What a client says that is not a byte."""

    BREAK = "break"
    END = "end"  # no input will follow


class Codec(Protocol):
    """One client's protocol state.  No I/O, and no input makes it raise."""

    def state(self) -> Mapping[str, object]:
        """All that another process needs to go on, as JSON can hold it."""

    def greeting(self) -> bytes:
        """What is sent before anything else."""

    def decode(self, data: bytes) -> tuple[Sequence[bytes | Signal], bytes]:
        """Take what the client sent, cut anywhere; return (input in order, answer)."""

    def encode(self, data: bytes) -> bytes:
        """Return output as the client wants it."""
